"""Repairs a log by order of an operator: surveys damage, restores bytes, records losses.

Invariant: only an unacknowledged tail is ever cut, and its bytes are kept.

May import: eventlog.errors, format, schema, storage, read, append, verify.
"""
