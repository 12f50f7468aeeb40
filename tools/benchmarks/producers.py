"""Producers: one caller, or 64 in threads or tasks, each waiting for its call before the next.

Invariant: an item is passed to one call, and the time ends with the last call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

PRODUCERS = 64

Item = TypeVar("Item")


def in_one_thread(call: Callable[[Item], object], items: Sequence[Item]) -> float:
    """The seconds of one call after the other."""
    started_s = time.perf_counter()
    for item in items:
        call(item)
    return time.perf_counter() - started_s


def in_threads(
    pool: ThreadPoolExecutor, call: Callable[[Item], object], items: Sequence[Item]
) -> float:
    """The seconds of calls by 64 threads of `pool`, which has that many and no other work."""
    # The barrier ensures that each thread takes exactly one share, and starts before the clock.
    together = threading.Barrier(PRODUCERS + 1)

    def produce(share: Sequence[Item]) -> None:
        together.wait()
        for item in share:
            call(item)

    jobs = [pool.submit(produce, items[number::PRODUCERS]) for number in range(PRODUCERS)]
    together.wait()
    started_s = time.perf_counter()
    for job in jobs:
        job.result()
    return time.perf_counter() - started_s


async def in_one_task(call: Callable[[Item], Awaitable[object]], items: Sequence[Item]) -> float:
    """The seconds of one awaited call after the other."""
    started_s = time.perf_counter()
    await _produce(call, items)
    return time.perf_counter() - started_s


async def in_tasks(call: Callable[[Item], Awaitable[object]], items: Sequence[Item]) -> float:
    """The seconds of awaited calls by 64 tasks."""
    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(PRODUCERS):
            tasks.create_task(_produce(call, items[number::PRODUCERS]))
    return time.perf_counter() - started_s


async def _produce(call: Callable[[Item], Awaitable[object]], items: Sequence[Item]) -> None:
    for item in items:
        await call(item)
