"""Who may send to Alpine: one sender a home, by flock on `data/alpine.lock`.

Invariant: who holds it holds the lock of the file that stands at the path.
"""

import fcntl
import os
from pathlib import Path
from typing import Self

TRIES_MAX = 10  # somebody replaces the lock file again and again


def lock_path(home: Path) -> Path:
    """`data/alpine.lock` of a home."""
    return home / "data" / "alpine.lock"


class SenderLock:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, home: Path) -> Self | None:
        """Takes it; None while somebody else has it."""
        path = lock_path(home)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(TRIES_MAX):
            fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _stands_at(path, fd):
                    return cls(fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        return None

    def release(self) -> None:
        """Lets another one send."""
        os.close(self._fd)


def _stands_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
