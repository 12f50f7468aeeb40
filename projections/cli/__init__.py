"""The commands of the read side, joined to `eventlog` by entry points.

Invariant: data goes to stdout, messages to stderr; only this package reads the environment.

May import: everything in projections; eventlog.
"""
