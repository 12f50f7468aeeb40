"""Delivers signals to Alpine: outbox, dispatcher, dead letters, lease.

Invariant: a signal counts as delivered only when Alpine has answered stored or duplicate.

May import: projections.errors, projection, signals, runtime, sqlite, alpine; eventlog.
"""
