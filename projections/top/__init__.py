"""The live terminal view of a home.

Invariant: it reads only, and leaves the terminal as it found it.

May import: everything below it, monitoring included; eventlog.
"""
