"""Tail: reads durable lines as they are appended, by file events and a timer.

A watch may see no events (network file systems, containers), lose some, or end with its directory,
so the log is also read on a timer.

Invariant: the lines are those of a LogReader: durable, chained, in order, each once.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, suppress

from eventlog.format.segment import Position
from eventlog.read.lines import ReadLines
from eventlog.read.reader import LogReader
from eventlog.read.watch import SILENCE_S, LogWatch
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home
from eventlog.threads import run_in_thread, uncancelled

logger = logging.getLogger(__name__)

# The longest that a line stays unseen when no file event comes; at most 1 s.
POLL_S = 0.5
SILENT_POLL_S = 0.9  # the same after SILENCE_S without a line, while a watch is alive
UNFINISHED_LINE_WARN_S = 10.0  # an unfinished line that stays for so long is logged


async def tail_batches(
    disk: Disk,
    home: Home,
    *,
    after: int,
    hint: Position | None = None,
    on_watch: Callable[[bool], object] | None = None,
    watch: LogWatch | None = None,
) -> AsyncGenerator[ReadLines, None]:
    """Durable lines after a seq, in bounded lists. Never ends.

    Waits where there is no log yet. Each time there is nothing to read, `on_watch` is called with
    whether a watch was alive. `watch`: one that other tails use too. Raises LogCorrupt and
    LogDiverged.
    """
    watch = watch or LogWatch(home.root)
    reader: LogReader | None = None
    unfinished = _UnfinishedLineWarning()
    with ExitStack() as ending:
        changed = ending.enter_context(watch.subscription())
        found_s = time.monotonic()
        while True:
            changed.clear()  # before reading: a change during the read causes another read
            if reader is None:
                reader = LogReader(disk, home, after=after, hint=hint)
                ending.callback(reader.close)
            found = await uncancelled(run_in_thread(reader.read_joined))
            if found.lines:
                found_s = time.monotonic()
                yield found
                continue
            unfinished.check(reader)
            if on_watch is not None and watch.was_started:
                on_watch(watch.is_alive())  # before a restart, which may not help
            watch.ensure_running()
            with suppress(TimeoutError):
                step_s = poll_s(time.monotonic() - found_s, watch.is_alive())
                async with asyncio.timeout_at(watch.tick_s(step_s)):
                    await changed.wait()


def poll_s(silence_s: float, is_watched: bool) -> float:
    """When to read again without a file event, after no line for `silence_s`."""
    return SILENT_POLL_S if is_watched and silence_s >= SILENCE_S else POLL_S


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
