"""LogWatch: file events of a log directory, shared by the tails of one event loop.

Invariant: a change after a subscriber has cleared its event sets that event again, as long as the
watch is alive and the subscriber has called `ensure_running` before it waits.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eventlog.read.file_events import FileEvents, open_file_events
from eventlog.storage.home import Home, resolved_home

logger = logging.getLogger(__name__)

# An append changes the segment and, after the sync, the lock record. Both are mostly read at once.
GATHER_S = 0.001
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0  # before a watch that has failed is started again


class LogWatch:
    """Watches the log directory of one home while tails subscribe, restarted after it has failed.

    For one event loop: its methods are called there, and events are set there.
    """

    def __init__(
        self,
        home: str | os.PathLike[str],
        open_events: Callable[[str], FileEvents] = open_file_events,
    ) -> None:
        self._path = Home(os.path.abspath(resolved_home(home))).log_dir
        self._open_events = open_events
        self._created_s = time.monotonic()  # so that the ticks of several homes differ
        self._subscribers: list[asyncio.Event] = []
        self._events: FileEvents | None = None
        self._inode: tuple[int, int] | None = None
        self._gathering: asyncio.TimerHandle | None = None  # until changes are reported
        self._retry_at_s = 0.0
        self._retry_s = RETRY_S_MIN
        self._has_failed = False  # and does not work again yet
        self.was_started = False  # for the current subscribers

    @contextmanager
    def subscription(self) -> Iterator[asyncio.Event]:
        """An event that is set by each change during the block. The watch ends with the last one.

        The watch is started by `ensure_running`.
        """
        changed = asyncio.Event()
        self._subscribers.append(changed)
        try:
            yield changed
        finally:
            self._subscribers = [event for event in self._subscribers if event is not changed]
            if not self._subscribers:
                self._close()
                self.was_started, self._retry_at_s = False, 0.0

    def is_alive(self) -> bool:
        """Whether the watch runs, on the directory that is there now."""
        inode = self._inode_now()
        return self._events is not None and inode is not None and inode == self._inode

    def ensure_running(self) -> bool:
        """Waits for the next change, by a watch on the directory that is there now.

        Returns whether one runs. Changes since the last ones that were reported count. Each
        subscriber calls it before it waits: while all are busy, no change wakes the event loop.
        """
        if not self.is_alive():
            self._start()
        if self._events is not None and self._gathering is None:
            self._events.arm(self._gather)
        return self._events is not None

    def tick_s(self, step_s: float) -> float:
        """The next of the moments that lie a step apart, in the time of the loop.

        Tails that wait for it read together, which costs less than one after another.
        """
        now_s = asyncio.get_running_loop().time()
        return now_s + step_s - (now_s - self._created_s) % step_s

    def _start(self) -> None:
        self._close()
        inode = self._inode_now()
        if inode is None or time.monotonic() < self._retry_at_s:
            return  # no log yet: the caller tries again
        if self.was_started:
            logger.info("watch_restarted path=%s", self._path)
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self.was_started = True
        try:
            self._events = self._open_events(self._path)
        except OSError as error:  # the tails read on a timer meanwhile
            if not self._has_failed:  # once, however often it is tried again
                logger.warning("watch_failed path=%s error=%s", self._path, error)
            self._has_failed = True
            return
        self._inode = inode
        self._retry_s = RETRY_S_MIN
        if self._has_failed:  # at the level of its beginning
            self._has_failed = False
            logger.warning("watch_works_again path=%s", self._path)
        self._set_all()  # a change since the last read may have come before the watch

    def _gather(self) -> None:
        assert self._events is not None, "it calls this"
        self._events.disarm()
        self._gathering = asyncio.get_running_loop().call_later(GATHER_S, self._report)

    def _report(self) -> None:
        self._gathering = None
        if self._events is not None and not self._events.take():
            self._close()
        self._set_all()

    def _set_all(self) -> None:
        for event in self._subscribers:
            event.set()

    def _close(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino)
