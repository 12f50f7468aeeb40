"""The read side: what is derived from the log, disposable and rebuilt from it at any time.

Invariant: nothing here writes to the log or enters `eventlog` but by its front door.
"""
