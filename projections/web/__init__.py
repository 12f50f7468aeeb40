"""The console: pages over one home for a browser, and the JSON that they read.

Invariant: it shows only what is durable, names the entry of each figure, and changes nothing but
what `eventlog parked retry` and `parked discard` change.

May import: everything below it: monitoring, serving, queries, delivery, sqlite, runtime, signals;
eventlog.
"""
