"""Checks whether this machine and home can keep the promises.

Invariant: a check changes nothing but files that it creates and removes itself.

May import: everything below it, monitoring included; eventlog.
"""
