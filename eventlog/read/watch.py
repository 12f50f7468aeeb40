"""LogWatch: file events of a log directory, shared by the tails of one event loop.

watchfiles keeps the events in a queue of its own and looks at it once a step, so the step is both
the delay of an event and the price of waiting for one. It is short while the directory changes, and
longer after some seconds of silence.

Invariant: a change after a subscriber has cleared its event sets that event again, as long as the
watch is alive.
"""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import watchfiles

from eventlog.storage.home import Home, resolved_home

logger = logging.getLogger(__name__)

STEP_S = 0.002  # between two looks at the queue: entries reach a projection in a few ms
# Fewer than 60 wakeups a second, and the delay that it adds leaves a lone signal after a silence
# in the table within 25 ms.
SILENT_STEP_S = 0.02
SILENCE_S = 3.0  # without a change for so long, the longer step is taken
PASS_MS = 500  # watchfiles returns at least so often, and the step is chosen anew
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0  # before a watch that has failed is started again
END_S_MAX = 1.0  # for the thread to end, which takes a step


class LogWatch:
    """Watches the log directory of one home while tails subscribe, restarted after it has failed.

    For one event loop: its methods are called there, and events are set there.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._path = Home(os.path.abspath(resolved_home(home))).log_dir
        self._created_s = time.monotonic()  # so that the ticks of several homes differ
        self._subscribers: tuple[asyncio.Event, ...] = ()  # replaced: the thread reads it too
        self._pacer = Pacer()
        self._inode: tuple[int, int] | None = None
        self._retry_at_s = 0.0
        self._retry_s = RETRY_S_MIN
        self._has_failed = False  # and does not work again yet
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscription(self) -> Iterator[asyncio.Event]:
        """An event that is set by each change during the block. The watch ends with the last one.

        The watch is started by `ensure_running`.
        """
        changed = asyncio.Event()
        self._subscribers = (*self._subscribers, changed)
        try:
            yield changed
        finally:
            self._subscribers = tuple(s for s in self._subscribers if s is not changed)
            if not self._subscribers:
                self._end()

    @property
    def was_started(self) -> bool:
        """Whether a watch was started for the current subscribers."""
        return self._thread is not None

    def is_alive(self) -> bool:
        """Whether the watch runs, on the directory that is there now."""
        inode = self._inode_now()
        alive = self._thread is not None and self._thread.is_alive()
        return alive and inode is not None and inode == self._inode

    def tick_s(self, step_s: float) -> float:
        """The next of the moments that lie a step apart, in the time of the loop.

        Tails that wait for it read together, which costs less than one after another.
        """
        now_s = asyncio.get_running_loop().time()
        return now_s + step_s - (now_s - self._created_s) % step_s

    def ensure_running(self) -> None:
        """Starts a watch on the directory that is there now, unless one runs."""
        inode = self._inode_now()
        if inode is None:
            return  # no log yet: the caller tries again
        if self.is_alive() or time.monotonic() < self._retry_at_s:
            return
        if self.was_started:
            logger.info("watch_restarted path=%s", self._path)
        self._pacer.stop()
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self._inode = inode
        self._pacer = Pacer()
        self._thread = threading.Thread(
            target=self._watch,
            args=(asyncio.get_running_loop(), self._pacer),
            name="eventlog-watch",
            daemon=True,
        )
        atexit.register(self._end)  # of a tail that is never closed
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread: the tails read on a timer meanwhile
            self._report_failure(error)

    def _end(self) -> None:
        """Ends the watch. The interpreter must not end before the thread: it would abort."""
        atexit.unregister(self._end)
        thread, self._thread = self._thread, None
        self._retry_at_s = 0.0
        self._pacer.stop()
        if thread is not None and thread.is_alive():
            thread.join(END_S_MAX)

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino)

    # -- in the thread

    def _watch(self, loop: asyncio.AbstractEventLoop, pacer: "Pacer") -> None:
        try:
            for changes in watchfiles.watch(
                self._path,
                watch_filter=None,  # the default ignores paths below .git, .venv ...
                step=0,  # the pacer waits instead
                debounce=0,
                rust_timeout=PASS_MS,
                yield_on_timeout=True,
                stop_event=pacer,
                recursive=False,
                raise_interrupt=False,
            ):
                pacer.begin_pass(has_changes=bool(changes))
                self._retry_s = RETRY_S_MIN
                if self._has_failed:  # at the level of its beginning
                    self._has_failed = False
                    logger.warning("watch_works_again path=%s", self._path)
                # An event that is still set will be cleared before the next read, which then
                # includes this change.
                if changes and not all(event.is_set() for event in self._subscribers):
                    try:
                        loop.call_soon_threadsafe(self._report_change)
                    except RuntimeError:
                        return  # the loop was closed
        # One of watchfiles is a RuntimeError too: no inotify instance is left.
        except BaseException as error:  # noqa: BLE001  # a panic in watchfiles is no Exception
            self._report_failure(error)

    def _report_failure(self, error: BaseException) -> None:
        if not self._has_failed:  # once, however often it is tried again
            logger.warning("watch_failed path=%s error=%s", self._path, error)
        self._has_failed = True

    # -- in the event loop

    def _report_change(self) -> None:
        for event in self._subscribers:
            event.set()


class Pacer:
    """The `stop_event` of `watchfiles.watch`, which checks it before each look at its queue.

    watchfiles itself would sleep for a constant step, and return changes only after a second look
    that finds no more of them. So its step is 0, and the wait is here: before every other look.
    Changes are returned at once by the look that follows.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep  # an Event would take twice the processor time to wait
        self._changed_s = clock()
        self._has_waited = False  # before the last look
        self._is_stopped = False
        self.step_s = STEP_S

    def stop(self) -> None:
        """Ends the watch, after the step in progress."""
        self._is_stopped = True

    def begin_pass(self, *, has_changes: bool) -> None:
        """Chooses the step: watchfiles has returned, and will be called again."""
        now_s = self._clock()
        if has_changes:
            self._changed_s = now_s
        self.step_s = STEP_S if now_s - self._changed_s < SILENCE_S else SILENT_STEP_S
        self._has_waited = False

    def is_set(self) -> bool:
        """Whether the watch is stopped; waits a step, every other time."""
        self._has_waited = not self._has_waited
        if self._has_waited:
            self._sleep(self.step_s)
        return self._is_stopped
