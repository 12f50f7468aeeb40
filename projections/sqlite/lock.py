"""The write lock of a SQLite database in a home.

Invariant: one process at a time writes; the lock is that of the file at the path.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

LOCK_POLL_S_MIN, LOCK_POLL_S_MAX = 0.0005, 0.01


class WriteLock:
    """`data/signals.db.lock`, by flock: among threads, tasks and processes alike."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    async def __aenter__(self) -> None:
        import asyncio  # not at the top: `eventlog status` must not wait for it

        poll_s = LOCK_POLL_S_MIN
        while True:
            with suppress(BlockingIOError):
                if (fd := open_locked(self._path, fcntl.LOCK_NB)) is not None:
                    self._fd = fd
                    return
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LOCK_POLL_S_MAX)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The same for code that has no event loop."""
        while (fd := open_locked(self._path)) is None:
            pass
        try:
            yield
        finally:
            os.close(fd)


def open_locked(path: Path, flags: int = 0) -> int | None:
    """The descriptor of a lock file that we hold; None where it was replaced or deleted meanwhile.

    Waits for who holds it; with fcntl.LOCK_NB it raises BlockingIOError instead.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | flags)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd)):
                return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def write_lock(home: Path) -> WriteLock:
    """The lock that whoever writes the database of this home must hold."""
    return WriteLock(home / "data" / "signals.db.lock")
