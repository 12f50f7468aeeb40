"""Signs the head of the log, resumes signing after a restore, and keeps cosignatures.

Invariant: each checkpoint continues the one before it.

May import: projections.evidence.tree, kept and formats.
"""
