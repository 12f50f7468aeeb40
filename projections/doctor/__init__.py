"""Checks whether a home and its machine are fit to keep the log safe: `eventlog doctor`.

Invariant: a check changes nothing except files that it creates and removes itself.

May import: everything below it, monitoring included; eventlog.
"""
