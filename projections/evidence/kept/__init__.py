"""The directory `evidence/` of a home, and the locks under which one process at a time works.

Invariant: a checkpoint and a key are never removed and never replaced by others.

May import: projections.evidence.formats, projections.errors, projections.run_directory.
"""
