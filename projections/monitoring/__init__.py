"""Reports how the log and its projections are doing: status, health, metrics, restore drills.

Invariant: measuring does not disturb what is measured.

May import: everything below it: serving, rebuild, queries, delivery, replication, sqlite, alpine,
runtime, signals; eventlog.
"""
