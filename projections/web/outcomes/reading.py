"""Reads signals and facts of the table into columns, which another process can send.

Invariant: the columns hold what the rows do, and the values of a row never change.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from sqlite3 import Connection
from typing import Any, NamedTuple

from projections.queries.selection import parse_object
from projections.queries.statistics import BAND_WIDTH, BANDS, band_of
from projections.signals.transitions import OUTCOMES
from projections.web.outcomes.columns import Names, extended
from projections.web.outcomes.times import (
    US_A_SECOND,
    all_microseconds,
    ends_us,
    repeated_microseconds,
)

ROWS_PER_CHUNK = 2_000  # in memory at once, as Python objects
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_PERCENT_MAX = BANDS * BAND_WIDTH

_SIGNALS = """SELECT id, symbol, strategy, action, confidence, timestamp, signal_id FROM signals
    WHERE id > ? AND id <= ? ORDER BY id"""
# A void row matters where the fact that it withdrew was a `closed`.
_FACTS = """SELECT l.known_seq, l.signal_id, l.outcome, l.profit_loss_pct, l.recorded_at, l.detail,
    CASE WHEN l.event = 'voided' THEN CAST(json_extract(l.detail, '$.voids') AS INTEGER) END
    FROM lifecycle AS l WHERE l.event <> 'signal' AND l.event IN ('closed', 'voided')
    AND l.known_seq > ? AND l.known_seq <= ? ORDER BY l.known_seq, l.seq"""
_ID = "SELECT id FROM signals WHERE signal_id = ?"

_SignalRow = tuple[int, str, str, str, float, str, str]
_FactRow = tuple[int, str, str, float, str, str | None, int | None]


class SignalColumns:
    """Signals by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.id: array[int] = array("I")
        self.strategies, self.symbols, self.actions = Names(), Names(), Names()
        self.months = Names()
        self.confidence = array("d")
        self.band: array[int] = array("B")  # of the confidence
        self.decided_us = array("q")  # `timestamp`, in microseconds since 1970

    def add_rows(self, rows: Sequence[_SignalRow]) -> None:
        """Adds rows of the table."""
        ids, symbols, strategies, actions, confidences, timestamps, _ = zip(*rows, strict=True)
        self.id = extended(self.id, list(ids))
        self.symbols.extend(symbols)
        self.strategies.extend(strategies)
        self.actions.extend(actions)
        self.months.extend([text[:7] for text in timestamps])
        self.confidence.extend(confidences)
        self.band.extend(_bands_of(confidences))
        self.decided_us.fromlist(all_microseconds(timestamps))

    def append(self, more: "SignalColumns") -> None:
        """Adds further signals."""
        self.id = extended(self.id, more.id)
        self.strategies.append(more.strategies)
        self.symbols.append(more.symbols)
        self.actions.append(more.actions)
        self.months.append(more.months)
        self.confidence.extend(more.confidence)
        self.band.extend(more.band)
        self.decided_us.extend(more.decided_us)

    def count_at(self, seq: int) -> int:
        """The number of signals with an id up to `seq`."""
        return bisect_right(self.id, seq)


def _bands_of(confidences: Sequence[float]) -> list[int]:
    """`band_of` of each, without a call for each."""
    if min(confidences) < 0 or max(confidences) >= _PERCENT_MAX:
        return [band_of(each) for each in confidences]
    return [int(each) // BAND_WIDTH for each in confidences]


class Void(NamedTuple):
    """A `voided`, which withdraws the last fact in force of its signal."""

    position: int  # the number of closes before it
    known_seq: int
    signal_id: int
    voids: int  # the seq of the withdrawn fact


class FactColumns:
    """The closes of signals by column, and the voids among them."""

    def __init__(self) -> None:
        self.known_seq: array[int] = array("I")
        self.signal_id: array[int] = array("I")
        self.pct = array("d")
        self.code = array("B")  # of the outcome
        self.recorded_s: array[int] = array("I")
        self.ended_us = array("q")
        self.voids: list[Void] = []

    def add_rows(self, rows: Sequence[_FactRow], ids: Sequence[int]) -> None:
        """Adds rows of the table, of signals with these ids."""
        known, _, outcomes, returns, recorded, details, voids = zip(*rows, strict=True)
        if voids.count(None) < len(voids):
            self._add_with_voids(rows, ids)
            return
        recorded_us = repeated_microseconds(recorded)
        self.known_seq = extended(self.known_seq, list(known))
        self.signal_id = extended(self.signal_id, list(ids))
        self.pct.extend(returns)
        self.code.extend(map(CODES.__getitem__, outcomes))
        self.recorded_s = extended(self.recorded_s, [us // US_A_SECOND for us in recorded_us])
        closed = [
            parse_object(text).get("closed_at") if text and '"closed_at"' in text else None
            for text in details
        ]
        self.ended_us.fromlist(ends_us(closed, recorded_us))

    def _add_with_voids(self, rows: Sequence[_FactRow], ids: Sequence[int]) -> None:
        closes: list[int] = []  # their positions in the rows
        before = len(self.known_seq)
        for position, (row, signal_id) in enumerate(zip(rows, ids, strict=True)):
            if (voids := row[-1]) is None:
                closes.append(position)
            else:
                self.voids.append(Void(before + len(closes), row[0], signal_id, voids))
        if closes:
            self.add_rows([rows[each] for each in closes], [ids[each] for each in closes])


class Part(NamedTuple):
    """What the table learned between two entries."""

    signals: SignalColumns
    facts: FactColumns


def read_part(database: Connection, after: int, end: int) -> Part:
    """Reads what came after entry `after`, up to entry `end`."""
    signals, facts = SignalColumns(), FactColumns()
    ids: dict[str, int] = {}
    for rows in _chunks(database, _SIGNALS, after, end):
        signals.add_rows(rows)
        ids.update((signal_id, seq) for seq, *_, signal_id in rows)
    for rows in _chunks(database, _FACTS, after, end):
        facts.add_rows(rows, [ids.get(row[1]) or _id_of(database, row[1]) for row in rows])
    return Part(signals, facts)


def _id_of(database: Connection, signal_id: str) -> int:
    """The id of a signal before the part: its row is somewhere else, so few are looked up."""
    (found,) = database.execute(_ID, (signal_id,)).fetchone()
    assert isinstance(found, int)
    return found


def _chunks(database: Connection, sql: str, after: int, end: int) -> Iterator[list[Any]]:
    cursor = database.execute(sql, (after, end))
    while rows := cursor.fetchmany(ROWS_PER_CHUNK):
        yield rows
