"""The delivery lease: one sender to Alpine for each home, by flock on `data/alpine.lock`.

If an operator deletes that file under a running sender, the next one would lock a file of its own.
So the directory `data/` is locked too, which cannot be removed while it holds files.

Invariant: the holder has the lock of the file that was at the path when it was taken, and that of
the directory.
"""

from pathlib import Path
from typing import Self

from eventlog.plumbing import FileLock
from projections.sqlite.lock import file_lock


def lock_path(home: Path) -> Path:
    """`data/alpine.lock` of a home."""
    return home / "data" / "alpine.lock"


class DeliveryLease:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, home: Path) -> Self | None:
        """Takes the lease; None while another process holds it."""
        lock = file_lock(lock_path(home), covers_directory=True)
        if lock.try_take():
            return cls(lock)
        lock.drop()
        return None

    def release(self) -> None:
        """Lets another process send."""
        self._lock.drop()


def is_held(home: Path) -> bool:
    """Whether a sender runs; True also where this account may not look."""
    return file_lock(lock_path(home), covers_directory=True).is_held()
