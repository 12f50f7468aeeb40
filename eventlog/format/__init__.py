"""The bytes on disk: lines, segments, compressed segments, durable state. Encodes and decodes;
pure.

Invariant: what is encoded here decodes to the same values, and nothing here touches a disk or a
clock.

May import: eventlog.errors.
"""
