"""LogWatch: file events of a log directory, shared by the tails of one event loop.

watchfiles keeps the events in a queue of its own and looks at it once a step, so the step is both
the delay of an event and the price of waiting for one. It is short while the directory changes, and
longer after some seconds of silence.

Invariant: a change after a subscriber has cleared its event sets that event again, as long as the
watch is alive.
"""

import asyncio
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
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0  # before a watch that has failed is started again
_PASS_MS = 1  # of watchfiles: it returns after a look without events


def step_s(silence_s: float) -> float:
    """How long to wait before the next look, after no change for `silence_s`."""
    return STEP_S if silence_s < SILENCE_S else SILENT_STEP_S


class LogWatch:
    """Watches the log directory of one home while tails subscribe, restarted after it has failed.

    For one event loop: its methods are called there, and events are set there.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._path = Home(os.path.abspath(resolved_home(home))).log_dir
        self._subscribers: tuple[asyncio.Event, ...] = ()  # replaced: the thread reads it too
        self._stopped = threading.Event()
        self._inode: tuple[int, int] | None = None
        self._retry_at_s = 0.0
        self._retry_s = RETRY_S_MIN
        self._has_failed = False  # and does not work again yet
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscription(self) -> Iterator[asyncio.Event]:
        """An event that is set by each change during the block. The last to leave ends the watch.

        The watch is started by `ensure_running`. Its thread ends within a step.
        """
        changed = asyncio.Event()
        self._subscribers = (*self._subscribers, changed)
        try:
            yield changed
        finally:
            self._subscribers = tuple(s for s in self._subscribers if s is not changed)
            if not self._subscribers:
                self._stopped.set()
                self._thread = None
                self._retry_at_s = 0.0

    @property
    def was_started(self) -> bool:
        """Whether a watch was started since the first of these subscribers came."""
        return self._thread is not None

    def is_alive(self) -> bool:
        """Whether the watch runs, on the directory that is there now."""
        inode = self._inode_now()
        alive = self._thread is not None and self._thread.is_alive()
        return alive and inode is not None and inode == self._inode

    def ensure_running(self) -> None:
        """Starts a watch on the directory that is there now, unless one runs."""
        inode = self._inode_now()
        if inode is None:
            return  # no log yet: the caller tries again
        if self.is_alive() or time.monotonic() < self._retry_at_s:
            return
        if self.was_started:
            logger.info("watch_restarted path=%s", self._path)
        self._stopped.set()
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self._inode = inode
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch,
            args=(asyncio.get_running_loop(), self._stopped),
            name="eventlog-watch",
            daemon=True,
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread: the tails read on a timer meanwhile
            self._report_failure(error)

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino)

    # -- in the thread

    def _watch(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        pacer = Pacer(stopped)
        try:
            for changes in watchfiles.watch(
                self._path,
                watch_filter=None,  # the default ignores paths below .git, .venv ...
                step=0,  # the pacer waits instead
                debounce=0,
                rust_timeout=_PASS_MS,
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
                    loop.call_soon_threadsafe(self._report_change)
        except RuntimeError:
            pass  # the loop was closed
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
    """The `stop_event` of `watchfiles.watch`, which it asks before each look at its queue.

    watchfiles would sleep for a constant step, and return changes only after a second look that
    finds no more of them. So its step is 0, and the wait is here: before the first look and not
    before the second. Changes are returned at once, and the wait ends when the watch is stopped.
    """

    def __init__(
        self, stopped: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopped = stopped
        self._clock = clock
        self._changed_s = clock()
        self._waits = True

    def begin_pass(self, *, has_changes: bool) -> None:
        """Watchfiles has returned, and will be called again."""
        self._waits = True
        if has_changes:
            self._changed_s = self._clock()

    def is_set(self) -> bool:
        """Waits a step, every other time; whether the watch is stopped.

        A pass has more than two looks if the clock of the machine was set back meanwhile, and must
        not turn without a wait until that clock has caught up.
        """
        waits, self._waits = self._waits, not self._waits
        if not waits:
            return self._stopped.is_set()
        return self._stopped.wait(step_s(self._clock() - self._changed_s))
