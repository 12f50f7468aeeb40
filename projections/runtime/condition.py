"""Waiting until something is so, among the tasks of one event loop.

Invariant: whoever waits is woken by the first change after which it is so.
"""

import asyncio
from collections.abc import Callable


class Condition:
    """Whoever changes something says `notify`; that costs a call for each who waits."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Returns when it is so, or was so a moment ago."""
        if predicate():
            return
        entry = (predicate, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        finally:
            self._waiting.remove(entry)

    def notify(self) -> None:
        """Wakes those whose wait is over."""
        for predicate, future in self._waiting:
            if not future.done() and predicate():
                future.set_result(None)
