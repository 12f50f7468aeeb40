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
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from projections.queries.selection import stored_time
from projections.queries.statistics import band_of
from projections.queries.stats import END
from projections.queries.table import read_home
from projections.signals.transitions import LOSS, OUTCOMES, WIN
from projections.sqlite.database import database_path, read_checkpoint
from projections.sqlite.file import file_identity

ROWS_PER_READ = 20_000  # some 20 ms: other requests run between two of them
NO_BAND = 255  # of a trade that was neither won nor lost
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
        self._identity: tuple[int, ...] | None = None
        self._reset()

    def _reset(self) -> None:
        self.signals, self.trades = SignalColumns(), TradeColumns()
        self.seq = 0  # all entries up to it are in the columns
        self.number = getattr(self, "number", 0) + 1  # of this content, for what is built on it
        self._last = _Position()

    def follow(self, progress: Progress) -> None:
        """Reads what is new in the table, in short snapshots. Raises ProjectionError.

        A table that was rebuilt is read anew.
        """
        checkpoint = read_home(self._home, read_checkpoint)
        identity = file_identity(database_path(self._home))
        end = 0 if checkpoint is None else checkpoint.seq
        if identity != self._identity or end < self.seq:
            self._reset()
            self._identity = identity
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
        rows = database.execute(_FACTS, values).fetchall()
        for row in rows:
            self._add_fact(*row)
        if rows:
            self._last = _Position(rows[-1][0], rows[-1][1])
        return len(rows) < ROWS_PER_READ

    def _add_fact(
        self,
        known_seq: int,
        _seq: int,
        signal_id: int,
        outcome: str | None,
        pct: float,
        recorded_at: str,
        closed_at: object,
        voids: int | None,
    ) -> None:
        signals, trades = self.signals, self.trades
        signal = bisect_left(signals.id, signal_id)
        if voids is not None:
            self._withdraw(known_seq, signal, max(voids, signal_id))
            return
        assert outcome is not None
        recorded_us = microseconds(recorded_at)
        ended = recorded_at if closed_at is None else stored_time(closed_at) or recorded_at
        ended_us = recorded_us if ended is recorded_at else microseconds(ended)
        is_decided = outcome in _DECIDED
        trades.known_seq.append(known_seq)
        trades.signal.append(signal)
        trades.pct.append(pct)
        trades.held_us.append(ended_us - signals.decided_us[signal])
        trades.outcome.append(CODES[outcome])
        trades.band.append(band_of(signals.confidence[signal]) if is_decided else NO_BAND)
        at_s = max(0, recorded_us // _US_A_SECOND)
        trades.at_s.append(max(at_s, trades.at_s[-1]) if trades.at_s else at_s)

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


def microseconds(text: str) -> int:
    """Microseconds from 1970 to a time in a form that we store."""
    since = datetime.fromisoformat(text) - _EPOCH
    return since.days * _US_A_DAY + since.seconds * _US_A_SECOND + since.microseconds
