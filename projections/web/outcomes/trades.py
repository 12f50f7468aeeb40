"""Signals and closed trades in memory, in the order in which the log learned them.

A trade is known from the `known_seq` of its `closed` on, until that of a `voided` that withdraws
it. A signal that is closed again is a further trade. So the trades as of an entry are a prefix of
these columns, without those that were withdrawn by then.

Invariant: the columns hold what the table held when it was at entry `seq`, and the values of a row
never change.
"""

import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from operator import itemgetter, sub
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple, TypeVar

from projections.queries.selection import stored_time
from projections.queries.statistics import BANDS, band_of
from projections.queries.stats import END
from projections.queries.table import read_home
from projections.signals.transitions import LOSS, OUTCOMES, WIN
from projections.sqlite.database import database_path, read_checkpoint
from projections.sqlite.file import NO_FILE, inode_of

ROWS_PER_READ = 20_000  # some 20 ms: other requests run between two of them
NO_BAND = BANDS  # of a trade that was neither won nor lost
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_A_DAY, _US_A_SECOND = 86_400_000_000, 1_000_000
_DECIDED = (WIN, LOSS)

_SIGNALS = """SELECT id, symbol, strategy, action, confidence, timestamp FROM signals
    WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"""
# A void row matters where the fact that it withdrew was a `closed`.
_FACTS = f"""SELECT l.known_seq, l.seq, s.id, l.outcome, l.profit_loss_pct, {END},
    CASE WHEN l.event = 'voided' THEN CAST(json_extract(l.detail, '$.voids') AS INTEGER) END
    FROM lifecycle AS l JOIN signals AS s ON s.signal_id = l.signal_id
    WHERE l.event <> 'signal' AND l.event IN ('closed', 'voided') AND l.known_seq >= ?
    AND (l.known_seq > ? OR l.seq > ?) AND l.known_seq <= ? ORDER BY l.known_seq, l.seq LIMIT ?"""

# Lookups by signal_id are all over the file: pages that are mapped need no system call each.
_MMAP = "PRAGMA mmap_size = 4294967296"

N = TypeVar("N", int, float)
_FactRow = tuple[int, int, int, str, float, str, object, int | None]
Progress = Callable[[float, str], object]


class Names:
    """Texts by small numbers, in the order in which they came."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._first: list[int] = []  # the number of texts before the first of each
        self._count = 0
        self._codes: dict[str, int] = {}

    def codes(self, texts: Sequence[str]) -> list[int]:
        """The numbers of texts; new ones get the next."""
        for text in dict.fromkeys(texts):
            if text not in self._codes:
                self._codes[text] = len(self.texts)
                self.texts.append(text)
                self._first.append(self._count + texts.index(text))
        self._count += len(texts)
        return [self._codes[text] for text in texts]

    def among(self, count: int) -> list[str]:
        """The names among the first `count` texts, sorted."""
        return sorted(self.texts[: bisect_left(self._first, count)])

    def code(self, text: str) -> int:
        """The number of a text; -1 for an unknown one."""
        return self._codes.get(text, -1)


class SignalColumns:
    """All signals, by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.id = array("q")
        self.strategy, self.symbol, self.action = array("I"), array("I"), array("I")
        self.month = array("I")
        self.confidence = array("d")
        self.decided_us = array("q")  # `timestamp`, in microseconds since 1970
        self.strategies, self.symbols, self.actions = Names(), Names(), Names()
        self.months = Names()

    def extend(self, rows: Sequence[tuple[int, str, str, str, float, str]]) -> None:
        """Adds rows of _SIGNALS."""
        ids, symbols, strategies, actions, confidences, timestamps = zip(*rows, strict=True)
        self.id.extend(ids)
        self.symbol.extend(self.symbols.codes(symbols))
        self.strategy.extend(self.strategies.codes(strategies))
        self.action.extend(self.actions.codes(actions))
        self.month.extend(self.months.codes([text[:7] for text in timestamps]))
        self.confidence.extend(confidences)
        self.decided_us.extend(map(microseconds, timestamps))

    def count_at(self, seq: int) -> int:
        """The number of signals with an id up to `seq`."""
        return bisect_right(self.id, seq)


class TradeColumns:
    """All trades, by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.known_seq = array("q")
        self.signal = array("I")  # the number of its signal
        self.pct = array("d")
        self.held_us = array("q")
        self.outcome = array("B")  # code
        self.band = array("B")  # of confidence; NO_BAND where it was neither won nor lost
        self.at_s = array("I")  # when its close was recorded; never decreases
        self.void_seq: dict[int, int] = {}  # when a trade was withdrawn
        self.voids: list[tuple[int, int]] = []  # (seq, trade), ascending

    def count_at(self, seq: int) -> int:
        """The number of trades that were known at `seq`, withdrawn ones included."""
        return bisect_right(self.known_seq, seq)


class _Position(NamedTuple):
    """The last row that was read."""

    known_seq: int = 0
    seq: int = 0


class Trades:
    """The columns of one home. Not thread-safe."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._inode = NO_FILE  # of the table that was read
        self._reset()

    def _reset(self) -> None:
        self.signals, self.trades = SignalColumns(), TradeColumns()
        self.seq = 0  # all entries up to it are in the columns
        self.number = getattr(self, "number", 0) + 1  # of this content, for what is built on it
        self._last = _Position()

    @property
    def is_replaced(self) -> bool:
        """Whether the table is another file than the one that was read, or gone."""
        return inode_of(database_path(self._home)) != self._inode

    def follow(self, progress: Progress) -> None:
        """Reads what is new in the table, in short snapshots. Raises ProjectionError.

        A table that was rebuilt is read anew.
        """
        checkpoint = read_home(self._home, read_checkpoint)
        inode = inode_of(database_path(self._home))
        end = 0 if checkpoint is None else checkpoint.seq
        if inode != self._inode or end < self.seq:
            self._reset()
            self._inode = inode
        if end == self.seq:
            return
        start = self.seq
        while not read_home(self._home, lambda database: self._read_signals(database, end)):
            self._report(progress, start, self.signals.id[-1], end, 0.0)
        while not read_home(self._home, lambda database: self._read_facts(database, end)):
            self._report(progress, start, self._last.known_seq, end, 0.4)
        self.seq = end

    def _report(self, progress: Progress, start: int, at: int, end: int, base: float) -> None:
        share = (at - start) / max(1, end - start)
        progress(base + 0.4 * min(1.0, share), f"reading entry {at:,} of {end:,}")
        time.sleep(0)  # lets the event loop run

    def _read_signals(self, database: Connection, end: int) -> bool:
        """Reads the next signals; True at the end."""
        after = self.signals.id[-1] if self.signals.id else 0
        rows = database.execute(_SIGNALS, (after, end, ROWS_PER_READ)).fetchall()
        if rows:
            self.signals.extend(rows)
        return len(rows) < ROWS_PER_READ

    def _read_facts(self, database: Connection, end: int) -> bool:
        """Reads the next facts; True at the end."""
        known_seq, seq = self._last
        values = (known_seq, known_seq, seq, end, ROWS_PER_READ)
        database.execute(_MMAP)
        rows = database.execute(_FACTS, values).fetchall()
        closes: list[_FactRow] = []
        for row in rows:
            if row[-1] is None:
                closes.append(row)
            else:
                self._add_closes(closes)
                closes = []
                known, _, signal_id, *_, voids = row
                signal = bisect_left(self.signals.id, signal_id)
                self._withdraw(known, signal, max(voids, signal_id))
        self._add_closes(closes)
        if rows:
            self._last = _Position(rows[-1][0], rows[-1][1])
        return len(rows) < ROWS_PER_READ

    def _add_closes(self, rows: Sequence[_FactRow]) -> None:
        """Adds trades, by column: twice as fast as one by one."""
        if not rows:
            return
        signals, trades = self.signals, self.trades
        known, _, ids, outcomes, returns, recorded, closed, _ = zip(*rows, strict=True)
        numbers = [bisect_left(signals.id, each) for each in ids]
        recorded_us = list(map(microseconds, recorded))
        ended_us = [
            at if by is None else _closed_us(by, at)
            for at, by in zip(recorded_us, closed, strict=True)
        ]
        trades.known_seq.extend(known)
        trades.signal.extend(numbers)
        trades.pct.extend(returns)
        trades.held_us.extend(map(sub, ended_us, pick(signals.decided_us, numbers)))
        trades.outcome.extend([CODES[outcome] for outcome in outcomes])
        trades.band.extend(
            band_of(confidence) if outcome in _DECIDED else NO_BAND
            for confidence, outcome in zip(pick(signals.confidence, numbers), outcomes, strict=True)
        )
        last_s = trades.at_s[-1] if trades.at_s else 0
        seconds = accumulate((us // _US_A_SECOND for us in recorded_us), max, initial=last_s)
        next(seconds)
        trades.at_s.extend(seconds)

    def _withdraw(self, seq: int, signal: int, known_seq: int) -> None:
        """A `voided` withdraws the last fact in force: a close, if the signal has a trade."""
        trades = self.trades
        trade = bisect_right(trades.known_seq, known_seq) - 1
        while trade >= 0 and trades.known_seq[trade] == known_seq:
            if trades.signal[trade] == signal and trade not in trades.void_seq:
                trades.void_seq[trade] = seq
                trades.voids.append((seq, trade))
                return
            trade -= 1


def pick(column: "array[N]", numbers: Sequence[int]) -> tuple[N, ...]:
    """The values of a column at some positions."""
    if len(numbers) == 1:
        return (column[numbers[0]],)
    return itemgetter(*numbers)(column) if numbers else ()


def _closed_us(text: object, recorded_us: int) -> int:
    """When a trade was closed, by its fact; else when that was recorded."""
    closed_at = stored_time(text)
    return recorded_us if closed_at is None else microseconds(closed_at)


def microseconds(text: str) -> int:
    """Microseconds from 1970 to a time in a form that we store."""
    since = datetime.fromisoformat(text) - _EPOCH
    return since.days * _US_A_DAY + since.seconds * _US_A_SECOND + since.microseconds
