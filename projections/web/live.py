"""The streams of server-sent events: they show the live log and the status.

A stream has no queue of its own: it remembers the last entry that it sent, and sends what came
later, as one message at a time. A client that reads slowly gets fewer and larger messages; what a
message has no room for is counted.

Invariant: a stream gets each entry once, in order, or counted as left out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

import orjson

from projections.web.views.live_log import LiveLog
from projections.web.views.log_rows import ROWS_MAX, SHOWN_ROWS

STREAMS_MAX = 256  # one for each open browser; each costs a descriptor and some 50 KiB
COALESCE_S = 0.1  # between two messages to one stream
CHECK_S = 1.0  # how often a stream looks whether a background task has ended
KEEP_ALIVE_S = 4.0  # a page calls more than 5 s of silence "not live"
RETRY_MS = 2_000  # before a browser connects again

Status = Callable[[], Mapping[str, object]]


class LiveStatus(NamedTuple):
    """The status that a stream sends beside entries."""

    whole: Status  # the object of /api/status
    point: Status  # the same, with the newest point of the history only
    version: Callable[[], int]  # changes with each sample
    problem: Callable[[], str | None]  # why the page is not live, checked at each call


class Streams:
    """The open streams of server-sent events."""

    def __init__(self, log: LiveLog, status: LiveStatus) -> None:
        self._log = log
        self._status = status
        self.count = 0
        self._encoded: tuple[tuple[object, ...], bytes] = ((), b"")  # the last message of entries
        self._encoded_status: tuple[int, bytes] = (-1, b"")

    @property
    def is_full(self) -> bool:
        """Whether no further stream is accepted."""
        return self.count >= STREAMS_MAX

    async def open(self, last_id: int | None) -> AsyncIterator[bytes] | None:
        """The messages of one more stream, which counts from now on; None if there is no room."""
        if self.is_full:
            return None
        messages = self.messages(last_id)
        return _continued(await anext(messages), messages)

    async def messages(self, last_id: int | None) -> AsyncIterator[bytes]:
        """The messages of one stream. `last_id` is the last entry that the client has."""
        self.count += 1
        try:
            async for message in self._messages(last_id):
                yield message
        finally:
            self.count -= 1

    async def _messages(self, last_id: int | None) -> AsyncIterator[bytes]:
        log = self._log
        if last_id is not None and last_id > log.last_seq:
            last_id = None  # of another log: begin anew
        sent = log.last_seq if last_id is None else last_id
        rows = list(log.rows)[-SHOWN_ROWS:] if last_id is None else []
        whole = self._status.whole()
        hello = {"rows": rows, "status": whole, "id": sent, "first_chain": log.first_chain}
        version, problem = self._status.version(), None
        yield f"retry: {RETRY_MS}\n".encode() + _message("hello", hello, sent)
        if sent < log.last_seq:
            last_seq = log.last_seq
            yield self._entries(sent, ROWS_MAX)
            sent = last_seq
        sent_s = time.monotonic()
        while not log.is_stopped:
            parts = b""
            if sent < log.last_seq:
                parts += self._entries(sent, SHOWN_ROWS)
                sent = log.last_seq
            if version != self._status.version():
                version = self._status.version()
                parts += self._status_message(version)
            found = self._status.problem()
            if found is not None and found != problem:
                parts += _message("problem", {"text": found})
            problem = found
            if not parts and time.monotonic() - sent_s >= KEEP_ALIVE_S:
                parts = b": alive\n\n"
            if parts:
                yield parts
                sent_s = time.monotonic()
                await asyncio.sleep(COALESCE_S)
            has_news = sent < log.last_seq or version != self._status.version()
            if not has_news and not log.is_stopped:  # either may have come during the pause
                await log.wait(CHECK_S)

    def _entries(self, after: int, count: int) -> bytes:
        """The message with what came after an entry; most streams need the same one."""
        key = (after, self._log.last_seq, count)
        if self._encoded[0] != key:
            rows, found = self._log.newest(after, count)
            body = {"n": found, "left_out": found - len(rows), "rows": rows}
            self._encoded = (key, _message("entries", body, self._log.last_seq))
        return self._encoded[1]

    def _status_message(self, version: int) -> bytes:
        if self._encoded_status[0] != version:
            self._encoded_status = (version, _message("status", self._status.point()))
        return self._encoded_status[1]


async def _continued(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for message in rest:
        yield message


def _message(event: str, body: object, seq: int | None = None) -> bytes:
    number = "" if seq is None else f"id: {seq}\n"
    return f"event: {event}\n{number}data: ".encode() + orjson.dumps(body) + b"\n\n"
