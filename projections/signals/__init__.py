"""Turns entries into rows of the signals table; pure.

Invariant: equal logs give equal rows, live or rebuilt.

May import: projections.errors, projection, hosts; eventlog.
"""
