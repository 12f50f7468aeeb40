"""The commands `evidence ...`, by which an outsider proves what the log holds.

Invariant: a secret is never an argument.
"""
