"""Verifies a log: re-hashes every line and every signal, and reports.

Invariant: nothing here changes a file.

May import: eventlog.errors, format, schema, storage, read, processes.
"""
