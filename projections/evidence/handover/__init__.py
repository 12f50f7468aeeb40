"""What is handed to outsiders beside single proofs: statements, tiles, the page, the export.

Invariant: nothing that is handed over goes beyond a signed checkpoint.

May import: what projections.evidence may import, and its modules.
"""
