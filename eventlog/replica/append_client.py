"""AppendClient: asks the server of a stream to append, until it answers or the time is over.

A request without an answer is sent again. It may have been carried out, and then the second one
finds the entries of the first: each item has its signal_id before the first try. An item that has
none, which only an event of an unknown kind can be, is sent once.

Invariant: no request is sent twice that could write an entry twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from eventlog.append.batch import PREFIX
from eventlog.errors import AppendTimeout, EventLogError
from eventlog.replica.append_wire import (
    POLICY_HEADER,
    BadReply,
    Reply,
    Result,
    append_subject,
    decode_reply,
    encode_item,
)
from eventlog.replica.engine import StreamRefused, StreamUnavailable
from eventlog.replica.stream_rules import StreamSettings
from eventlog.schema.validation import ValidatedItem

if TYPE_CHECKING:
    from eventlog.replica.nats_connection import NatsConnection

IN_FLIGHT_MAX = 512  # requests; further ones wait for their turn
TRY_S_MIN, TRY_S_MAX = 2.0, 8.0  # for an answer; a healthy server answers within milliseconds
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 0.5  # after a try that had no effect
STOP_S_MAX = 2.0  # for the answer to a request that was sent, once the caller asked to stop

Opener = Callable[[StreamSettings], Awaitable["NatsConnection"]]


class _Request:
    """One request, and what became of its tries."""

    def __init__(self, items: Sequence[ValidatedItem], policy: str) -> None:
        self.policy = policy
        self.item_count = len(items)
        self.data = b"\n".join(map(encode_item, items))
        self.headers = {POLICY_HEADER: policy}
        self.may_repeat = all(item.signal_id is not None for item in items)
        self.is_asking = False  # a try was sent, and its answer may come
        self.is_outcome_unknown = False  # a try was sent and not answered
        self.reason: StreamUnavailable | None = None  # why the last try failed

    def error(self, when: str, where: str) -> EventLogError:
        """The error when the time is over; `when` says which time that was."""
        reason = f": {self.reason.what}" if self.reason is not None else ""
        if self.is_outcome_unknown:
            return AppendTimeout(
                f"no answer {when}, so the outcome is unknown{reason}",
                where=where,
                do="retry with the same signal_id: an entry is never written twice"
                if self.may_repeat
                else "an event without a signal_id may be written twice by a retry: see whether the"
                " log has it",
            )
        return StreamUnavailable(
            f"nothing was written {when}{reason}",
            where=where,
            do="check that `eventlog serve` runs at the primary, and that its servers do; then"
            " retry",
        )


class AppendClient:
    """Appends over the connection that it opens when it is needed. Used by one event loop."""

    def __init__(self, settings: StreamSettings, open_connection: Opener) -> None:
        self._settings = settings
        self._open_connection = open_connection
        self._subject = append_subject(settings.name)
        self._connection: NatsConnection | None = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._limits: dict[asyncio.Timeout, _Request] = {}  # of the requests in progress
        self.is_stopping = False  # the caller asked to stop
        self.epoch = 0  # the highest one that a server has named

    async def append(
        self, items: Sequence[ValidatedItem], policy: str, timeout_s: float
    ) -> Sequence[Result]:
        """The results that the server gives; see `append_wire.Reply`.

        Raises the error that the server gives for all items; StreamRefused; after `timeout_s`
        AppendTimeout, or StreamUnavailable where certainly nothing was written.
        """
        request = _Request(items, policy)
        when, limit = f"within {timeout_s:g} s", asyncio.timeout(timeout_s)
        try:
            async with limit:
                self._limits[limit] = request
                if self.is_stopping:
                    self._hurry(limit, STOP_S_MAX)
                async with self._slots:
                    return await self._repeat(request)
        except TimeoutError:
            when = "before the stop" if self.is_stopping else when
            raise request.error(when, self._settings.where) from request.reason
        finally:
            self._limits.pop(limit, None)

    def stop_waiting(self) -> None:
        """Ends requests that wait for a server, and soon those that wait for its answer."""
        self.is_stopping = True
        for limit, request in self._limits.items():
            self._hurry(limit, STOP_S_MAX if request.is_asking else 0.0)

    def _hurry(self, limit: asyncio.Timeout, timeout_s: float) -> None:
        """Lets a request take no longer than `timeout_s` from now on."""
        due_s, until_s = asyncio.get_running_loop().time() + timeout_s, limit.when()
        if not limit.expired() and (until_s is None or due_s < until_s):
            limit.reschedule(due_s)

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _repeat(self, request: _Request) -> Sequence[Result]:
        pause_s, try_s = PAUSE_S_MIN, TRY_S_MIN
        while True:
            was_sent = False
            try:
                connection = await self._connected()
                was_sent = True
                return await self._ask(connection, request, try_s)
            except StreamRefused:
                raise
            except StreamUnavailable as error:
                request.reason = error
            if self.is_stopping:
                raise request.error("before the stop", self._settings.where) from request.reason
            if was_sent and request.is_outcome_unknown:
                if not request.may_repeat:
                    when = f"within {try_s:g} s"
                    raise request.error(when, self._settings.where) from request.reason
                try_s = min(2 * try_s, TRY_S_MAX)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _connected(self) -> "NatsConnection":
        """The connection; another one where the last one has ended."""
        async with self._connecting:
            if self._connection is not None and self._connection.ended.done():
                await self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = await self._open_connection(self._settings)
            return self._connection

    async def _ask(
        self, connection: "NatsConnection", request: _Request, timeout_s: float
    ) -> Sequence[Result]:
        """One try. Raises StreamUnavailable where it is to be repeated."""
        from eventlog.replica.nats_connection import NoResponder

        was_unknown, request.is_outcome_unknown = request.is_outcome_unknown, True
        request.is_asking = True
        try:
            data = await connection.request(self._subject, request.data, request.headers, timeout_s)
        except NoResponder as error:
            request.is_outcome_unknown = was_unknown
            raise StreamUnavailable(
                f"no server of the stream answers: `eventlog serve` does not run ({error.what})",
                where=self._settings.where,
            ) from error
        except StreamRefused:
            request.is_outcome_unknown = was_unknown
            raise
        finally:
            request.is_asking = False
        try:
            reply = decode_reply(data)
            _check_count(reply, request)
        except BadReply as error:
            raise StreamUnavailable(str(error), where=self._settings.where) from error
        if reply.epoch < self.epoch:
            # Another home was promoted: what this one has appended since is not in the stream.
            raise StreamUnavailable(
                f"a primary of epoch {reply.epoch} answers, although there is one of epoch"
                f" {self.epoch}",
                where=self._settings.where,
            )
        self.epoch = reply.epoch
        if reply.error is not None:
            raise reply.error
        return reply.results


def _check_count(reply: Reply, request: _Request) -> None:
    """Raises BadReply where items have no result."""
    results = reply.results
    is_cut = request.policy == PREFIX and results and isinstance(results[-1], EventLogError)
    if reply.error is None and len(results) != request.item_count and not is_cut:
        raise BadReply(f"the reply has {len(results)} results for {request.item_count} items")
