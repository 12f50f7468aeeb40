"""The live log: one tail for all pages, and the streams that show it.

A stream has no queue of its own: it remembers the last entry that it sent, and sends what came
later, as one message at a time. A client that reads slowly gets fewer and larger messages; what a
message has no room for is counted.

Invariant: a stream gets each entry once, in order, or counted as left out.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from eventlog import Entry, EventLog, EventLogError
from eventlog.plumbing import log_status, read_entries
from projections.errors import ProjectionError
from projections.signals.transitions import SIGNAL
from projections.web.views.log_rows import ROWS_MAX, Row, read_page, row_of

logger = logging.getLogger(__name__)

STREAMS_MAX = 256  # one for each open browser; each costs a descriptor and some 50 KiB
SHOWN_ROWS = 60  # in one message: more than a page shows at once
COALESCE_S = 0.1  # between two messages to one stream
CHECK_S = 1.0  # how often a stream looks whether a background task has ended
KEEP_ALIVE_S = 4.0  # a page calls more than 5 s of silence "not live"
RETRY_S = 2.0  # before the log is read again after an error
RETRY_MS = 2_000  # before a browser connects again

Status = Callable[[], Mapping[str, object]]


class LiveLog:
    """The newest rows of the log, and how many signals it has."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.rows: deque[Row] = deque(maxlen=ROWS_MAX)
        self.last_seq = 0
        self._chain: object = None  # of the last row: proves that it is the same log
        self.first_chain: str | None = None  # of the first entry: it identifies the log
        self.signals: int | None = None  # None: counting them at the start would be slow
        self.problem: str | None = None  # why the log is not followed now
        self.is_stopped = False
        self._changed = asyncio.Event()

    def load(self) -> None:
        """Reads the newest rows. Raises LogNotFound, LogCorrupt."""
        found = log_status(str(self._home))
        last_seq, signals = found["last_seq"], found["signals"]
        assert isinstance(last_seq, int)
        assert signals is None or isinstance(signals, int)
        page = read_page(self._home, after=0, before=last_seq + 1, limit=ROWS_MAX)
        self.rows.extend(reversed(page.rows))
        self.last_seq, self.signals, self._chain = last_seq, signals, found["chain"]
        first = next(read_entries(str(self._home), after=0, first_only=True), None)
        self.first_chain = None if first is None else first.chain

    async def follow(self) -> None:
        """Follows the log until it is cancelled; after an error it tries again."""
        while True:
            try:
                await self._follow()
            except (EventLogError, OSError) as error:
                what = error.what if isinstance(error, EventLogError) else str(error)
                if self.problem is None:
                    logger.warning("log_not_followed error=%s", error)
                self.problem = f"the log cannot be followed: {what}"
                self.wake()
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        # Begins with the last row again, which proves that it is the same log.
        after = max(0, self.last_seq - 1)
        with EventLog(self._home) as log:
            batches = log.tail(after=after, on_watch=self._on_idle)
            async with aclosing(batches):
                async for found in batches:
                    batch = self._continuation(found)
                    self.problem = None
                    if not batch:
                        continue
                    if self.first_chain is None:  # the log was empty
                        self.first_chain = batch[0].chain
                    self.rows.extend(row_of(entry) for entry in batch[-ROWS_MAX:])
                    self.last_seq, self._chain = batch[-1].seq, batch[-1].chain
                    if self.signals is not None:
                        self.signals += sum(entry.event == SIGNAL for entry in batch)
                    self.wake()

    def _continuation(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """The entries after the last row. Raises ProjectionError where they are of another log."""
        first = batch[0]
        if first.seq != self.last_seq:
            return batch
        if first.chain != self._chain:
            raise ProjectionError(
                f"the log was replaced: its entry {first.seq} is another one",
                where=str(self._home),
                do="restart the console",
            )
        return batch[1:]

    def _on_idle(self, _is_watched: bool) -> None:
        if self.problem is not None:
            self.problem = None
            self.wake()

    def wake(self) -> None:
        """Wakes all streams."""
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Ends all streams."""
        self.is_stopped = True
        self.wake()

    async def wait(self, timeout_s: float) -> None:
        """Waits until there may be something new."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def newest(self, after: int, count: int) -> tuple[list[Row], int]:
        """The newest rows after an entry, at most `count`, ascending; and how many there are."""
        found: list[Row] = []
        for row in reversed(self.rows):
            seq = row["seq"]
            assert isinstance(seq, int)
            if seq <= after:
                return found[:count][::-1], len(found)
            found.append(row)
        oldest = self.rows[0]["seq"] if self.rows else 1
        assert isinstance(oldest, int)
        return found[:count][::-1], len(found) + max(0, oldest - 1 - after)


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
