"""The daemon: tails the log, applies batches, commits checkpoints.

Invariant: a projection gets each entry once, in order, from its own checkpoint.

May import: projections.errors, projection, hosts; eventlog.
"""
