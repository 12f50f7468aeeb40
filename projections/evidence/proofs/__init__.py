"""Proof files of single lines and of growth: how they are made, read, checked and audited.

Invariant: a proof that is returned was verified, whoever made it.

May import: projections.evidence.tree, kept and formats, projections.queries.
"""
