"""The write lock of the table: `run/signals.lock`.

Invariant: one process at a time writes; the lock is that of the file at the path.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from eventlog.plumbing import FileLock, PollInterval, starting_thread
from projections.errors import ProjectionStalled
from projections.run_directory import SIGNALS_LOCK, run_directory, run_lock

logger = logging.getLogger(__name__)

WRITE_POLL = PollInterval(0.0005, 0.01)
REPORT_S = 1.0  # a commit takes milliseconds; only the swap of a rebuild takes longer
REPORT_IN_TASK_S = 10.0  # the same in a daemon, which gives a wait up when it is stopped meanwhile
WAIT_S_MAX = 30.0  # half of the time in which systemd wants a sign of life


class WriteLock:
    """The write lock, by flock: among threads, tasks and processes alike.

    Taking it raises ProjectionStalled after `wait_s_max`, and names the process that holds it.
    """

    def __init__(self, home: Path, *, wait_s_max: float = WAIT_S_MAX) -> None:
        self._home = home
        self._wait_s_max = wait_s_max
        self._lock = self._new_lock()

    async def __aenter__(self) -> None:
        import asyncio  # not at the top: `eventlog status` must not wait for it

        started_s = time.monotonic()
        is_reported = False
        try:
            while not self._lock.try_take():
                waited_s = time.monotonic() - started_s
                if waited_s >= REPORT_IN_TASK_S and not is_reported:
                    is_reported = True
                    self._report_wait()
                if waited_s >= self._wait_s_max:
                    raise self._timeout_error()
                await asyncio.sleep(WRITE_POLL.delay_s(waited_s))
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
        lock = self._new_lock()
        if not lock.try_take():
            lock.drop()
            lock = self._queue()
        try:
            yield
        finally:
            lock.drop()

    def _queue(self) -> FileLock:
        """The lock, taken in the order in which the kernel gives it to those that wait.

        Not by polling, which a writer that takes the lock again and again would starve.
        """
        waiter = _Waiter(self._new_lock())
        try:
            if not waiter.has_ended(REPORT_S):
                self._report_wait()
                if not waiter.has_ended(max(0.0, self._wait_s_max - REPORT_S)):
                    raise self._timeout_error()
            return waiter.taken()
        except BaseException:
            waiter.abandon()
            raise

    def _new_lock(self) -> FileLock:
        return run_lock(self._home, SIGNALS_LOCK)

    def _report_wait(self) -> None:
        logger.warning(
            "waiting_for_lock path=%s holder=%s",
            run_directory(self._home) / SIGNALS_LOCK,
            self._lock.holder(),
        )

    def _timeout_error(self) -> ProjectionStalled:
        return ProjectionStalled(
            f"{self._lock.holder()} has held the lock of the table for {self._wait_s_max:g} s",
            where=str(run_directory(self._home) / SIGNALS_LOCK),
            do="see what that process does: a rebuild ends by itself; end one that hangs",
        )


class _Waiter:
    """Waits for a lock in a thread of its own, because flock takes no limit of time."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self._mutex = threading.Lock()
        self._is_abandoned = False
        self._ended = threading.Event()
        self._error: BaseException | None = None
        with starting_thread():  # daemon: one that was abandoned must not delay the exit
            threading.Thread(target=self._wait, name="write-lock", daemon=True).start()

    def has_ended(self, timeout_s: float) -> bool:
        """Waits until the lock is taken or could not be; False if that takes longer."""
        return self._ended.wait(timeout_s)

    def taken(self) -> FileLock:
        """The lock, held. Raises what taking it raised."""
        if self._error is not None:
            raise self._error
        return self._lock

    def abandon(self) -> None:
        """Lets the thread release the lock, now or when it gets it."""
        with self._mutex:
            self._is_abandoned = True
            if self._ended.is_set():
                self._lock.drop()

    def _wait(self) -> None:
        try:
            while not self._lock.try_take(wait=True):
                pass  # the lock file was replaced each time
        except BaseException as error:  # noqa: BLE001  # it is raised where the lock is awaited
            self._error = error
        with self._mutex:
            if self._is_abandoned or self._error is not None:
                self._lock.drop()
            self._ended.set()


def write_lock(home: Path) -> WriteLock:
    """The lock that a writer of this home's database must hold."""
    return WriteLock(home)
