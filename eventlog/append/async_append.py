"""Appends from asyncio event loops, which share commits with each other and with threads.

All appends of one loop iteration are submitted together, and all that one commit settled are
resolved by one call into the loop.

Invariant: cancelling an await does not change whether its entry is written.
"""

import asyncio
from collections import deque
from contextlib import suppress

from eventlog.append.batch import AppendRequest, Receipt
from eventlog.append.group_commit import QUEUED_APPENDS_MAX, GroupCommit
from eventlog.append.waiting import QueuedRequest
from eventlog.errors import EventLogError
from eventlog.schema.validation import ValidatedItem


class _LoopRequest(QueuedRequest):
    """One append of an event loop."""

    __slots__ = ("future",)

    def __init__(
        self, item: ValidatedItem, appender: "AsyncAppender", future: asyncio.Future[Receipt]
    ):
        self.request = AppendRequest((item,))
        self.notify = appender.notify
        self.future = future


class AsyncAppenders:
    """One AsyncAppender for each event loop that appends to a log."""

    def __init__(self, committer: GroupCommit) -> None:
        self._committer = committer
        self._by_loop: dict[object, AsyncAppender] = {}

    def for_running_loop(self) -> "AsyncAppender":
        """The appender of the running event loop. Forgets those of closed loops."""
        loop = asyncio.get_running_loop()
        appender = self._by_loop.get(loop)
        if appender is None:
            # A copy, because another loop's thread may add its own at the same time.
            known = list(self._by_loop.items())
            self._by_loop = {key: each for key, each in known if not each.is_closed()}
            appender = self._by_loop[loop] = AsyncAppender(self._committer)
        return appender


class AsyncAppender:
    """Submits the appends of one event loop. Used from its thread only, except `notify`."""

    def __init__(self, committer: GroupCommit) -> None:
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self.notify = self._notify  # bound once: a commit groups its callers by this object
        self._pending: list[QueuedRequest] = []  # appends of this loop iteration
        self._in_flight = 0
        self._slot_waiters: deque[asyncio.Future[None]] = deque()

    def is_closed(self) -> bool:
        """Whether its event loop has ended."""
        return self._loop.is_closed()

    async def append(self, item: ValidatedItem) -> Receipt:
        """Returns when the item is durable. Waits while too many appends are in flight."""
        while self._in_flight >= QUEUED_APPENDS_MAX:
            slot: asyncio.Future[None] = self._loop.create_future()
            self._slot_waiters.append(slot)
            try:
                await slot
            except asyncio.CancelledError:
                self._release_slots()  # this await may own the slot already
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
        with suppress(RuntimeError):  # the loop is closed: no caller waits any more
            self._loop.call_soon_threadsafe(self._resolve, settled)

    def _resolve(self, settled: list[QueuedRequest]) -> None:
        self._in_flight -= len(settled)
        for queued in settled:
            assert isinstance(queued, _LoopRequest), "every request in this loop is one"
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
