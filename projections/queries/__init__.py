"""Reads the projections: SignalStore, as-of, active signals, export, wait.

Invariant: nothing here changes a database.

May import: projections.errors, projection, signals, runtime, sqlite, delivery; eventlog.
"""
