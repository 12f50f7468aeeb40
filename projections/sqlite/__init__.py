"""The SQLite projection, `data/signals.db`: setup, write lock, transactions, scratch directories.

Invariant: rows and checkpoint change in one transaction.

May import: projections.errors, projection, signals, runtime; eventlog.
"""
