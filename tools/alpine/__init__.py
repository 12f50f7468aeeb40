"""The reference Alpine backend: the other side of delivery, as a real server on PostgreSQL.

    python -m tools.alpine --development --key-file FILE        # a key of its own, written to FILE
    EXTERNAL_SIGNAL_API_KEY=... python -m tools.alpine          # your key
    DATABASE_URL=postgresql://... python -m tools.alpine        # your PostgreSQL

It shares no code with the packages that it is there to check: it recomputes the hash on its own.

Invariant: it answers as today's Alpine does, its weaknesses included, unless told to misbehave.
"""
