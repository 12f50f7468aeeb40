"""Cuts the tail of the log into batches: by entries, by time, or at the end of the log.

Invariant: no entry waits longer than the batch timeout plus the pause at a high rate.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from eventlog import Batch
from projections.errors import CheckpointMoved
from projections.runtime.load import Load

BATCH_ENTRIES_DEFAULT = 1000  # a transaction of a few ms; more gains nothing (docs/measured.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The limits of a batch."""

    batch_entries: int = BATCH_ENTRIES_DEFAULT  # at most
    batch_timeout_s: float = 0.0  # how long a batch may fill; 0 commits what is there
    once_stall_s: float = 10.0  # with `once`, a batch that stalls for longer is an error


class Batcher:
    """Collects entries of the tail into batches."""

    def __init__(
        self,
        batches: AsyncGenerator[Batch, None],
        stop: asyncio.Event,
        wait_until_lost: Callable[[], Coroutine[None, None, None]] | None,
        load: Load,
    ) -> None:
        self._batches = batches
        self._load = load
        self._buffered = Batch()
        self._tail_read: asyncio.Future[Batch] | None = None
        self.is_filling = False  # holds a batch that waits for more entries
        self._stop_task = asyncio.ensure_future(stop.wait())
        # A lost checkpoint must be noticed also while no entries come.
        self._lost_task = (
            asyncio.ensure_future(wait_until_lost()) if wait_until_lost is not None else None
        )

    async def __aenter__(self) -> "Batcher":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [t for t in (self._stop_task, self._lost_task, self._tail_read) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what they raise was raised before

    async def next(self, pace: Pace, until_seq: int | None) -> Batch:
        """The next batch; empty only when stopped. A batch that reaches `until_seq` is not held.

        Above a rate of entries (see `load`) it first pauses, except with `until_seq`.

        Raises CheckpointMoved once the projection has lost its checkpoint, and what the projection
        raises between two batches.
        """
        loop = asyncio.get_running_loop()
        if not self._buffered:
            pause_s = 0.0 if until_seq is not None else self._load.pause_s(loop.time())
            if pause_s > 0:
                await asyncio.wait({self._stop_task}, timeout=pause_s)
                if self._stop_task.done():
                    return Batch()
            self._buffered = await self._read_tail(None)
        due_s = loop.time() + pace.batch_timeout_s
        while 0 < len(self._buffered) < pace.batch_entries and not self._stop_task.done():
            remaining_s = due_s - loop.time()
            if remaining_s <= 0 or (until_seq is not None and self._buffered[-1].seq >= until_seq):
                break
            self.is_filling = True
            more = await self._read_tail(remaining_s)
            if more:
                self._buffered = Batch([*self._buffered, *more], more.position)
        batch = self._cut_batch(pace.batch_entries)
        self._load.add(len(batch), loop.time())
        return batch

    def _cut_batch(self, count: int) -> Batch:
        self.is_filling = False
        taken, self._buffered = self._buffered, Batch()
        if len(taken) <= count:
            return taken
        self._buffered = Batch(taken[count:], taken.position)
        return Batch(taken[:count])  # without its position, which is only a hint

    async def _read_tail(self, timeout_s: float | None) -> Batch:
        """The next entries of the tail; empty when stopped, or after the timeout."""
        if self._tail_read is None:
            self._tail_read = asyncio.ensure_future(anext(self._batches))
        waited: set[asyncio.Future[Any]] = {self._tail_read, self._stop_task}
        if self._lost_task is not None:
            waited.add(self._lost_task)
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._lost_task is not None and self._lost_task.done():
            self._lost_task.result()  # raises what ended the projection meanwhile
            raise CheckpointMoved("the stored checkpoint was lost")
        if self._stop_task.done() or not self._tail_read.done():
            return Batch()
        tail_read, self._tail_read = self._tail_read, None
        return tail_read.result()
