"""Reads durable entries in order: by position, by tailing, in bulk, or as columns.

Invariant: no line beyond the durable end of the log leaves a reader.

May import: eventlog.errors, format, schema, storage, threads.
"""
