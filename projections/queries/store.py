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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, Unpack, overload

import aiosqlite

from eventlog import ThreadUnavailable
from eventlog.plumbing import run_in_thread, starting_thread, uncancelled
from projections.errors import ProjectionError
from projections.queries.as_of import AS_OF_BOUNDS, AsOfBounds, parse_as_of, require_settled
from projections.queries.filters import FilterArguments, signal_filter, whole_limit
from projections.queries.selection import (
    ROW_COLUMNS,
    Selection,
    Statement,
    by_signal_id,
    count_of,
    dict_with_extra,
    further_columns,
    latest,
    row_dict,
)
from projections.queries.stats import (
    TOTALS,
    Stats,
    read_stats,
    read_stats_by,
    require_group,
    totals_of,
)
from projections.queries.sync_store import ROWS_MAX, SyncSignalStore
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

T = TypeVar("T")
Row = tuple[object, ...]

_PROBLEMS = {DAMAGED: "it is damaged", ALTERED: "another program has changed its schema"}


class _CachedResult(NamedTuple):
    """A result, when it was read, and which state of the database stood before it was read."""

    found: Any
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
        self._cache: dict[tuple[object, ...], _CachedResult] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @staticmethod
    def open(home: str | os.PathLike[str]) -> SyncSignalStore:
        """The same without asyncio: `with SignalStore.open(home) as store: store.latest()`."""
        return SyncSignalStore(home)

    async def latest(
        self,
        symbol: str | None = None,
        limit: int = 10,
        *,
        as_of: str | datetime | None = None,
        columns: Sequence[str] = (),
        **filters: Unpack[FilterArguments],
    ) -> list[dict[str, object]]:
        """The signals that the filters select, newest timestamp first.

        `columns` names further keys of the signals. With `as_of`, RFC 3339 text or an aware
        datetime: the signals recorded by then, with what was known of them by then. Raises
        ProjectionError where that may still change: for a future time, or a table behind the log.
        """
        further = further_columns(columns, ROW_COLUMNS)
        chosen = signal_filter(symbol=symbol, **filters)
        selection = Selection(chosen, await self._seq_as_of(as_of))
        count = max(0, min(whole_limit(limit), ROWS_MAX))
        rows = await self._query(latest(selection, count, with_extra=bool(further)))
        return self._parsed(lambda: [row_dict(row, further) for row in rows])

    async def get(
        self, signal_id: str, *, as_of: str | datetime | None = None
    ) -> dict[str, object] | None:
        """One signal, with its other keys under `extra`; None where there is, or was, none."""
        rows = await self._query(by_signal_id(signal_id, await self._seq_as_of(as_of)))
        return self._parsed(lambda: dict_with_extra(rows[0])) if rows else None

    async def count(
        self,
        symbol: str | None = None,
        *,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> int:
        """The number of signals that the filters select, now or as of a past time."""
        chosen = signal_filter(symbol=symbol, **filters)
        ((count,),) = await self._query(count_of(Selection(chosen, await self._seq_as_of(as_of))))
        assert isinstance(count, int)
        return count

    @overload
    async def stats(
        self,
        symbol: str | None = None,
        *,
        by: None = None,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> Stats: ...

    @overload
    async def stats(
        self,
        symbol: str | None = None,
        *,
        by: str,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> list[Stats]: ...

    async def stats(
        self,
        symbol: str | None = None,
        *,
        by: str | None = None,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> Stats | list[Stats]:
        """The figures that docs/quants.md defines, of the signals that the filters select.

        With `by`, one of strategy, symbol, action, month and confidence: a list of them, one for
        each group, with the group's key first. `last_updated` is the recorded_at of the last entry
        that applied, of any signal; None where there is none.
        """
        require_group(by)
        chosen = signal_filter(symbol=symbol, **filters)
        selection = Selection(chosen, await self._seq_as_of(as_of))

        def read(database: sqlite3.Connection) -> Stats | list[Stats]:
            if by is None:
                return read_stats(database, selection)
            return read_stats_by(database, selection, by)

        # The caller may change what it gets, and the cache must not.
        return deepcopy(await self._read_snapshot(("stats", by, selection), read))

    async def totals(self) -> dict[str, object]:
        """The figures of the old tracker's get_stats: fast, whatever the number of outcomes."""
        return totals_of((await self._query(Statement(TOTALS, {})))[0])

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

    async def _seq_as_of(self, as_of: str | datetime | None) -> int | None:
        """The seq of the last fact recorded by then; 0 where there was none; None for now."""
        if as_of is None:
            return None
        moment = parse_as_of(as_of)
        (row,) = await self._query(Statement(AS_OF_BOUNDS, {"moment": moment}))
        bounds = AsOfBounds._make(row)
        if bounds.last_recorded_at <= moment:
            await run_in_thread(lambda: require_settled(self._home, bounds, moment))
        return bounds.seq

    def _parsed(self, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except DamagedDatabase as error:
            raise unreadable_error(self._path, error) from error

    async def _query(self, statement: Statement) -> Sequence[Row]:
        """The rows of a query. Raises ProjectionError without a database, and after `close`."""
        key = (statement.sql, *statement.parameters.items())
        try:
            return await self._cached(key, lambda: self._read(statement))
        except sqlite3.Error:  # no connection that stays open can read the WAL: the disk is full
            return await self._read_alone(lambda database: database.execute(*statement).fetchall())

    async def _read_snapshot(
        self, key: tuple[object, ...], read: Callable[[sqlite3.Connection], T]
    ) -> T:
        """The result of several queries in one snapshot, read through a connection of its own."""

        async def read_once() -> T:
            async with self._slots:
                if self._idle:  # so that there are never more than CONNECTIONS_MAX
                    await self._idle.pop().close()
                return await uncancelled(run_in_thread(lambda: read_table(self._path, read)))

        try:
            return await self._cached(key, read_once)
        except sqlite3.Error:
            return await self._read_alone(read)

    async def _cached(self, key: tuple[object, ...], read: Callable[[], Awaitable[T | None]]) -> T:
        """What `read` returns, or returned while the database was the same.

        `read` returns None where the database was replaced meanwhile. Raises sqlite3.Error where
        the WAL has no index, ProjectionError for everything else.
        """
        for _ in range(REPLACEMENTS_MAX):
            try:
                version = await self._read_version()
                cached = self._cache.get(key)
                now_s = time.monotonic()
                if cached and cached.version == version and now_s - cached.at_s < CACHE_S:
                    found: T = cached.found
                    return found
                result = await read()
            except FileNotFoundError:
                raise missing_error(self._path) from None
            except sqlite3.Error as error:
                if lacks_index(error):
                    raise
                if self._is_replaced():
                    continue
                raise unreadable_error(self._path, error) from error
            if result is not None:
                if len(self._cache) >= CACHE_RESULTS_MAX:
                    self._cache.clear()
                self._cache[key] = _CachedResult(result, now_s, version)
                return result
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

    async def _read(self, statement: Statement) -> Sequence[Row] | None:
        """The rows; None where the database was replaced meanwhile, so that they may be wrong."""
        async with self._slots:
            before = self._identity
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                rows = await connection.execute_fetchall(statement.sql, dict(statement.parameters))
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

    async def _read_alone(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Reads on a full disk, where no connection that stays open can read the WAL."""
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
