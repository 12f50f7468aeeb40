"""The `eventlog` command: environment, streams, exit codes.

Invariant: data goes to stdout, messages to stderr, and an expected failure shows no traceback.

May import: everything in eventlog.
"""
