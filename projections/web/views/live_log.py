"""The live log: one tail for all pages, which keeps the newest rows.

Invariant: the rows are the newest entries of one log, in order, each once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from eventlog import Entry, EventLog, EventLogError
from eventlog.plumbing import log_status, read_entries
from projections.errors import ProjectionError
from projections.signals.transitions import SIGNAL
from projections.web.views.log_rows import ROWS_MAX, Row, read_page, row_of

logger = logging.getLogger(__name__)

RETRY_S = 2.0  # before the log is read again after an error


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
