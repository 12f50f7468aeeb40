"""The Merkle tree over the lines of the log, on disk in `data/tree`, and its projection.

Invariant: a leaf is the hash of the line of its place, also where that line is lost.

May import: projections.evidence.kept and formats, projections.projection, run_directory, runtime.
"""
