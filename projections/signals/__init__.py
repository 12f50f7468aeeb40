"""Turns entries of the log into rows of the signals table. Pure.

Invariant: equal logs give equal rows, live or rebuilt.

May import: projections.errors, projection, hosts; eventlog.
"""
