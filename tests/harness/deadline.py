"""Waiting for what happens by itself, in another thread, task or process.

    until(lambda: seq_in(home) == 3)
    await happens(lambda: at(projector) == 3)

Invariant: the bound is no measure: what comes at all comes long before, also on a slow machine.
"""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 120.0  # what has not happened by then does not happen; shared machines are slow
PAUSE_S = 0.003  # between two looks: a look may read files or ask a server

Description = str | Callable[[], str]  # a function where the words are known at the end only
DEFAULT_DESCRIPTION = "what the test waits for"


def until(condition: Callable[[], object], what: Description = DEFAULT_DESCRIPTION) -> None:
    """Waits until it is so; fails when that takes absurdly long."""
    give_up_s = time.monotonic() + DEADLINE_S
    while not condition():
        _assert_in_time(give_up_s, what)
        time.sleep(PAUSE_S)


async def until_async(
    condition: Callable[[], object], what: Description = DEFAULT_DESCRIPTION
) -> None:
    """`until`, for a task: the others go on."""
    give_up_s = time.monotonic() + DEADLINE_S
    while not condition():  # none of what is looked at would tell
        _assert_in_time(give_up_s, what)
        await asyncio.sleep(PAUSE_S)


def _assert_in_time(give_up_s: float, what: Description) -> None:
    assert time.monotonic() < give_up_s, (
        f"{what if isinstance(what, str) else what()} did not happen within {DEADLINE_S:g} s"
    )
