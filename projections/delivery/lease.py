"""Who may send to Alpine: one sender a home, by flock on `data/alpine.lock`.

Where somebody deletes that file under a running sender, the next one would lock a file of its own.
So the directory `data/` is locked too, which cannot be deleted under what stands in it.

Invariant: who holds it holds the lock of the file that stood at the path when it was taken, and
that of the directory.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from projections.sqlite.lock import open_locked

TRIES_MAX = 10  # somebody replaces the lock file again and again


def lock_path(home: Path) -> Path:
    """`data/alpine.lock` of a home."""
    return home / "data" / "alpine.lock"


class DeliveryLease:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, fd: int, directory_fd: int) -> None:
        self._fd = fd
        self._directory_fd = directory_fd

    @classmethod
    def take(cls, home: Path) -> Self | None:
        """Takes it; None while somebody else has it."""
        path = lock_path(home)
        with suppress(BlockingIOError):
            for _ in range(TRIES_MAX):
                fd = open_locked(path, fcntl.LOCK_NB)
                if fd is None:
                    continue
                try:
                    return cls(fd, _locked(path.parent))
                except BaseException:
                    os.close(fd)
                    raise
        return None

    def release(self) -> None:
        """Lets another one send."""
        os.close(self._directory_fd)
        os.close(self._fd)


def is_held(home: Path) -> bool:
    """Whether somebody sends; True also where this account cannot tell."""
    path = lock_path(home)
    return _is_locked(path) or _is_locked(path.parent)


def _locked(directory: Path) -> int:
    """The descriptor that holds the directory's lock. Raises BlockingIOError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EBADF:  # NFS locks only what is open for writing: the file must do
            os.close(fd)
            raise
    return fd


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
