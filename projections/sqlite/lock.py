"""The write lock of a SQLite database in a home.

Invariant: one process at a time writes; the lock is that of the file at the path.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from eventlog.plumbing import FileLock, PollInterval, make_private_dirs

WRITE_POLL = PollInterval(0.0005, 0.01)


def file_lock(path: Path, *, covers_directory: bool = False) -> FileLock:
    """The lock on a file in `data/`, a directory that is made where it is missing."""

    def make_directory() -> None:
        make_private_dirs(path.parent)

    return FileLock(path, prepare=make_directory, covers_directory=covers_directory)


class WriteLock:
    """`data/signals.db.lock`, by flock: among threads, tasks and processes alike."""

    def __init__(self, path: Path) -> None:
        self._lock = file_lock(path)

    async def __aenter__(self) -> None:
        import asyncio  # not at the top: `eventlog status` must not wait for it

        started_s = time.monotonic()
        try:
            while not self._lock.try_take():  # noqa: ASYNC110  # a lock of other processes
                await asyncio.sleep(WRITE_POLL.delay_s(time.monotonic() - started_s))
        except BaseException:
            self._lock.drop()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.drop()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The same for code that has no event loop."""
        try:
            # Not by polling, which a writer that takes the lock again and again would starve.
            while not self._lock.try_take(wait=True):
                pass  # the lock file was replaced each time
            yield
        finally:
            self._lock.drop()


def write_lock(home: Path) -> WriteLock:
    """The lock that a writer of this home's database must hold."""
    return WriteLock(home / "data" / "signals.db.lock")
