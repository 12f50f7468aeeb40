"""Calls a method of a projection so that nothing it raises ends the process or another task.

`sys.exit()` in a task would end the event loop, and a CancelledError without a request to
cancel would look like a cancelled daemon. Both become an error of the projection.

Invariant: a cancellation that the caller's task was asked for passes unchanged.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from projections.errors import ProjectionError

T = TypeVar("T")


async def contained(call: Callable[[], Awaitable[T]]) -> T:
    """The result of `await call()`. Raises ProjectionError in place of an exit from within."""
    try:
        return await call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise _exit_error(error) from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise _exit_error(error) from error


def is_cancelled() -> bool:
    """Whether the current task was asked to end, or its coroutine is being closed."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _exit_error(error: BaseException) -> ProjectionError:
    return ProjectionError(
        f"it raised {type(error).__name__} ({error})"
        if str(error)
        else f"it raised {type(error).__name__}",
        do="correct the projection: it must not end the process or its task",
    )
