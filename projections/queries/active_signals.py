"""Keeps active signals in memory, and counts how many signals became trades.

The first refresh loads the table. Each refresh projects the log up to its durable end (fenced, so
safe beside a daemon) and then reads the facts that were new in the table. The projection alone
decides which facts apply, so memory and table never differ.

Invariant: after `refresh`, `active` holds exactly the signals of the table that can still change.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from sqlite3 import Connection
from types import MappingProxyType
from typing import Self

from eventlog import EventLog
from eventlog.plumbing import run_in_thread, uncancelled
from projections.runtime.projector import Projector
from projections.signals.transitions import (
    ACTIVE_EVENTS,
    CANCELLED,
    CLOSED,
    EXECUTED,
    EXPIRED,
    SIGNAL,
    SKIPPED,
)
from projections.sqlite.database import database_path, require_exact
from projections.sqlite.file import connect
from projections.sqlite.projection import SqliteProjection

FACTS_PER_READ_MAX = 10_000  # a few MiB, a few ms
CONVERSION_DAYS_DEFAULT = 30

_FIELDS = (
    "s.signal_id, s.id, s.symbol, s.action, s.entry_price, s.target_price, s.stop_price,"
    " s.confidence, s.strategy, s.timestamp, s.order_id"
)
# `event <> 'signal'` lets SQLite use the partial index on facts.
_LOAD_ACTIVE = f"""SELECT {_FIELDS} FROM signals AS s WHERE NOT EXISTS (
    SELECT 1 FROM lifecycle AS l WHERE l.signal_id = s.signal_id AND l.event <> 'signal'
    AND l.event NOT IN ('signal', 'executed'))"""
_REASON = "CASE WHEN event = 'skipped' THEN json_extract(detail, '$.reason') ELSE '' END"
_LOAD_COUNTS = f"""SELECT substr(recorded_at, 1, 10), event, {_REASON}, count(*)
    FROM lifecycle GROUP BY 1, 2, 3"""
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM lifecycle"
_FACTS_AFTER = f"""SELECT f.seq, f.event, substr(f.recorded_at, 1, 10), {_REASON}, {_FIELDS}
    FROM lifecycle AS f JOIN signals AS s ON s.signal_id = f.signal_id
    WHERE f.seq > ? ORDER BY f.seq LIMIT ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSignal:
    """A signal that can still change."""

    signal_id: str
    seq: int
    symbol: str
    action: str
    entry_price: float
    target_price: float
    stop_price: float
    confidence: float  # percent
    strategy: str
    timestamp: str  # UTC
    order_id: str | None  # None before execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Counts of signals and facts, each on the UTC day on which it was recorded."""

    days: int
    generated: int
    executed: int
    skipped: int
    skipped_by_reason: Mapping[str, int]
    expired: int
    cancelled: int
    closed: int
    rate: float  # percent: executed of generated, two digits; 0 where none was generated


class LifecycleTracker:
    """Tracks the active signals of one home. For one event loop; use it with `async with`."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = Path(home)
        self._path = database_path(self._home)
        self._projection = SqliteProjection()
        self._active: dict[str, ActiveSignal] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()  # (UTC day, event, reason)
        self._last_seq: int | None = None  # None until the table was read
        self._refresh_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.refresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Does nothing: no resource is held between two refreshes."""

    @property
    def active(self) -> Mapping[str, ActiveSignal]:
        """Signals that can still change, by signal_id, as of the last refresh."""
        return MappingProxyType(self._active)

    async def refresh(self) -> None:
        """Brings table and memory up to the durable end of the log."""
        async with self._refresh_lock:
            with EventLog(self._home) as log:
                if log.last_seq == 0:
                    return
            await Projector(self._home, self._projection).run(once=True)
            await uncancelled(run_in_thread(self._read_table))

    async def follow(self) -> None:
        """Refreshes whenever the log grows, until cancelled."""
        with EventLog(self._home) as log:
            async with aclosing(log.tail(after=self._last_seq or 0)) as batches:
                async for _ in batches:
                    await self.refresh()

    def conversion(
        self, days: int = CONVERSION_DAYS_DEFAULT, *, today: date | None = None
    ) -> Conversion:
        """Counts of the last `days` UTC days, `today` included, as of the last refresh."""
        last = today or datetime.now(UTC).date()
        first = (last - timedelta(days=days - 1)).isoformat()
        events: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for (day, event, reason), count in self._counts.items():
            if first <= day <= last.isoformat():
                events[event] += count
                if event == SKIPPED:
                    reasons[reason] += count
        generated = events[SIGNAL]
        return Conversion(
            days=days,
            generated=generated,
            executed=events[EXECUTED],
            skipped=events[SKIPPED],
            skipped_by_reason=MappingProxyType(dict(reasons.most_common())),
            expired=events[EXPIRED],
            cancelled=events[CANCELLED],
            closed=events[CLOSED],
            rate=round(100 * events[EXECUTED] / generated, 2) if generated else 0.0,
        )

    def _read_table(self) -> None:
        with closing(connect(self._path, readonly=True)) as database:
            require_exact(database)
            if self._last_seq is None:
                self._load(database)
            while rows := database.execute(
                _FACTS_AFTER, (self._last_seq, FACTS_PER_READ_MAX)
            ).fetchall():
                for seq, event, day, reason, *fields in rows:
                    self._counts[(day, event, reason or "")] += 1
                    self._apply_fact(event, fields)
                    self._last_seq = seq

    def _load(self, database: Connection) -> None:
        database.execute("BEGIN")  # one snapshot for the three queries
        (last_seq,) = database.execute(_LAST_SEQ).fetchone()
        for fields in database.execute(_LOAD_ACTIVE):
            self._active[fields[0]] = _active(fields)
        for day, event, reason, count in database.execute(_LOAD_COUNTS):
            self._counts[(day, event, reason or "")] = count
        database.execute("COMMIT")
        self._last_seq = last_seq

    def _apply_fact(self, event: str, fields: list[object]) -> None:
        signal_id = str(fields[0])
        if event not in ACTIVE_EVENTS:
            self._active.pop(signal_id, None)
        elif event == SIGNAL:
            # The row already holds later facts, which are read after this one.
            self._active[signal_id] = replace(_active(fields), order_id=None)
        elif signal_id in self._active:
            self._active[signal_id] = _active(fields)


def _active(fields: tuple[object, ...] | list[object]) -> ActiveSignal:
    names = ActiveSignal.__dataclass_fields__
    return ActiveSignal(**dict(zip(names, fields, strict=True)))  # type: ignore[arg-type]  # columns
