"""The figures of the page Outcomes: closed trades in memory, as of any entry.

Invariant: the figures as of an entry are those of `eventlog stats` as of it.

May import: queries, signals, sqlite; eventlog.
"""
