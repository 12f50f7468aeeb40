"""The objects that the JSON API answers with, each read from the home.

Invariant: an object holds nothing that was recorded after the entry that it names.

May import: monitoring, queries, delivery, sqlite, runtime, signals, serving, run_directory,
web.answers; eventlog.
"""
