"""Files of a home: the disk protocol, paths, locks, durable state and atomic replacement.

Invariant: no other package opens, syncs, renames or locks a file of the log.

May import: eventlog.errors, eventlog.format.
"""
