"""What may be written: fields, signals, facts, validation and the content hash.

Invariant: validation decides before a byte is written; nothing here touches a disk, a clock or
the environment.

May import: eventlog.errors, eventlog.format.
"""
