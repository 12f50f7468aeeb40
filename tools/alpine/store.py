"""PostgreSQL: the table `signals` and its statements. The only module that uses asyncpg.

Invariant: a verification_hash is in the table at most once, and values travel as parameters only.
"""

import asyncio
from dataclasses import dataclass
from typing import Self

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no type information

from tools.alpine.errors import CannotStart

CONNECTIONS_MAX = 10  # of PostgreSQL's 100; delivery has at most ten requests in flight
STATEMENT_SECONDS_MAX = 10.0  # a lock held by hand must not block every request
CLOSE_SECONDS_MAX = 2.0  # a stop takes seconds even if PostgreSQL is gone
ID_MAX = 2**63 - 1  # BIGINT

# The limits are those of the present Alpine, which answers 500 to a violation.
SCHEMA = """
CREATE TABLE IF NOT EXISTS signals (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol VARCHAR(20) NOT NULL,
    action VARCHAR(4) NOT NULL CHECK (action IN ('BUY', 'SELL')),
    price DOUBLE PRECISION NOT NULL CHECK (price > 0 AND price < 'Infinity'),
    confidence DOUBLE PRECISION NOT NULL CHECK (confidence >= 0 AND confidence <= 1),
    target_price DOUBLE PRECISION NOT NULL CHECK (target_price > 0 AND target_price < 'Infinity'),
    stop_loss DOUBLE PRECISION NOT NULL CHECK (stop_loss > 0 AND stop_loss < 'Infinity'),
    rationale TEXT NOT NULL CHECK (char_length(rationale) >= 20),
    verification_hash VARCHAR(64) NOT NULL UNIQUE,
    is_active BOOLEAN NOT NULL DEFAULT TRUE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""
COLUMNS = (
    "id, symbol, action, price, confidence, target_price, stop_loss, rationale, "
    "verification_hash, is_active, created_at"
)
SCHEMA_LOCK = 0x53474C47  # CREATE TABLE IF NOT EXISTS races with itself in two servers


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSignal:
    """A row before PostgreSQL has given it an id; confidence is a fraction, 0 to 1."""

    symbol: str
    action: str
    price: float
    confidence: float
    target_price: float
    stop_loss: float
    rationale: str
    verification_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The id of a hash; `is_new` if this call stored it."""

    id: int
    is_new: bool


class StoreFailed(Exception):
    """PostgreSQL refused a statement or does not answer; `reason` holds no value of the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Store:
    """The table behind a pool of connections. Safe for concurrent tasks of one event loop."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, database_url: str) -> Self:
        """Connect, make the table where there is none. Raises CannotStart."""
        try:
            pool = await asyncpg.create_pool(
                database_url,
                min_size=1,
                max_size=CONNECTIONS_MAX,
                command_timeout=STATEMENT_SECONDS_MAX,
                timeout=STATEMENT_SECONDS_MAX,
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            # The message may quote the URL with its password: only the type is reported.
            raise CannotStart(
                f"PostgreSQL refuses the connection: {type(error).__name__}",
                do="check DATABASE_URL (postgresql://user:password@host/database)",
            ) from None
        try:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
                await connection.execute(SCHEMA)
                await connection.fetch(f"SELECT {COLUMNS} FROM signals LIMIT 0")
        except asyncpg.PostgresError as error:
            await pool.close()
            raise CannotStart(
                f"the table `signals` cannot be used: {_reason(error)}",
                do="give DATABASE_URL a database of its own",
            ) from None
        return cls(pool)

    async def find(self, verification_hash: str) -> int | None:
        """The id under which a hash is known. Raises StoreFailed."""
        row = await self._one(
            "SELECT id FROM signals WHERE verification_hash = $1", verification_hash
        )
        return None if row is None else int(row["id"])

    async def add(self, new: NewSignal) -> Stored:
        """Store a signal, or return the id of the stored one; concurrent calls leave one row.

        Raises StoreFailed.
        """
        row = await self._one(
            "INSERT INTO signals (symbol, action, price, confidence, target_price, stop_loss,"
            " rationale, verification_hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            " ON CONFLICT (verification_hash) DO NOTHING RETURNING id",
            new.symbol,
            new.action,
            new.price,
            new.confidence,
            new.target_price,
            new.stop_loss,
            new.rationale,
            new.verification_hash,
        )
        if row is not None:
            return Stored(id=int(row["id"]), is_new=True)
        known = await self.find(new.verification_hash)
        if known is None:  # the row was deleted by hand meanwhile
            raise StoreFailed("the row with this hash vanished")
        return Stored(id=known, is_new=False)

    async def page(self, *, after: int, limit: int) -> list[dict[str, object]]:
        """At most `limit` rows with an id above `after`, in id order. Raises StoreFailed."""
        try:
            rows = await self._pool.fetch(
                f"SELECT {COLUMNS} FROM signals WHERE id > $1 ORDER BY id LIMIT $2", after, limit
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise StoreFailed(_reason(error)) from None
        return [dict(row) for row in rows]

    async def ping(self) -> None:
        """Return when PostgreSQL answers. Raises StoreFailed."""
        await self._one("SELECT 1")

    async def close(self) -> None:
        """Let statements under way end, but not for long."""
        try:
            await asyncio.wait_for(self._pool.close(), CLOSE_SECONDS_MAX)
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._pool.terminate()

    async def _one(self, statement: str, *values: object) -> asyncpg.Record | None:
        try:
            return await self._pool.fetchrow(statement, *values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            # TimeoutError is an OSError; asyncpg's DataError, for text that no UTF-8 can hold,
            # is an InterfaceError.
            raise StoreFailed(_reason(error)) from None


def _reason(error: Exception) -> str:
    """The kind and the constraint, never PostgreSQL's detail line, which quotes the row."""
    constraint = getattr(error, "constraint_name", None)
    return f"{type(error).__name__} {constraint}" if constraint else type(error).__name__
