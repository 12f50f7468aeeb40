"""Reads the projections: SignalStore, filters, as-of, stats, show, active signals, wait.

Invariant: nothing here changes a database.

May import: projections.errors, projection, signals, runtime, sqlite, delivery; eventlog.
"""
