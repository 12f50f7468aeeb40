"""Signals and closed trades in memory, in the order in which the log learned them.

A trade is known from the `known_seq` of its `closed` on, until that of a `voided` that withdraws
it. A signal that is closed again is a further trade. So the trades as of an entry are a prefix of
these columns, without those that were withdrawn by then.

Invariant: the columns hold what the table held when it was at entry `seq`.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from operator import sub
from pathlib import Path
from typing import NamedTuple

from eventlog.plumbing import run_in_processes
from projections.queries.statistics import BANDS
from projections.signals.transitions import LOSS, OUTCOMES, WIN
from projections.sqlite.database import database_path, read_checkpoint
from projections.sqlite.file import NO_FILE, inode_of
from projections.web.outcomes.columns import extended, pick, positions
from projections.web.outcomes.reading import FactColumns, Part, SignalColumns, Void, read_part
from projections.web.table import read_home

# Of one snapshot: some 300 ms, and some MiB. A close is mostly in the same part as its signal.
ENTRIES_PER_PART = 100_000
PARTS_MAX = 1_000  # tasks of several processes; of a very large table parts are larger
NO_BAND = BANDS  # of a trade that was neither won nor lost
KINDS_PER_OUTCOME = BANDS + 1
_DECIDED = (WIN, LOSS)
# The kind of a trade: its outcome, and the band of its confidence where it was won or lost.
_KINDS = [
    [code * KINDS_PER_OUTCOME + (band if outcome in _DECIDED else NO_BAND) for band in range(BANDS)]
    for code, outcome in enumerate(OUTCOMES)
]

Progress = Callable[[float, str], object]


class TradeColumns:
    """All trades, by column; the position in the columns is their number."""

    def __init__(self) -> None:
        self.known_seq: array[int] = array("I")
        self.signal: array[int] = array("I")  # the number of its signal
        self.pct = array("d")
        self.held_us = array("q")
        self.kind: array[int] = array("B")
        self.at_s: array[int] = array("I")  # when its close was recorded; never decreases
        self.void_seq: dict[int, int] = {}  # when a trade was withdrawn
        self.voids: list[tuple[int, int]] = []  # (seq, trade), ascending

    def count_at(self, seq: int) -> int:
        """The number of trades that were known at `seq`, withdrawn ones included."""
        return bisect_right(self.known_seq, seq)

    def append(self, signals: SignalColumns, facts: FactColumns) -> None:
        """Adds further facts of these signals."""
        begin = 0
        for void in facts.voids:
            self._append_closes(signals, facts, begin, void.position)
            begin = void.position
            self._withdraw(signals, void)
        self._append_closes(signals, facts, begin, len(facts.known_seq))

    def _append_closes(
        self, signals: SignalColumns, facts: FactColumns, begin: int, end: int
    ) -> None:
        if begin == end:
            return
        numbers = positions(signals.id, facts.signal_id[begin:end])
        self.known_seq = extended(self.known_seq, facts.known_seq[begin:end])
        self.signal.fromlist(numbers)
        self.pct.extend(facts.pct[begin:end])
        self.held_us.extend(map(sub, facts.ended_us[begin:end], pick(signals.decided_us, numbers)))
        bands = pick(signals.band, numbers)
        codes = facts.code[begin:end]
        self.kind.extend([_KINDS[code][band] for code, band in zip(codes, bands, strict=True)])
        last_s = self.at_s[-1] if self.at_s else 0
        seconds = accumulate(facts.recorded_s[begin:end], max, initial=last_s)
        next(seconds)
        self.at_s.extend(seconds)

    def _withdraw(self, signals: SignalColumns, void: Void) -> None:
        """A `voided` withdraws the last fact in force: a close, if the signal has a trade."""
        (signal,) = positions(signals.id, [void.signal_id])
        known_seq = max(void.voids, void.signal_id)
        trade = bisect_right(self.known_seq, known_seq) - 1
        while trade >= 0 and self.known_seq[trade] == known_seq:
            if self.signal[trade] == signal and trade not in self.void_seq:
                self.void_seq[trade] = void.known_seq
                self.voids.append((void.known_seq, trade))
                return
            trade -= 1


class Source(NamedTuple):
    """A table, and the entry up to which it was read."""

    inode: tuple[int, int]
    seq: int


class Trades:
    """The columns of one home. Not thread-safe."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._inode = NO_FILE  # of the table that was read
        self.number = 0  # of this content, for what is built on it
        self._reset()

    def _reset(self) -> None:
        self.signals, self.trades = SignalColumns(), TradeColumns()
        self.seq = 0  # all entries up to it are in the columns
        self.number += 1

    @property
    def is_replaced(self) -> bool:
        """Whether the table is another file than the one that was read, or gone."""
        return inode_of(database_path(self._home)) != self._inode

    @property
    def source(self) -> Source:
        """What the columns were read from, for `take` of another."""
        return Source(self._inode, self.seq)

    def take(self, source: Source) -> None:
        """Takes over what another has read, whose columns are given to these."""
        self._inode, self.seq = source

    @property
    def unread_count(self) -> int:
        """The number of entries that `follow` would read. Raises ProjectionError."""
        return self.read_end() - (0 if self.is_replaced else self.seq)

    def follow(self, progress: Progress) -> None:
        """Reads what is new in the table, in short snapshots. Raises ProjectionError.

        A table that was rebuilt is read anew.
        """
        end = self.read_end()
        inode = inode_of(database_path(self._home))
        if inode != self._inode or end < self.seq:
            self._reset()
            self._inode = inode
        if end > self.seq:
            self._read(end, progress)

    def read_end(self) -> int:
        """The entry up to which the table goes."""
        checkpoint = read_home(self._home, read_checkpoint)
        return 0 if checkpoint is None else checkpoint.seq

    def _read(self, end: int, progress: Progress) -> None:
        """Reads up to an entry, in several processes where this one may fork."""
        start = self.seq
        step = max(ENTRIES_PER_PART, -(-(end - start) // PARTS_MAX))
        arrived: dict[int, Part] = {}

        def read(number: int) -> Part:
            after = start + number * step
            return read_home(
                self._home, lambda database: read_part(database, after, min(end, after + step))
            )

        def add(number: int, part: Part) -> None:
            arrived[number] = part
            while (following := arrived.pop((self.seq - start) // step, None)) is not None:
                self.signals.append(following.signals)
                self.trades.append(self.signals, following.facts)
                self.seq = min(end, self.seq + step)
                progress(
                    (self.seq - start) / (end - start), f"reading entry {self.seq:,} of {end:,}"
                )
                time.sleep(0)  # lets the event loop run

        run_in_processes(-(-(end - start) // step), read, add)
        while self.seq < end:  # the tasks of a process that has died
            number = (self.seq - start) // step
            add(number, read(number))
