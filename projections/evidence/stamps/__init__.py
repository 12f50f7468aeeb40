"""Time stamps of authorities (RFC 3161) over a checkpoint.

Invariant: a stamp that is kept or returned was verified.

May import: projections.evidence.kept and formats. `stamp` and `der_order` are pure.
"""
