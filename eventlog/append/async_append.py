"""Appends from an asyncio event loop: they share commits with each other and with threads.

All appends of one turn of the loop go to the committer together, and all that one commit settled
are resolved by one call into the loop.

Invariant: an append whose await is cancelled is written or not exactly as if it had gone on.
"""

import asyncio
from collections import deque
from contextlib import suppress

from eventlog.append.batch import AppendRequest, Receipt
from eventlog.append.group_commit import QUEUED_APPENDS_MAX, GroupCommit, QueuedRequest
from eventlog.errors import EventLogError
from eventlog.schema.validation import ValidatedItem


class _LoopRequest(QueuedRequest):
    """One append of this loop."""

    __slots__ = ("future",)

    def __init__(
        self, item: ValidatedItem, appender: "AsyncAppender", future: asyncio.Future[Receipt]
    ):
        self.request = AppendRequest((item,))
        self.notify = appender.notify
        self.future = future


class AsyncAppenders:
    """The fronts of the event loops that append to one log."""

    def __init__(self, committer: GroupCommit) -> None:
        self._committer = committer
        self._by_loop: dict[object, AsyncAppender] = {}

    def for_running_loop(self) -> "AsyncAppender":
        """That of the running event loop, made where there is none; closed ones are forgotten."""
        loop = asyncio.get_running_loop()
        appender = self._by_loop.get(loop)
        if appender is None:
            appenders = list(
                self._by_loop.items()
            )  # another loop's thread may add its own meanwhile
            self._by_loop = {
                other_loop: appender
                for other_loop, appender in appenders
                if not appender.is_closed()
            }
            appender = self._by_loop[loop] = AsyncAppender(self._committer)
        return appender


class AsyncAppender:
    """The way in for one event loop; used only from its thread, but for `notify`."""

    def __init__(self, committer: GroupCommit) -> None:
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self.notify = self._notify  # bound once: it is the key by which a commit groups its callers
        self._pending: list[QueuedRequest] = []  # appends of this turn of the loop
        self._in_flight = 0
        self._slot_waiters: deque[asyncio.Future[None]] = deque()

    def is_closed(self) -> bool:
        """Whether its event loop has ended."""
        return self._loop.is_closed()

    async def append(self, item: ValidatedItem) -> Receipt:
        """Returns when the item is durable; waits where too many appends are under way."""
        while self._in_flight >= QUEUED_APPENDS_MAX:
            slot: asyncio.Future[None] = self._loop.create_future()
            self._slot_waiters.append(slot)
            try:
                await slot
            except asyncio.CancelledError:
                self._release_slots()  # it may have been given to this one
                raise
        future: asyncio.Future[Receipt] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._submit)
        self._pending.append(_LoopRequest(item, self, future))
        self._in_flight += 1
        return await future

    def _submit(self) -> None:
        pending, self._pending = self._pending, []
        try:
            self._committer.submit(pending)
        except EventLogError as error:
            for queued in pending:
                queued.request.fail(error)
            self._resolve(pending)

    def _notify(self, settled: list[QueuedRequest]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody is there to be told
            self._loop.call_soon_threadsafe(self._resolve, settled)

    def _resolve(self, settled: list[QueuedRequest]) -> None:
        self._in_flight -= len(settled)
        for queued in settled:
            assert isinstance(queued, _LoopRequest), "only this front puts them there"
            future = queued.future
            if future.done():
                continue  # its await was cancelled
            request = queued.request
            receipt = request.results[0]
            if isinstance(receipt, Receipt):
                future.set_result(receipt)
            else:
                future.set_exception(request.error or _not_settled_error())
        self._release_slots()

    def _release_slots(self) -> None:
        free = QUEUED_APPENDS_MAX - self._in_flight
        while free > 0 and self._slot_waiters:
            slot = self._slot_waiters.popleft()
            if not slot.done():  # else its await was cancelled
                slot.set_result(None)
                free -= 1


def _not_settled_error() -> BaseException:
    return AssertionError("a commit ended without settling this append")
