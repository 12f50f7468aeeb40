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
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import accumulate, repeat
from operator import sub
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from projections.queries.selection import stored_time
from projections.queries.statistics import BANDS, band_of
from projections.queries.stats import END
from projections.queries.table import read_home
from projections.signals.transitions import LOSS, OUTCOMES, WIN
from projections.sqlite.database import database_path, read_checkpoint
from projections.sqlite.file import NO_FILE, inode_of
from projections.web.outcomes.columns import Names, extended, pick

ROWS_PER_CHUNK = 2_000  # in memory at once, as Python objects
CHUNKS_PER_READ = 10  # of one snapshot: some 100 ms
NO_BAND = BANDS  # of a trade that was neither won nor lost
KINDS_PER_OUTCOME = BANDS + 1
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
# The array of owners has four bytes for each entry of the log. Where few of these are signals it
# would be large for little.
ENTRIES_PER_SIGNAL_MAX = 8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_A_DAY, _US_A_SECOND = 86_400_000_000, 1_000_000
_DECIDED = (WIN, LOSS)
_STORED_FORM = "....-..-..T..:..:.........+00:00"  # of a time; its dots are any characters

_SIGNALS = """SELECT id, symbol, strategy, action, confidence, timestamp FROM signals
    WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"""
# A void row matters where the fact that it withdrew was a `closed`. Its signal: {owner}.
_FACTS = f"""SELECT l.known_seq, l.seq, {{owner}}, l.outcome, l.profit_loss_pct, {END},
    CASE WHEN l.event = 'voided' THEN CAST(json_extract(l.detail, '$.voids') AS INTEGER) END
    FROM lifecycle AS l {{join}}
    WHERE l.event <> 'signal' AND l.event IN ('closed', 'voided') AND l.known_seq >= ?
    AND (l.known_seq > ? OR l.seq > ?) AND l.known_seq <= ? ORDER BY l.known_seq, l.seq LIMIT ?"""
_FACTS_JOINED = _FACTS.format(owner="s.id", join="JOIN signals AS s ON s.signal_id = l.signal_id")
_FACTS_ALONE = _FACTS.format(owner="l.seq", join="")
# The signal of each fact, in the order of two indexes: no table is read, and no page twice.
_OWNERS = """SELECT l.seq, s.id FROM lifecycle AS l INDEXED BY lifecycle_signal_id
    CROSS JOIN signals AS s ON s.signal_id = l.signal_id
    WHERE l.event <> 'signal' AND l.signal_id >= ?1 AND (l.signal_id > ?1 OR l.seq > ?2)
    AND l.seq <= ?3 AND s.id <= ?3 ORDER BY l.signal_id, l.seq LIMIT ?4"""

_FactRow = tuple[int, int, int, str, float, str, object, int | None]
Progress = Callable[[float, str], object]


class SignalColumns:
    """All signals, by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.id: array[int] = array("I")
        self.strategies, self.symbols, self.actions = Names(), Names(), Names()
        self.months = Names()
        self.confidence = array("d")
        self.decided_us = array("q")  # `timestamp`, in microseconds since 1970

    def extend(self, rows: Sequence[tuple[int, str, str, str, float, str]]) -> None:
        """Adds rows of _SIGNALS."""
        ids, symbols, strategies, actions, confidences, timestamps = zip(*rows, strict=True)
        self.id = extended(self.id, list(ids))
        self.symbols.extend(symbols)
        self.strategies.extend(strategies)
        self.actions.extend(actions)
        self.months.extend([text[:7] for text in timestamps])
        self.confidence.extend(confidences)
        self.decided_us.fromlist(all_microseconds(timestamps))

    def count_at(self, seq: int) -> int:
        """The number of signals with an id up to `seq`."""
        return bisect_right(self.id, seq)


class TradeColumns:
    """All trades, by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.known_seq: array[int] = array("I")
        self.signal: array[int] = array("I")  # the number of its signal
        self.pct = array("d")
        self.held_us = array("q")
        self.kind: array[int] = array("B")  # of `kind_of`
        self.at_s: array[int] = array("I")  # when its close was recorded; never decreases
        self.void_seq: dict[int, int] = {}  # when a trade was withdrawn
        self.voids: list[tuple[int, int]] = []  # (seq, trade), ascending

    def count_at(self, seq: int) -> int:
        """The number of trades that were known at `seq`, withdrawn ones included."""
        return bisect_right(self.known_seq, seq)


def kind_of(outcome: str, confidence: float) -> int:
    """Outcome and band of confidence as one number; NO_BAND where neither won nor lost."""
    band = band_of(confidence) if outcome in _DECIDED else NO_BAND
    return CODES[outcome] * KINDS_PER_OUTCOME + band


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
        while not self._read(self._read_signals, end):
            self._report(progress, start, self.signals.id[-1], end, 0.0)
        owners = None
        if start == 0 and end <= ENTRIES_PER_SIGNAL_MAX * len(self.signals.id):
            progress(0.3, "reading which signals were closed")
            owners = self._read_owners(end)
        while not self._read(lambda database, end: self._read_facts(database, end, owners), end):
            self._report(progress, start, self._last.known_seq, end, 0.35)
        self.seq = end

    def _read(self, read_chunk: Callable[[Connection, int], bool], end: int) -> bool:
        """Reads some chunks in one snapshot; True at the end."""

        def read(database: Connection) -> bool:
            return any(read_chunk(database, end) for _ in range(CHUNKS_PER_READ))

        return read_home(self._home, read)

    def _report(self, progress: Progress, start: int, at: int, end: int, base: float) -> None:
        share = (at - start) / max(1, end - start)
        progress(base + 0.3 * min(1.0, share), f"reading entry {at:,} of {end:,}")
        time.sleep(0)  # lets the event loop run

    def _read_signals(self, database: Connection, end: int) -> bool:
        """Reads the next signals; True at the end."""
        after = self.signals.id[-1] if self.signals.id else 0
        rows = database.execute(_SIGNALS, (after, end, ROWS_PER_CHUNK)).fetchall()
        if rows:
            self.signals.extend(rows)
        return len(rows) < ROWS_PER_CHUNK

    def _read_owners(self, end: int) -> "array[int]":
        """The number of the signal at the seq of the signal and at those of its facts."""
        owners = array("I", bytes(4 * (end + 1)))
        for number, signal_id in enumerate(self.signals.id):
            owners[signal_id] = number
        last = ("", 0)

        def read(database: Connection) -> bool:
            nonlocal last
            count = seq = 0
            values = (*last, end, ROWS_PER_CHUNK * CHUNKS_PER_READ)
            for seq, signal in database.execute(_OWNERS, values):
                owners[seq] = owners[signal]
                count += 1
            if count < ROWS_PER_CHUNK * CHUNKS_PER_READ:
                return True
            sql = "SELECT signal_id FROM lifecycle WHERE seq = ?"
            last = (database.execute(sql, (seq,)).fetchone()[0], seq)
            return False

        while not read_home(self._home, read):
            time.sleep(0)
        return owners

    def _read_facts(self, database: Connection, end: int, owners: "array[int] | None") -> bool:
        """Reads the next facts; True at the end."""
        known_seq, seq = self._last
        values = (known_seq, known_seq, seq, end, ROWS_PER_CHUNK)
        sql = _FACTS_JOINED if owners is None else _FACTS_ALONE
        rows = database.execute(sql, values).fetchall()
        if not rows:
            return True
        ids = [row[2] for row in rows]
        if owners is None:
            signals = [bisect_left(self.signals.id, each) for each in ids]
        else:
            signals = list(pick(owners, ids))
        begin = 0
        for at, row in enumerate(rows):
            if (voids := row[-1]) is not None:
                self._add_closes(rows[begin:at], signals[begin:at])
                begin = at + 1
                self._withdraw(row[0], signals[at], max(voids, self.signals.id[signals[at]]))
        self._add_closes(rows[begin:], signals[begin:])
        self._last = _Position(rows[-1][0], rows[-1][1])
        return len(rows) < ROWS_PER_CHUNK

    def _add_closes(self, rows: Sequence[_FactRow], numbers: list[int]) -> None:
        """Adds trades of the signals with these numbers, by column: faster than one by one."""
        if not rows:
            return
        signals, trades = self.signals, self.trades
        known, _, _, outcomes, returns, recorded, closed, _ = zip(*rows, strict=True)
        recorded_us = all_microseconds(recorded)
        ended_us = _ends_us(closed, recorded_us)
        trades.known_seq = extended(trades.known_seq, list(known))
        trades.signal.fromlist(numbers)
        trades.pct.extend(returns)
        trades.held_us.extend(map(sub, ended_us, pick(signals.decided_us, numbers)))
        trades.kind.extend(map(kind_of, outcomes, pick(signals.confidence, numbers)))
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


def _ends_us(closed: Sequence[object], recorded_us: list[int]) -> list[int]:
    """When trades were closed, by their facts; else when these were recorded."""
    texts = [text for text in closed if isinstance(text, str)]
    if not texts:
        return recorded_us
    if len(texts) == len(closed) and _are_stored_times(texts):
        try:
            return all_microseconds(texts)
        except ValueError:  # the 30th of February, which another program may have logged
            pass
    return [
        at if by is None else _closed_us(by, at) for at, by in zip(recorded_us, closed, strict=True)
    ]


def _are_stored_times(texts: Sequence[str]) -> bool:
    """Whether texts that `fromisoformat` reads are all in stored form."""
    length, joined = len(_STORED_FORM), "".join(texts)
    return set(map(len, texts)) == {length} and all(
        char == "." or joined[at::length] == char * len(texts)
        for at, char in enumerate(_STORED_FORM)
    )


def _closed_us(text: object, recorded_us: int) -> int:
    """When a trade was closed, by its fact; else when that was recorded."""
    closed_at = stored_time(text)
    return recorded_us if closed_at is None else microseconds(closed_at)


def microseconds(text: str) -> int:
    """Microseconds from 1970 to a time in a form that we store."""
    return all_microseconds((text,))[0]


def all_microseconds(texts: Iterable[str]) -> list[int]:
    """`microseconds` of each text, without a call for each."""
    return [
        since.days * _US_A_DAY + since.seconds * _US_A_SECOND + since.microseconds
        for since in map(sub, map(datetime.fromisoformat, texts), repeat(_EPOCH))
    ]
