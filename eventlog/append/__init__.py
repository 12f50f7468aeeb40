"""Appends entries: validation results to batches, one lock and one fdatasync per group, then
receipts.

Invariant: a receipt is handed out only for an entry that is durable.

May import: eventlog.errors, clock, format, schema, storage, read.
"""
