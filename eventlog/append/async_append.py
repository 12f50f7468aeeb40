"""Appends from an asyncio event loop: they share commits with each other and with threads.

All appends of one turn of the loop go to the committer together, and all that one commit settled
are resolved by one call into the loop.

Invariant: an append whose await is cancelled is written or not exactly as if it had gone on.
"""

import asyncio
from collections import deque
from contextlib import suppress

from eventlog.append.batch import Group, Receipt
from eventlog.append.group_commit import WAITING_MAX, Committer, Waiting
from eventlog.errors import EventLogError
from eventlog.schema.validation import Admitted


class _Append(Waiting):
    """One append of this loop."""

    __slots__ = ("future",)

    def __init__(self, item: Admitted, front: "AsyncFront", future: asyncio.Future[Receipt]):
        self.group = Group((item,))
        self.notify = front.notify
        self.future = future


class Fronts:
    """The fronts of the event loops that append to one log."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._by_loop: dict[object, AsyncFront] = {}

    def here(self) -> "AsyncFront":
        """That of the running event loop, made where there is none; closed ones are forgotten."""
        loop = asyncio.get_running_loop()
        front = self._by_loop.get(loop)
        if front is None:
            fronts = list(self._by_loop.items())  # another loop's thread may add its own meanwhile
            self._by_loop = {known: front for known, front in fronts if not front.is_closed()}
            front = self._by_loop[loop] = AsyncFront(self._committer)
        return front


class AsyncFront:
    """The way in for one event loop; used only from its thread, but for `notify`."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self.notify = self._notify  # bound once: it is the key by which a commit groups its callers
        self._turn: list[Waiting] = []  # appends of this turn of the loop
        self._outstanding = 0
        self._wanting_room: deque[asyncio.Future[None]] = deque()

    def is_closed(self) -> bool:
        """Whether its event loop has ended."""
        return self._loop.is_closed()

    async def append(self, item: Admitted) -> Receipt:
        """Returns when the item is durable; waits where too many appends are under way."""
        while self._outstanding >= WAITING_MAX:
            room: asyncio.Future[None] = self._loop.create_future()
            self._wanting_room.append(room)
            try:
                await room
            except asyncio.CancelledError:
                self._give_room()  # it may have been given to this one
                raise
        future: asyncio.Future[Receipt] = self._loop.create_future()
        if not self._turn:
            self._loop.call_soon(self._submit)
        self._turn.append(_Append(item, self, future))
        self._outstanding += 1
        return await future

    def _submit(self) -> None:
        turn, self._turn = self._turn, []
        try:
            self._committer.submit(turn)
        except EventLogError as error:
            for waiting in turn:
                waiting.group.fail(error)
            self._resolve(turn)

    def _notify(self, settled: list[Waiting]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody is there to be told
            self._loop.call_soon_threadsafe(self._resolve, settled)

    def _resolve(self, settled: list[Waiting]) -> None:
        self._outstanding -= len(settled)
        for waiting in settled:
            assert isinstance(waiting, _Append), "only this front puts them there"
            future = waiting.future
            if future.done():
                continue  # its await was cancelled
            group = waiting.group
            receipt = group.results[0]
            if isinstance(receipt, Receipt):
                future.set_result(receipt)
            else:
                future.set_exception(group.error or _unsettled())
        self._give_room()

    def _give_room(self) -> None:
        free = WAITING_MAX - self._outstanding
        while free > 0 and self._wanting_room:
            room = self._wanting_room.popleft()
            if not room.done():  # else its await was cancelled
                room.set_result(None)
                free -= 1


def _unsettled() -> BaseException:
    return AssertionError("a commit ended without settling this append")
