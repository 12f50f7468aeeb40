"""Tail: reads durable lines as they are appended, by file events and a timer.

A watch may see no events (network file systems, containers), lose some, or end with its directory,
so the log is also read every POLL_S.

Invariant: the lines are those of a LogReader: durable, chained, in order, each once.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import watchfiles

from eventlog.format.segment import Position
from eventlog.read.lines import ReadLines
from eventlog.read.reader import LogReader
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home
from eventlog.threads import run_in_thread, uncancelled

logger = logging.getLogger(__name__)

POLL_S = 0.5  # the longest that a line stays unseen when no file event comes; at most 1 s
UNFINISHED_LINE_WARN_S = 10.0  # an unfinished line that stays for so long is logged
WATCH_STEP_MS = 1  # a batch of file events ends after so long without another
WATCH_DEBOUNCE_MS = 10  # or, while events keep coming, after this
WATCH_TIMEOUT_MS = 1000  # how long the watching thread may outlive its tail
WATCH_RETRY_S_MIN, WATCH_RETRY_S_MAX = 0.1, 5.0


async def tail_batches(
    disk: Disk,
    home: Home,
    *,
    after: int,
    hint: Position | None = None,
    on_watch: Callable[[bool], object] | None = None,
) -> AsyncGenerator[ReadLines, None]:
    """Durable lines after a seq, in bounded lists. Never ends.

    Waits where there is no log yet. Each time there is nothing to read, `on_watch` is called with
    whether a watch was alive. Raises LogCorrupt and LogDiverged.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    watch = _DirectoryWatch(home.log_dir, loop, changed)
    reader: LogReader | None = None
    unfinished = _UnfinishedLineWarning()
    try:
        while True:
            changed.clear()  # before reading: a change during the read causes another read
            if reader is None:
                reader = LogReader(disk, home, after=after, hint=hint)
            found = await uncancelled(run_in_thread(reader.read_joined))
            if found.lines:
                yield found
                continue
            unfinished.check(reader)
            if on_watch is not None and watch.was_started:
                on_watch(watch.is_alive())  # before a restart, which may not help
            watch.ensure_running()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await changed.wait()
    finally:
        watch.stop()
        if reader is not None:
            reader.close()


class _UnfinishedLineWarning:
    """Says once that bytes at the end of the log neither end a line nor go away."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._position = Position(0, 0)
        self._was_logged = False

    def check(self, reader: LogReader) -> None:
        if not reader.unread_bytes or reader.position != self._position:
            self._since_s, self._position, self._was_logged = None, reader.position, False
        if reader.unread_bytes:
            self._since_s = self._since_s or time.monotonic()
            if not self._was_logged and time.monotonic() - self._since_s >= UNFINISHED_LINE_WARN_S:
                self._was_logged = True
                logger.warning(
                    "unfinished_line segment=%d byte_offset=%d bytes=%d",
                    *self._position,
                    reader.unread_bytes,
                )


class _DirectoryWatch:
    """Sets an event when a directory changes; restarted after it has failed."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
        self._path = path
        self._loop = loop
        self._changed = changed
        self._stopped = threading.Event()
        self._inode: tuple[int, int] | None = None
        self._retry_at_s = 0.0
        self._retry_s = WATCH_RETRY_S_MIN
        self._has_failed = False  # and does not work again yet
        self._thread: threading.Thread | None = None

    @property
    def was_started(self) -> bool:
        """Whether a watch was ever started."""
        return self._thread is not None

    def is_alive(self) -> bool:
        """Whether the watch runs, on the directory that is there now."""
        inode = self._inode_now()
        alive = self._thread is not None and self._thread.is_alive()
        return alive and inode is not None and inode == self._inode

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino)

    def ensure_running(self) -> None:
        """Starts a watch on the directory that is there now, unless one runs."""
        inode = self._inode_now()
        if inode is None:
            return  # no log yet: the timer tries again
        if self.is_alive() or time.monotonic() < self._retry_at_s:
            return
        if self.was_started:
            logger.info("watch_restarted path=%s", self._path)
        self.stop()
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, WATCH_RETRY_S_MAX)
        self._inode = inode
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, args=(self._stopped,), name="eventlog-watch", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread: the timer reads the log meanwhile
            self._report_failure(error)

    def stop(self) -> None:
        """Requests the thread's end, which follows within WATCH_TIMEOUT_MS."""
        self._stopped.set()

    def _watch(self, stopped: threading.Event) -> None:
        try:
            for _ in watchfiles.watch(
                self._path,
                watch_filter=None,  # the default ignores paths below .git, .venv ...
                step=WATCH_STEP_MS,
                debounce=WATCH_DEBOUNCE_MS,
                rust_timeout=WATCH_TIMEOUT_MS,
                yield_on_timeout=True,
                stop_event=stopped,
                recursive=False,
                raise_interrupt=False,
            ):
                self._retry_s = WATCH_RETRY_S_MIN
                if self._has_failed:  # at the level of its beginning
                    self._has_failed = False
                    logger.warning("watch_works_again path=%s", self._path)
                self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            pass  # the loop was closed
        except BaseException as error:  # noqa: BLE001  # a panic in watchfiles is no Exception
            self._report_failure(error)

    def _report_failure(self, error: BaseException) -> None:
        if not self._has_failed:  # once, however often it is tried again
            logger.warning("watch_failed path=%s error=%s", self._path, error)
        self._has_failed = True
