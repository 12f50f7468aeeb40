"""The read API over `data/signals.db`: a small pool of read-only connections, and a cache.

SQLite's data_version tells a connection when another one has committed. One connection is asked
for it before each answer from the cache, so an answer is never older than the database.

Invariant: what comes out was the content of the table at some moment after the call began.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import aiosqlite
import orjson

from projections import schema
from projections.database import connect, database_path
from projections.errors import ProjectionError

CONNECTIONS_MAX = 5  # more readers than this wait: reads are short, and each holds memory
CACHE_S = 30.0
CACHED_MAX = 256  # answers; a dashboard asks a few dozen questions again and again
ROWS_MAX = 100_000  # of one answer: a read must not pin the WAL for minutes

_COLUMNS = ", ".join(f"s.{column}" for column in schema.COLUMNS)
LATEST = f"SELECT {_COLUMNS} FROM signals AS s ORDER BY s.timestamp DESC, s.id DESC LIMIT ?"
LATEST_OF = f"""SELECT {_COLUMNS} FROM signals AS s WHERE s.symbol = ?
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?"""
ONE = f"""SELECT {_COLUMNS}, x.extra FROM signals AS s
    LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id WHERE s.signal_id = ?"""
COUNT = "SELECT count(*) FROM signals"
# The two sums come from the partial index on outcome alone, whatever the size of the table.
STATS = """SELECT (SELECT count(*) FROM signals),
    (SELECT count(*) FROM signals WHERE outcome = 'win'),
    (SELECT count(*) FROM signals WHERE outcome = 'loss'),
    (SELECT avg(profit_loss_pct) FROM signals WHERE outcome IS NOT NULL),
    (SELECT recorded_at FROM lifecycle ORDER BY seq DESC LIMIT 1)"""

Row = tuple[object, ...]


class _Cached(NamedTuple):
    """An answer, when it was given, and the data_version that stood before it was read."""

    rows: Sequence[Row]
    at_s: float
    version: int


class SignalStore:
    """Reads the signals of a home. For one event loop; open it with `async with`.

    Rows are dicts by the columns of the table; times are UTC text. Raises ProjectionError where
    there is no database.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._path = database_path(Path(home))
        self._inode: tuple[int, int] | None = None
        self._idle: list[aiosqlite.Connection] = []
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._sentinel: aiosqlite.Connection | None = None
        self._sentinel_lock = asyncio.Lock()
        self._cache: dict[tuple[object, ...], _Cached] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def latest(self, symbol: str | None = None, limit: int = 10) -> list[dict[str, object]]:
        """The newest signals by timestamp, newest first, of one symbol or of all."""
        count = max(0, min(limit, ROWS_MAX))
        if symbol is None:
            rows = await self._ask(LATEST, count)
        else:
            rows = await self._ask(LATEST_OF, symbol.strip().upper(), count)
        return [dict(zip(schema.COLUMNS, row, strict=True)) for row in rows]

    async def get(self, signal_id: str) -> dict[str, object] | None:
        """One signal, with its further keys under `extra`; None when there is none."""
        rows = await self._ask(ONE, signal_id)
        if not rows:
            return None
        *columns, extra = rows[0]
        found = dict(zip(schema.COLUMNS, columns, strict=True))
        return found | {"extra": orjson.loads(extra) if isinstance(extra, str) else {}}

    async def count(self) -> int:
        """How many signals there are."""
        ((count,),) = await self._ask(COUNT)
        assert isinstance(count, int)
        return count

    async def stats(self) -> dict[str, object]:
        """total_signals, wins, losses, win_rate, average_return and last_updated.

        `win_rate` is the percentage of wins among wins and losses, `average_return` the mean
        profit_loss_pct of signals with an outcome, both rounded to two digits; `last_updated` is
        the time of the last fact that applied, None when there is none.
        """
        ((total, wins, losses, average, last_updated),) = await self._ask(STATS)
        assert isinstance(wins, int)
        assert isinstance(losses, int)
        ended = wins + losses
        return {
            "total_signals": total,
            "wins": wins,
            "losses": losses,
            "win_rate": round(100 * wins / ended, 2) if ended else 0.0,
            "average_return": round(average, 2) if isinstance(average, float) else 0.0,
            "last_updated": last_updated,
        }

    async def close(self) -> None:
        """Closes the connections."""
        idle, self._idle = self._idle, []
        sentinel, self._sentinel = self._sentinel, None
        self._cache.clear()
        for connection in (*idle, *([sentinel] if sentinel is not None else [])):
            await connection.close()

    async def _ask(self, statement: str, *values: object) -> Sequence[Row]:
        key = (statement, *values)
        try:
            version = await self._version()
            cached = self._cache.get(key)
            now_s = time.monotonic()
            if cached and cached.version == version and now_s - cached.at_s < CACHE_S:
                return cached.rows
            rows = await self._read(statement, values)
        except sqlite3.Error as error:
            raise ProjectionError(
                f"the database cannot be read: {error}",
                where=str(self._path),
                do="see `eventlog status`; `eventlog rebuild-database` heals a damaged one",
            ) from error
        if len(self._cache) >= CACHED_MAX:
            self._cache.clear()
        self._cache[key] = _Cached(rows, now_s, version)
        return rows

    async def _version(self) -> int:
        """Changes whenever somebody commits. The database may be replaced by another, too."""
        async with self._sentinel_lock:
            inode = self._inode_now()
            if inode != self._inode:
                await self.close()
                self._inode = inode
            if self._sentinel is None:
                self._sentinel = await self._connect()
            rows = await self._sentinel.execute_fetchall("PRAGMA data_version")
            return int(next(iter(rows))[0])

    def _inode_now(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            raise ProjectionError(
                "there is no database yet",
                where=str(self._path),
                do="run `eventlog project sqlite`, or `eventlog rebuild-database`",
            ) from None
        return (status.st_dev, status.st_ino)

    async def _read(self, statement: str, values: Sequence[object]) -> Sequence[Row]:
        async with self._places:
            inode = self._inode
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                rows = await connection.execute_fetchall(statement, values)
            except BaseException:
                # Cancelled or failed: the statement may still run in its thread.
                with suppress(sqlite3.Error):
                    await connection.close()
                raise
            if inode == self._inode:
                self._idle.append(connection)
            else:
                await connection.close()
            return [tuple(row) for row in rows]

    async def _connect(self) -> aiosqlite.Connection:
        path = self._path
        return await aiosqlite.Connection(lambda: connect(path, readonly=True), 64)
