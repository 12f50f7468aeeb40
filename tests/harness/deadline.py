"""Waits for a condition that another thread, task or process makes true.

    until(lambda: seq_in(home) == 3)
    await until_async(lambda: checkpoint_seq_of(projector) == 3)

Invariant: the deadline measures nothing: on a slow machine too, a condition holds long before it.
"""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 120.0  # shared machines are slow; what takes longer does not happen
PAUSE_S = 0.003  # between two checks, which may read files or ask a server

Description = str | Callable[[], str]  # a function if the text is known at the end only
DEFAULT_DESCRIPTION = "the awaited condition"


def until(condition: Callable[[], object], what: Description = DEFAULT_DESCRIPTION) -> None:
    """Waits until the condition holds; fails after the deadline."""
    give_up_s = time.monotonic() + DEADLINE_S
    while not condition():
        _assert_in_time(give_up_s, what)
        time.sleep(PAUSE_S)


async def until_async(
    condition: Callable[[], object], what: Description = DEFAULT_DESCRIPTION
) -> None:
    """`until` for a task: other tasks run meanwhile."""
    give_up_s = time.monotonic() + DEADLINE_S
    while not condition():
        _assert_in_time(give_up_s, what)
        await asyncio.sleep(PAUSE_S)


def _assert_in_time(give_up_s: float, what: Description) -> None:
    assert time.monotonic() < give_up_s, (
        f"{what if isinstance(what, str) else what()} did not happen within {DEADLINE_S:g} s"
    )
