"""Asyncio helpers: run a function in a new thread, and shield a coroutine from cancellation.

`asyncio.to_thread` fails once the main thread has ended, although the interpreter still waits for
other threads. A program that only starts threads and returns would lose its queries.

Invariant: the thread ends with its work, and interpreter exit waits for no pool.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Returns `work()`, run in a new thread. Cancelling the await does not stop the thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # the await was cancelled
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T is

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  # it is raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="eventlog-work").start()
    return await done


async def uncancelled(work: Coroutine[None, None, T]) -> T:
    """Returns the result of `work`; a cancelled await first waits until it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise
