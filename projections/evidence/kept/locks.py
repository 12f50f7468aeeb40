"""Locks under which one process at a time works on the evidence of a home.

Invariant: a lock is released when its block ends, and by the death of its process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventlog.plumbing import PollInterval
from projections.errors import ProjectionError
from projections.run_directory import run_lock

LOCK_WAIT_S = 30.0  # half of the time in which systemd wants a sign of life
LOCK_POLL = PollInterval(0.0005, 0.01)


@contextmanager
def held_lock(home: Path, name: str, *, doing: str) -> Iterator[None]:
    """Holds a lock; `doing` says what its holder does. Raises ProjectionError after LOCK_WAIT_S."""
    lock = run_lock(home, name)
    try:
        if not lock.wait_for(LOCK_WAIT_S, LOCK_POLL):
            raise ProjectionError(
                f"{lock.holder()} has been {doing} for {LOCK_WAIT_S:g} s",
                where=str(home),
                do="run this again when it has ended",
            )
        yield
    finally:
        lock.drop()
