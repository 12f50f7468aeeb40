"""The read API over `data/signals.db`: a small pool of read-only connections, and a cache.

SQLite's data_version tells a connection when another one has committed. One connection is asked
for it before each answer from the cache, so an answer is never older than the database. An account
that may only read the directory gets connections that take no locks while nobody writes; they are
given up as soon as somebody does.

`as_of` asks what was known at a moment: what the log had recorded by then, with the outcomes and
order ids that it had by then. It is answered only once that answer is final.

Invariant: what comes out was the content of the table at some moment after the call began; with
`as_of`, it is the same whenever it is asked.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import aiosqlite
import orjson

from eventlog.plumbing import log_status, run_in_thread
from projections.errors import ProjectionError
from projections.queries.as_of import (
    AS_OF_BOUNDS,
    BY_SIGNAL_ID_AS_OF,
    COUNT_AS_OF,
    LATEST_AS_OF,
    LATEST_OF_SYMBOL_AS_OF,
    STATS_AS_OF,
    AsOfBounds,
    parse_as_of,
    require_past,
)
from projections.signals import schema
from projections.sqlite.database import (
    DAMAGED,
    FOREIGN,
    database_path,
    inspect_database,
    require_compatible,
)
from projections.sqlite.file import connect, file_identity

CONNECTIONS_MAX = 5  # more readers than this wait: reads are short, and each holds memory
REPLACEMENTS_MAX = 20  # times in a row that the database is replaced while somebody asks
CACHE_S = 30.0
CACHE_RESULTS_MAX = 256  # answers; a dashboard asks a few dozen questions again and again
ROWS_MAX = 100_000  # of one answer: a read must not pin the WAL for minutes

_COLUMNS = ", ".join(f"s.{column}" for column in schema.COLUMNS)
LATEST = f"SELECT {_COLUMNS} FROM signals AS s ORDER BY s.timestamp DESC, s.id DESC LIMIT ?"
LATEST_OF_SYMBOL = f"""SELECT {_COLUMNS} FROM signals AS s WHERE s.symbol = ?
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?"""
BY_SIGNAL_ID = f"""SELECT {_COLUMNS}, x.extra FROM signals AS s
    LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id WHERE s.signal_id = ?"""
COUNT = "SELECT count(*) FROM signals"
# The two sums come from the partial index on outcome alone, whatever the size of the table.
STATS = """SELECT (SELECT count(*) FROM signals),
    (SELECT count(*) FROM signals WHERE outcome = 'win'),
    (SELECT count(*) FROM signals WHERE outcome = 'loss'),
    (SELECT avg(profit_loss_pct) FROM signals WHERE outcome IS NOT NULL),
    (SELECT recorded_at FROM lifecycle ORDER BY seq DESC LIMIT 1)"""

Row = tuple[object, ...]


class _CachedRows(NamedTuple):
    """An answer, when it was given, and which state of the database stood before it was read."""

    rows: Sequence[Row]
    at_s: float
    version: tuple[int, ...]


class SignalStore:
    """Reads the signals of a home. For one event loop; open it with `async with`.

    Rows are dicts by the columns of the table; times are UTC text. Raises ProjectionError where
    there is no database, ForeignHome for one of the old tracker.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = os.fspath(home)
        self._path = database_path(Path(home))
        self._identity: tuple[int, ...] | None = None  # of the file that the connections are to
        self._idle: list[aiosqlite.Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX - 1)  # one is the sentinel
        self._sentinel: aiosqlite.Connection | None = None
        self._sentinel_lock = asyncio.Lock()
        self._cache: dict[tuple[object, ...], _CachedRows] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def latest(
        self,
        symbol: str | None = None,
        limit: int = 10,
        *,
        as_of: str | datetime | None = None,
    ) -> list[dict[str, object]]:
        """The newest signals by timestamp, newest first, of one symbol or of all.

        With `as_of`, RFC 3339 text or an aware datetime, those that were recorded by then, with
        what was known of them by then. Signals that were imported count from their import on.
        Raises ProjectionError where that may still change: for a moment to come, and where the
        table is behind the log.
        """
        count = max(0, min(limit, ROWS_MAX))
        symbols = () if symbol is None else (symbol.strip().upper(),)
        if as_of is None:
            rows = await self._query(LATEST_OF_SYMBOL if symbols else LATEST, *symbols, count)
        else:
            seq = await self._seq_as_of(as_of)
            rows = await self._query(
                LATEST_OF_SYMBOL_AS_OF if symbols else LATEST_AS_OF, seq, count, *symbols
            )
        return [dict(zip(schema.COLUMNS, row, strict=True)) for row in rows]

    async def get(
        self, signal_id: str, *, as_of: str | datetime | None = None
    ) -> dict[str, object] | None:
        """One signal, with its further keys under `extra`; None when there is, or was, none."""
        if as_of is None:
            rows = await self._query(BY_SIGNAL_ID, signal_id)
        else:
            rows = await self._query(BY_SIGNAL_ID_AS_OF, await self._seq_as_of(as_of), signal_id)
        if not rows:
            return None
        *columns, extra = rows[0]
        found = dict(zip(schema.COLUMNS, columns, strict=True))
        return found | {"extra": orjson.loads(extra) if isinstance(extra, str) else {}}

    async def count(self, *, as_of: str | datetime | None = None) -> int:
        """How many signals there are, or were."""
        if as_of is None:
            ((count,),) = await self._query(COUNT)
        else:
            ((count,),) = await self._query(COUNT_AS_OF, await self._seq_as_of(as_of))
        assert isinstance(count, int)
        return count

    async def stats(self, *, as_of: str | datetime | None = None) -> dict[str, object]:
        """total_signals, wins, losses, win_rate, average_return and last_updated.

        `win_rate` is the percentage of wins among wins and losses, `average_return` the mean
        profit_loss_pct of signals with an outcome, both rounded to two digits; `last_updated` is
        the time of the last fact that applied, None when there is none.
        """
        if as_of is None:
            (row,) = await self._query(STATS)
        else:
            (row,) = await self._query(STATS_AS_OF, await self._seq_as_of(as_of))
        total, wins, losses, average, last_updated = row
        assert isinstance(wins, int)
        assert isinstance(losses, int)
        closed = wins + losses
        return {
            "total_signals": total,
            "wins": wins,
            "losses": losses,
            "win_rate": round(100 * wins / closed, 2) if closed else 0.0,
            "average_return": round(average, 2) if isinstance(average, float) else 0.0,
            "last_updated": last_updated,
        }

    async def close(self) -> None:
        """Closes the connections; a question that is not answered yet is refused. Idempotent."""
        self._is_closed = True
        async with self._sentinel_lock:
            await self._close_connections()

    async def _close_connections(self) -> None:
        self._identity = None  # those that are being asked are closed when they have answered
        idle, self._idle = self._idle, []
        sentinel, self._sentinel = self._sentinel, None
        self._cache.clear()
        for connection in (*idle, *([sentinel] if sentinel is not None else [])):
            await connection.close()

    async def _seq_as_of(self, as_of: str | datetime) -> int:
        """The seq of the last fact that was recorded by then; 0 where there was none."""
        moment = parse_as_of(as_of)
        (row,) = await self._query(AS_OF_BOUNDS, moment)
        bounds = AsOfBounds._make(row)
        if bounds.last_recorded_at <= moment:
            await run_in_thread(lambda: require_settled(self._home, bounds, moment))
        return bounds.seq

    async def _query(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows. Raises ProjectionError where there is no database, and after `close`."""
        key = (statement, *values)
        for _ in range(REPLACEMENTS_MAX):
            try:
                version = await self._read_version()
                cached = self._cache.get(key)
                now_s = time.monotonic()
                if cached and cached.version == version and now_s - cached.at_s < CACHE_S:
                    return cached.rows
                rows = await self._read(statement, values)
            except sqlite3.Error as error:
                if self._is_replaced():
                    continue
                raise self._unreadable_error(str(error)) from error
            if rows is None:
                continue
            if len(self._cache) >= CACHE_RESULTS_MAX:
                self._cache.clear()
            self._cache[key] = _CachedRows(rows, now_s, version)
            return rows
        raise self._unreadable_error("it is replaced again and again")

    def _unreadable_error(self, problem: str) -> ProjectionError:
        return ProjectionError(
            f"the database cannot be read: {problem}",
            where=str(self._path),
            do="see whether this account may read it; `eventlog rebuild-database` heals a damaged "
            "one",
        )

    async def _read_version(self) -> tuple[int, ...]:
        """Changes whenever somebody commits, and when another database is put in its place."""
        async with self._sentinel_lock:
            self._check_open()
            if self._sentinel is None or self._is_replaced():
                await self._close_connections()
                self._sentinel, self._identity = await self._connect_sentinel()
            rows = await self._sentinel.execute_fetchall("PRAGMA data_version")
            assert self._identity is not None, "set with the sentinel"
            return (*self._identity, int(next(iter(rows))[0]))

    async def _connect_sentinel(self) -> tuple[aiosqlite.Connection, tuple[int, ...]]:
        for _ in range(REPLACEMENTS_MAX):
            before = self._current_identity()
            try:
                found = await run_in_thread(lambda: inspect_database(self._path, check_pages=False))
                if found == FOREIGN:
                    require_compatible(self._path, FOREIGN)
                sentinel = await self._connect() if found != DAMAGED else None
                problem = "it is damaged"
            except sqlite3.Error as error:
                sentinel, problem = None, str(error)
            if self._current_identity() != before:  # another file, or the WAL is there only now
                if sentinel is not None:
                    await sentinel.close()
            elif sentinel is None:
                raise self._unreadable_error(problem)
            else:
                return sentinel, before
        raise self._unreadable_error("it is replaced again and again")

    def _check_open(self) -> None:
        if self._is_closed:
            raise ProjectionError(
                "this store is closed",
                where=str(self._path),
                do="make another: `async with SignalStore(home) as store`",
            )

    def _is_replaced(self) -> bool:
        return self._current_identity() != self._identity

    def _current_identity(self) -> tuple[int, ...]:
        try:
            return file_identity(self._path)
        except FileNotFoundError:
            raise ProjectionError(
                "there is no database yet",
                where=str(self._path),
                do="run `eventlog project sqlite`, or `eventlog rebuild-database`",
            ) from None

    async def _read(self, statement: str, values: Sequence[object]) -> Sequence[Row] | None:
        """The rows; None when they may not be believed, for the database was replaced."""
        async with self._slots:
            before = self._identity
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                rows = await connection.execute_fetchall(statement, values)
                is_same = (
                    before is not None and before == self._identity == self._current_identity()
                )
            except BaseException:
                # Cancelled or failed: the statement may still run in its thread.
                with suppress(sqlite3.Error):
                    await connection.close()
                raise
            if not is_same:
                await connection.close()
                return None
            self._idle.append(connection)
            return [tuple(row) for row in rows]

    async def _connect(self) -> aiosqlite.Connection:
        # Opened in a thread of its own: where that fails, aiosqlite's would outlive the event loop.
        opened = await run_in_thread(lambda: connect(self._path, readonly=True))
        return await aiosqlite.Connection(lambda: opened, 64)


def require_settled(home: str, bounds: AsOfBounds, moment: str) -> None:
    """Raises ProjectionError where what was known at the moment may still become more.

    It looks at the log only where the table holds nothing that was recorded later.
    """
    if bounds.last_recorded_at > moment:
        return
    require_past(moment, datetime.now(UTC))
    last_seq = log_status(home, count=False)["last_seq"]
    assert isinstance(last_seq, int)
    if bounds.checkpoint < last_seq:
        raise ProjectionError(
            f"the table does not reach {moment} yet: it is at entry {bounds.checkpoint} of"
            f" {last_seq}",
            where=home,
            do="run `eventlog project sqlite --once`, or start the daemon",
        )
