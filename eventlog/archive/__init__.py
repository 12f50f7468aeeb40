"""Compresses closed segments, backs a home up, and restores it.

Invariant: a file is removed only after its replacement is durable and was read back.

May import: eventlog.errors, format, schema, storage, read, append, verify.
"""
