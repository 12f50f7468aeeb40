"""The SQLite projection: data/signals.db, its set-up, write lock, transactions and scratch files.

Invariant: rows and checkpoint change in one transaction.

May import: projections.errors, projection, signals, runtime; eventlog.
"""
