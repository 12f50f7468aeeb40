"""The delivery lease: one sender to Alpine for each home, by flock on `run/alpine.lock`.

If an operator deletes that file under a running sender, the next one would lock a file of its own.
So the directory `run/` is locked too, which cannot be removed while it holds files.

Invariant: the holder has the lock of the file that was at the path when it was taken, and that of
the directory.
"""

from pathlib import Path
from typing import Self

from eventlog.plumbing import FileLock
from projections.run_directory import ALPINE_LOCK, run_directory, run_lock


def lock_path(home: Path) -> Path:
    """`run/alpine.lock` of a home."""
    return run_directory(home) / ALPINE_LOCK


class DeliveryLease:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, home: Path) -> Self | None:
        """Takes the lease; None while another process holds it."""
        lock = _lock(home)
        if lock.try_take():
            return cls(lock)
        lock.drop()
        return None

    def release(self) -> None:
        """Lets another process send."""
        self._lock.drop()


def is_held(home: Path) -> bool:
    """Whether a sender runs; True also where this account may not look."""
    return _lock(home).is_held()


def holder(home: Path) -> str:
    """The process that holds the lease, for a message."""
    return _lock(home).holder()


def _lock(home: Path) -> FileLock:
    return run_lock(home, ALPINE_LOCK, covers_directory=True)
