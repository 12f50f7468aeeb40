"""Replication to other machines: the mirror, which publishes the log to a stream, and the daemon
that follows a stream into the home of a replica.

Invariant: a stream gets durable lines only, in order, byte for byte, behind the lines of the same
log.

May import: projections.errors, projection, run_directory, runtime, signals.
"""
