"""The daemon loop: tail the log, apply a batch, commit it with its checkpoint.

A projector commits as soon as it has caught up, so a lone signal is projected within milliseconds;
under load it fills its batches.

Invariant: `apply` gets each entry once, in order, from the checkpoint that the projection stored.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eventlog import Batch, EventLog, EventLogError, LogCorrupt, LogDiverged, Position
from eventlog.plumbing import is_shortage
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint, Drainable, Projection
from projections.runtime.batcher import Batcher, Pace
from projections.runtime.containment import contained
from projections.runtime.home_log import entry_at, last_entry_seq, require_same_log
from projections.runtime.load import load_of
from projections.runtime.pause import wait_for_event

if TYPE_CHECKING:
    from eventlog.plumbing import LogWatch

logger = logging.getLogger(__name__)

T = TypeVar("T")

STALL_S_MIN, STALL_S_MAX = 0.1, 5.0  # between two tries at a batch that stalls
MOVED_RETRIES_MAX = 100  # in a row from the same seq: no process gets any further


class Projector:
    """Keeps one projection in sync with one log, until it is stopped or the log is damaged."""

    def __init__(
        self,
        home: Path,
        projection: Projection,
        *,
        pace: Pace | None = None,
        on_progress: Callable[[Checkpoint], object] | None = None,
        counters: "BatchCounters | None" = None,
        watch: "LogWatch | None" = None,
    ) -> None:
        self._home = home
        self._projection = projection
        self._pace = pace or Pace()
        self._on_progress = on_progress
        self._watch = watch
        self._stop = asyncio.Event()
        self.checkpoint: Checkpoint | None = None  # None until the projection is open
        self.stalled: str | None = None  # why the last try at a batch failed
        self.is_watched: bool | None = None  # whether file events arrive; None: not known yet
        self.has_applied = False  # a batch
        self.has_caught_up = False  # with the end that the log had when the projection was opened
        self.log_error: EventLogError | None = None  # damage of the log itself, which `run` raises
        self.counters = counters or BatchCounters()
        self._batcher: Batcher | None = None
        self._end_seq: int | None = None  # of the log, when the projection was opened

    def stop(self) -> None:
        """Ends the intake; the batch in progress is committed."""
        self._stop.set()
        if isinstance(self._projection, Drainable):
            self._projection.stop()

    @property
    def projection(self) -> Projection:
        """The projection that it keeps in sync."""
        return self._projection

    def __str__(self) -> str:
        """One line of status."""
        name = self._projection.name
        if self.checkpoint is None:
            return f"{name} is not open yet"
        text = f"{name} at seq {self.checkpoint.seq}"
        return text if self.stalled is None else f"{text}, stalled: {self.stalled}"

    def is_healthy(self, last_seq: int) -> bool:
        """Whether it moves, or has a reason not to. `last_seq`: the end of the log.

        The reasons: it is not open yet, has caught up, reports what stalls it, or waits for a batch
        to fill; and delivery may wait as long as the other side does not answer.
        """
        return (
            self.checkpoint is None
            or self.checkpoint.seq >= last_seq
            or self.stalled is not None
            or (self._batcher is not None and self._batcher.is_filling)
            or isinstance(self._projection, Drainable)
        )

    async def run(self, *, once: bool = False) -> None:
        """Projects until stopped; with `once`, up to the end that the log has at the start.

        Raises LogDiverged when this is not the log that was projected, LogCorrupt at damage, and
        the errors of the projection. `log_error` is set if the error is one of the log itself.
        """
        moved_count, moved_from = 0, None
        stall_s = STALL_S_MIN
        with EventLog(self._home) as log:
            with self._reading_log():
                until_seq = last_entry_seq(log) if once else None
            while not self._is_done(until_seq):
                try:
                    await self._apply_batches(log, until_seq)
                except CheckpointMoved as error:
                    # Beside a second daemon on the same table each batch ends like this.
                    moved_count = moved_count + 1 if self.checkpoint == moved_from else 1
                    moved_from = self.checkpoint
                    if moved_count > MOVED_RETRIES_MAX:
                        raise
                    logger.info("checkpoint_moved projection=%s %s", self._projection.name, error)
                    await asyncio.sleep(0.001 * moved_count)
                except (EventLogError, OSError) as error:
                    if once or not is_shortage(error):
                        raise
                    stall_s = STALL_S_MIN if self.stalled is None else min(2 * stall_s, STALL_S_MAX)
                    self._report_stall(error)
                    await wait_for_event(self._stop, stall_s)

    def _is_done(self, until_seq: int | None) -> bool:
        if self._stop.is_set():
            return True
        if until_seq is None or self.checkpoint is None:
            return False
        return self.checkpoint.seq >= until_seq

    async def _apply_batches(self, log: EventLog, until_seq: int | None) -> None:
        """Opens the projection, applies batches until done, and closes it in any case."""
        is_once = until_seq is not None
        opened = await self._retry_while_stalled(self._open, is_once=is_once)
        if opened is None:
            return
        self.checkpoint = opened
        try:
            with self._reading_log():
                entry = entry_at(log, opened.seq)
            require_same_log(opened, entry)
            with suppress(LogCorrupt, LogDiverged):  # the tail reports it, after the entries before
                self._end_seq = last_entry_seq(log)
            self._report_progress()
            batches = self._tail(log, opened)
            batcher = Batcher(batches, self._stop, self._lost, load_of(self._projection))
            async with aclosing(batches), batcher as source:
                self._batcher = source
                while not self._is_done(until_seq):
                    batch = await source.next(self._pace, until_seq)
                    if batch:
                        await self._apply(batch, is_once=is_once)
            if until_seq is not None and isinstance(self._projection, Drainable):
                await contained(self._projection.drain)
        finally:
            await contained(self._projection.close)

    async def _tail(self, log: EventLog, start: Checkpoint) -> AsyncGenerator[Batch, None]:
        with self._reading_log():
            batches = log.tail(
                start.seq, hint=_hint(start), on_watch=self._on_watch, watch=self._watch
            )
            async with aclosing(batches):
                async for batch in batches:
                    yield batch

    @property
    def _lost(self) -> Callable[[], Coroutine[None, None, None]] | None:
        """Waits until the projection has lost its checkpoint, where it can tell."""
        projection = self._projection
        if not isinstance(projection, Drainable):
            return None
        return lambda: contained(projection.wait_until_lost)

    @contextmanager
    def _reading_log(self) -> Iterator[None]:
        """Marks an error of the log itself: a projection may raise the same kinds of error."""
        try:
            yield
        except (LogCorrupt, LogDiverged) as error:
            self.log_error = error
            raise

    async def _open(self) -> Checkpoint | None:
        """The stored checkpoint; None when stopped before the projection could be opened."""
        opening = asyncio.ensure_future(contained(lambda: self._projection.open(self._home)))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                await self._cancel_open(opening)
                return None
        except asyncio.CancelledError:
            with suppress(Exception):
                await self._cancel_open(opening)
            raise
        finally:
            stopping.cancel()
        opened = opening.result()
        if not isinstance(opened, Checkpoint):
            raise ProjectionError(
                f"open() returned {type(opened).__name__}, not a Checkpoint",
                do="correct the projection: see docs/extending.md",
            )
        return opened

    async def _cancel_open(self, opening: "asyncio.Future[Checkpoint]") -> None:
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening
            await contained(self._projection.close)  # `open` had finished

    async def _apply(self, batch: Batch, *, is_once: bool) -> None:
        before = self.checkpoint
        assert before is not None, "set when the projection was opened"
        last = batch[-1]
        after = Checkpoint(
            projection=before.projection,
            seq=last.seq,
            chain=last.chain,
            segment=batch.position.segment if batch.position else None,
            byte_offset=batch.position.byte_offset if batch.position else None,
        )

        async def apply() -> Checkpoint:
            started_s = time.perf_counter()
            await contained(lambda: self._projection.apply(batch, before=before, after=after))
            self.counters.add(len(batch), time.perf_counter() - started_s)
            return after

        if await self._retry_while_stalled(apply, is_once=is_once) is not None:
            self.checkpoint = after
            self.has_applied = True
            self._report_progress()

    async def _retry_while_stalled(
        self, work: Callable[[], Awaitable[T]], *, is_once: bool
    ) -> T | None:
        """The result of `work`, retried while it stalls; None when stopped meanwhile."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        stall_s = STALL_S_MIN
        while True:
            try:
                found = await work()
                self._clear_stall()
                return found
            except ProjectionStalled as error:
                if is_once and loop.time() - started_s >= self._pace.once_stall_s:
                    raise
                self._report_stall(error)
            if await wait_for_event(self._stop, stall_s):
                return None
            stall_s = min(2 * stall_s, STALL_S_MAX)

    def _report_stall(self, error: Exception) -> None:
        """Logs the first of several failures in a row, and keeps the last for `status`."""
        if self.stalled is None:
            logger.warning("stalled projection=%s %s", self._projection.name, error)
        self.stalled = str(error)

    def _clear_stall(self) -> None:
        if self.stalled is not None:  # at the level of its beginning
            logger.warning("stall_ended projection=%s", self._projection.name)
        self.stalled = None

    def _on_watch(self, is_alive: bool) -> None:
        self.is_watched = is_alive

    def _report_progress(self) -> None:
        assert self.checkpoint is not None, "set when the projection was opened"
        if self._end_seq is not None and self.checkpoint.seq >= self._end_seq:
            self.has_caught_up = True
        if self._on_progress is not None:
            self._on_progress(self.checkpoint)


def _hint(checkpoint: Checkpoint) -> Position | None:
    if checkpoint.segment is None or checkpoint.byte_offset is None:
        return None
    return Position(checkpoint.segment, checkpoint.byte_offset)


# Upper ends of the buckets, in seconds. A commit takes a few ms, on a slow disk 100 times that; a
# projection that needs more than 10 s is stalled rather than slow.
COMMIT_S_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class BatchCounters:
    """The batches that a projection has applied."""

    batches: int = 0
    entries: int = 0
    commit_s: float = 0.0  # the sum of all batches
    buckets: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_S_BUCKETS) + 1))

    def add(self, entries: int, commit_s: float) -> None:
        """Counts a committed batch of `entries` that took `commit_s`."""
        self.batches += 1
        self.entries += entries
        self.commit_s += commit_s
        self.buckets[bisect_left(COMMIT_S_BUCKETS, commit_s)] += 1
