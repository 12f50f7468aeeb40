"""The reference Alpine backend: the server that delivery sends to, on a real PostgreSQL.

    python -m tools.alpine --development --key-file FILE        # a key of its own, written to FILE
    EXTERNAL_SIGNAL_API_KEY=... python -m tools.alpine          # your key
    DATABASE_URL=postgresql://... python -m tools.alpine        # your PostgreSQL

It shares no code with the packages that it checks: it recomputes the hash by itself.

Invariant: it answers as the present Alpine does, with its weaknesses, unless a test makes it
misbehave.
"""
