"""The on-disk format: encodes and decodes lines, segments, compressed segments, durable state.

Invariant: an encoded value decodes to the same value, and nothing here touches a disk or a clock.

May import: eventlog.errors.
"""
