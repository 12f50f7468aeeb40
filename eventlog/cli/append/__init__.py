"""The command `append`: lines from a file or a pipe to receipts, on this machine or another one.

Invariant: every input line gets exactly one output line, in order.

May import: everything in eventlog.
"""
