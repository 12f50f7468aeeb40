"""Runs the work of requests, most of it reads, in threads, a few at a time.

Invariant: at most `WORKERS_MAX` reads run at once, also after their clients have gone, and the end
of the process waits for none.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from eventlog.plumbing import run_in_thread

T = TypeVar("T")

WORKERS_MAX = 4  # reads hold the interpreter most of the time, so more would only wait in memory


class Workers:
    """Threads for reads. For one event loop."""

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        self._free = asyncio.Semaphore(workers_max)
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, work: Callable[[], T], *, is_read: bool = True) -> T:
        """Returns `work()`. After a cancelled await the thread keeps its place until it ends."""
        await self._free.acquire()
        task = asyncio.ensure_future(run_in_thread(work, is_awaited_at_exit=not is_read))
        self._running.add(task)
        task.add_done_callback(self._end)
        return await asyncio.shield(task)

    def _end(self, task: "asyncio.Future[Any]") -> None:
        self._running.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # retrieved: asyncio would log that of a client that has gone
