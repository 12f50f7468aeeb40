"""Asyncio helpers: run a function in a new thread, and shield a coroutine from cancellation.

`asyncio.to_thread` fails once the main thread has ended, although the interpreter still waits for
other threads. A program that only starts threads and returns would lose its queries.

Importing it does not import asyncio, which would be a third of the time to start a command.

Invariant: the thread ends with its work, and interpreter exit waits for no pool.
"""

import errno
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from eventlog.errors import ThreadUnavailable

T = TypeVar("T")

# The process, the account or the machine is at a limit, which may pass.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


def is_shortage(error: BaseException) -> bool:
    """Whether the same work may succeed later: no descriptor, memory or thread is left."""
    return isinstance(error, ThreadUnavailable) or (
        isinstance(error, OSError) and error.errno in _SHORTAGES
    )


@contextmanager
def starting_thread() -> Iterator[None]:
    """Raises ThreadUnavailable where a thread that the block starts is refused."""
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise ThreadUnavailable(
            f"no thread could be started: {error}",
            do="see the limits of this account (`ulimit -u`), and retry",
        ) from error


async def run_in_thread(work: Callable[[], T], *, is_awaited_at_exit: bool = True) -> T:
    """Returns `work()`, run in a new thread. Cancelling the await does not stop the thread.

    The exit of the interpreter waits for it, unless the work may be cut off anywhere.
    Raises ThreadUnavailable.
    """
    import asyncio

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

    with starting_thread():
        threading.Thread(target=run, name="eventlog-work", daemon=not is_awaited_at_exit).start()
    return await done


async def uncancelled(work: Coroutine[None, None, T]) -> T:
    """Returns the result of `work`; a cancelled await first waits until it is done."""
    import asyncio

    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise
