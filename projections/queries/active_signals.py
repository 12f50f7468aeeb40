"""Keeps active signals in memory, and counts how many signals became trades.

The first refresh loads the table. Each refresh projects the log up to its durable end (fenced, so
safe beside a daemon) and then reads the facts that were new in the table. The projection alone
decides which facts apply, so memory and table never differ.

A signal is active while it is `open`, `executed` or `reduced`: it is undecided, or an order or a
position is open. A closed signal whose `closed` is voided becomes active again.

Invariant: after `refresh`, `active` holds exactly the active signals of the table.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from sqlite3 import Connection
from types import MappingProxyType
from typing import Self

from eventlog import EventLog
from eventlog.plumbing import run_in_thread, uncancelled
from projections.runtime.projector import Projector
from projections.signals.transitions import (
    ACTIVE_STATES,
    CANCELLED,
    CLOSED,
    EXECUTED,
    EXPIRED,
    REDUCED,
    SIGNAL,
    SKIPPED,
)
from projections.sqlite.database import database_path, require_exact
from projections.sqlite.file import connect
from projections.sqlite.projection import SqliteProjection

CONVERSION_DAYS_DEFAULT = 30

_FIELDS = (
    "s.signal_id, s.id, s.symbol, s.action, s.entry_price, s.target_price, s.stop_price,"
    " s.confidence, s.strategy, s.timestamp, s.order_id"
)
# `event <> 'signal'` lets SQLite use the partial index on facts.
_STATE = """coalesce((SELECT l.state FROM lifecycle AS l WHERE l.signal_id = s.signal_id
    AND l.event <> 'signal' ORDER BY l.seq DESC LIMIT 1), 'open')"""
_ACTIVE = ", ".join(f"'{state}'" for state in sorted(ACTIVE_STATES))
_LOAD_ACTIVE = f"SELECT {_FIELDS} FROM signals AS s WHERE {_STATE} IN ({_ACTIVE})"
_REASON = "CASE WHEN {0}.event = 'skipped' THEN json_extract({0}.detail, '$.reason') ELSE '' END"
_COUNTED = f"substr({{0}}.recorded_at, 1, 10), {{0}}.event, {_REASON}"
# The fact that a `voided` withdrew.
_VOIDED = """LEFT JOIN lifecycle AS v ON f.event = 'voided'
    AND v.seq = CAST(json_extract(f.detail, '$.voids') AS INTEGER)"""
_LOAD_COUNTS = f"SELECT {_COUNTED.format('f')}, count(*) FROM lifecycle AS f GROUP BY 1, 2, 3"
_LOAD_VOIDED = f"""SELECT {_COUNTED.format("v")}, count(*) FROM lifecycle AS f {_VOIDED}
    WHERE f.event = 'voided' AND f.event <> 'signal' GROUP BY 1, 2, 3"""
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM lifecycle"
# What became known after the seq ?1: signals, and facts through the index on known_seq. A held fact
# became known with its signal, so its own seq may be far below.
_ENTRIES_AFTER = f"""SELECT {_COUNTED.format("f")}, {_COUNTED.format("v")}, {_STATE}, {_FIELDS}
    FROM (SELECT * FROM lifecycle WHERE seq > ?1 AND event = 'signal'
        UNION ALL SELECT * FROM lifecycle WHERE known_seq > ?1 AND event <> 'signal') AS f
    {_VOIDED}
    JOIN signals AS s ON s.signal_id = f.signal_id"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSignal:
    """A signal that is open, executed or reduced."""

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
    """Counts of signals and facts, each on the UTC day on which it was recorded.

    Facts that were voided do not count. An order that was sent again counts again.
    """

    days: int
    generated: int
    executed: int
    skipped: int
    skipped_by_reason: Mapping[str, int]
    expired: int
    cancelled: int
    reduced: int  # parts
    closed: int
    rate: float  # percent: executed of generated, two digits; 0 where none was generated


class LifecycleTracker:
    """Tracks the active signals of one home. For one event loop; use it with `async with`."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = Path(home)
        self._path = database_path(self._home)
        self._projection = SqliteProjection(replace_older=False)
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
        """Signals in the states `open`, `executed` and `reduced`, as of the last refresh."""
        return MappingProxyType(self._active)

    async def refresh(self) -> None:
        """Brings table and memory up to the durable end of the log. Raises SchemaTooOld."""
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
            # Without reasons of which every fact was voided.
            skipped_by_reason=MappingProxyType(dict((+reasons).most_common())),
            expired=events[EXPIRED],
            cancelled=events[CANCELLED],
            reduced=events[REDUCED],
            closed=events[CLOSED],
            rate=round(100 * events[EXECUTED] / generated, 2) if generated else 0.0,
        )

    def _read_table(self) -> None:
        with closing(connect(self._path, readonly=True)) as database:
            database.execute("BEGIN")  # one snapshot for all queries
            require_exact(database, self._path)
            (last_seq,) = database.execute(_LAST_SEQ).fetchone()
            if self._last_seq is None:
                self._load(database)
            else:
                self._load_after(database, self._last_seq)
            self._last_seq = last_seq

    def _load(self, database: Connection) -> None:
        for fields in database.execute(_LOAD_ACTIVE):
            self._active[fields[0]] = _active(fields)
        for *counted, count in database.execute(_LOAD_COUNTS):
            self._counts[_key(counted)] += count
        for *counted, count in database.execute(_LOAD_VOIDED):
            self._counts[_key(counted)] -= count

    def _load_after(self, database: Connection, last_seq: int) -> None:
        """Applies what became known later. Rows show the present state, so order is no matter."""
        for row in database.execute(_ENTRIES_AFTER, (last_seq,)):
            counted, voided, state, fields = row[:3], row[3:6], row[6], row[7:]
            self._counts[_key(counted)] += 1
            if voided[1] is not None:
                self._counts[_key(voided)] -= 1
            if state in ACTIVE_STATES:
                self._active[fields[0]] = _active(fields)
            else:
                self._active.pop(fields[0], None)


def _key(counted: Sequence[str | None]) -> tuple[str, str, str]:
    day, event, reason = counted
    return day or "", event or "", reason or ""


def _active(fields: tuple[object, ...] | list[object]) -> ActiveSignal:
    names = ActiveSignal.__dataclass_fields__
    return ActiveSignal(**dict(zip(names, fields, strict=True)))  # type: ignore[arg-type]  # columns
