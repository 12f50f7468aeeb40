"""SignalStore, the read API over `data/signals.db`: a pool of read-only connections and a cache.

SQLite's data_version changes for a connection when another one commits. One connection, the
sentinel, reads it before each use of the cache, so a result is never older than the database. An
account that may only read the directory gets connections without locks while no process writes;
they are replaced as soon as one does.

`as_of` returns what was known at a past time: the signals recorded by then, with the outcomes and
order ids recorded by then. It raises while that result may still change.

Invariant: a result was the content of the table at some time after the call began; with `as_of`,
every call returns the same.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

import aiosqlite
import orjson

from eventlog import ThreadUnavailable
from eventlog.plumbing import log_status, run_in_thread, starting_thread
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
    ALTERED,
    DAMAGED,
    UNUSABLE,
    database_path,
    inspect_database,
    missing_error,
    read_table,
    require_readable,
    unreadable_error,
)
from projections.sqlite.file import DamagedDatabase, connect, file_identity, lacks_index

CONNECTIONS_MAX = 5  # more readers than this wait: reads are short, and each holds memory
REPLACEMENTS_MAX = 20  # attempts of one query while the database is replaced again and again
CACHE_S = 30.0
CACHE_RESULTS_MAX = 256  # a dashboard repeats a few dozen queries
ROWS_MAX = 100_000  # per result: a read must not pin the WAL for minutes

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

_PROBLEMS = {DAMAGED: "it is damaged", ALTERED: "another program has changed its schema"}


class _CachedRows(NamedTuple):
    """An answer, when it was given, and which state of the database stood before it was read."""

    rows: Sequence[Row]
    at_s: float
    version: tuple[int, ...]


class SignalStore:
    """Reads the signals of a home. For one event loop; use it with `async with`.

    Rows are dicts by column name; times are UTC text. Raises ProjectionError where there is no
    database, ForeignHome for a database of the old tracker, SchemaTooOld and SchemaTooNew for one
    of another version.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = os.fspath(home)
        self._path = database_path(Path(home))
        self._identity: tuple[int, ...] | None = None  # of the file that the connections have open
        self._idle: list[aiosqlite.Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX - 1)  # one is the sentinel
        self._sentinel: aiosqlite.Connection | None = None
        self._sentinel_lock = asyncio.Lock()
        self._version: tuple[int, ...] = ()  # of the database when its schema was checked
        self._schema_version: int | None = None  # SQLite's counter of schema changes, then
        self._cache: dict[tuple[object, ...], _CachedRows] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def latest(
        self,
        symbol: str | None = None,
        limit: int = 10,
        *,
        as_of: str | datetime | None = None,
    ) -> list[dict[str, object]]:
        """The signals of one symbol or of all, newest timestamp first.

        With `as_of`, RFC 3339 text or an aware datetime: the signals recorded by then, with what
        was known of them by then. Imported signals count from their import on. Raises
        ProjectionError where that may still change: for a future time, and where the table is
        behind the log.
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
        """One signal, with its other keys under `extra`; None where there is, or was, none."""
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
        """The number of signals now, or as of a past time."""
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
        the recorded_at of the last fact that applied, None where there is none.
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
        """Closes the connections; a query that is still waiting raises. Idempotent."""
        self._is_closed = True
        async with self._sentinel_lock:
            await self._close_connections()

    async def _close_connections(self) -> None:
        self._identity = None  # a connection in use is closed once its query has ended
        idle, self._idle = self._idle, []
        sentinel, self._sentinel = self._sentinel, None
        self._version, self._schema_version = (), None
        self._cache.clear()
        for connection in (*idle, *([sentinel] if sentinel is not None else [])):
            await connection.close()

    async def _seq_as_of(self, as_of: str | datetime) -> int:
        """The seq of the last fact recorded by then; 0 where there was none."""
        moment = parse_as_of(as_of)
        (row,) = await self._query(AS_OF_BOUNDS, moment)
        bounds = AsOfBounds._make(row)
        if bounds.last_recorded_at <= moment:
            await run_in_thread(lambda: require_settled(self._home, bounds, moment))
        return bounds.seq

    async def _query(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of a query. Raises ProjectionError without a database, and after `close`."""
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
                if lacks_index(error):
                    return await self._read_alone(statement, values)
                if self._is_replaced():
                    continue
                raise unreadable_error(self._path, error) from error
            if rows is None:
                continue
            if len(self._cache) >= CACHE_RESULTS_MAX:
                self._cache.clear()
            self._cache[key] = _CachedRows(rows, now_s, version)
            return rows
        raise unreadable_error(self._path, "it is replaced again and again")

    async def _read_version(self) -> tuple[int, ...]:
        """A value that changes with each commit, and when the database file is replaced."""
        async with self._sentinel_lock:
            self._check_open()
            if self._sentinel is None or self._is_replaced():
                await self._close_connections()
                self._sentinel, self._identity = await self._connect_sentinel()
            assert self._identity is not None, "set with the sentinel"
            version = (*self._identity, await _pragma(self._sentinel, "data_version"))
            if version != self._version:
                await self._check_schema(self._sentinel)
                self._version = version
            return version

    async def _check_schema(self, sentinel: aiosqlite.Connection) -> None:
        """Raises DamagedDatabase where another program has changed the schema."""
        schema_version = await _pragma(sentinel, "schema_version")
        if schema_version != self._schema_version:
            found = await run_in_thread(lambda: inspect_database(self._path, check_pages=False))
            require_readable(self._path, found)
            if found in UNUSABLE:
                raise DamagedDatabase(_PROBLEMS[found])
            self._schema_version = schema_version

    async def _connect_sentinel(self) -> tuple[aiosqlite.Connection, tuple[int, ...]]:
        for _ in range(REPLACEMENTS_MAX):
            before = self._current_identity()
            try:
                found = await run_in_thread(lambda: inspect_database(self._path, check_pages=False))
                require_readable(self._path, found)
                sentinel = await self._connect() if found not in UNUSABLE else None
                problem = _PROBLEMS.get(found, found)
            except sqlite3.Error as error:
                if lacks_index(error):
                    raise
                sentinel, problem = None, str(error)
            if self._current_identity() != before:  # another file, or a WAL was created meanwhile
                if sentinel is not None:
                    await sentinel.close()
            elif sentinel is None:
                raise unreadable_error(self._path, problem)
            else:
                return sentinel, before
        raise unreadable_error(self._path, "it is replaced again and again")

    def _check_open(self) -> None:
        if self._is_closed:
            raise ProjectionError(
                "this store is closed",
                where=str(self._path),
                do="open another: `async with SignalStore(home) as store`",
            )

    def _is_replaced(self) -> bool:
        return self._current_identity() != self._identity

    def _current_identity(self) -> tuple[int, ...]:
        try:
            return file_identity(self._path)
        except FileNotFoundError:
            raise missing_error(self._path) from None

    async def _read(self, statement: str, values: Sequence[object]) -> Sequence[Row] | None:
        """The rows; None where the database was replaced meanwhile, so that they may be wrong."""
        async with self._slots:
            before = self._identity
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                rows = await connection.execute_fetchall(statement, values)
                is_same = (
                    before is not None and before == self._identity == self._current_identity()
                )
            except BaseException:
                # Cancelled or failed: the statement may still be running in its thread.
                with suppress(sqlite3.Error):
                    await connection.close()
                raise
            if not is_same:
                await connection.close()
                return None
            self._idle.append(connection)
            return [tuple(row) for row in rows]

    async def _read_alone(self, statement: str, values: Sequence[object]) -> Sequence[Row]:
        """Reads on a full disk, where no connection that stays open can read the WAL."""

        def read(database: sqlite3.Connection) -> Sequence[Row]:
            return database.execute(statement, values).fetchall()

        try:
            return await run_in_thread(lambda: read_table(self._path, read))
        except FileNotFoundError:
            raise missing_error(self._path) from None
        except sqlite3.Error as error:
            raise unreadable_error(self._path, error) from error

    async def _connect(self) -> aiosqlite.Connection:
        # Not opened by aiosqlite: where opening fails, its thread would outlive the event loop.
        opened = await run_in_thread(lambda: connect(self._path, readonly=True))
        try:
            with starting_thread():
                return await aiosqlite.Connection(lambda: opened, 64)
        except ThreadUnavailable:
            opened.close()
            raise


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    rows = await connection.execute_fetchall(f"PRAGMA {name}")
    return int(next(iter(rows))[0])


def require_settled(home: str, bounds: AsOfBounds, moment: str) -> None:
    """Raises ProjectionError where the result as of `moment` may still change.

    Reads the log only where the table holds no fact recorded later.
    """
    if bounds.last_recorded_at > moment:
        return
    require_past(moment, datetime.now(UTC))
    last_seq = log_status(home, count=False)["last_seq"]
    assert isinstance(last_seq, int)
    if bounds.checkpoint < last_seq:
        raise ProjectionError(
            f"the table is behind the log and does not cover {moment} yet: it is at entry"
            f" {bounds.checkpoint} of {last_seq}",
            where=home,
            do="run `eventlog project sqlite --once`, or start the daemon",
        )
