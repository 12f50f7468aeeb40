"""Replication to other machines: publishes the log to a stream, and follows one into a replica.

Invariant: a stream gets durable lines only, in order, byte for byte, behind the lines of the same
log.

May import: projections.errors, projection, run_directory, runtime, signals.
"""
