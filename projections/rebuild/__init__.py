"""Rebuilds the signals table from seq 1 and swaps it in.

Invariant: readers see the old table or the new one, whole.

May import: projections.errors, projection, signals, runtime, sqlite, delivery; eventlog.
"""
