"""The live terminal view of a home: `eventlog top`.

Invariant: it only reads, and leaves the terminal as it found it.

May import: everything below it, monitoring included; eventlog.
"""
