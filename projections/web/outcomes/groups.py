"""The figures of a group of trades as of any entry, without looking at all of its trades.

After every BLOCK trades a group remembers its totals, so a prefix costs the totals before it and
the rest of one block. For the median and the extremes the trades are also in blocks sorted by
return, each with the numbers of its trades in order: two bisections count how many of a block were
known.

Invariant: the measures equal those of `projections.queries.statistics` for the same trades.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from math import fsum
from typing import NamedTuple

from projections.queries.statistics import Measures, Sample, measures_of
from projections.signals.transitions import OUTCOMES
from projections.web.outcomes.columns import as_range, chunks, pick
from projections.web.outcomes.reading import SignalColumns
from projections.web.outcomes.totals import Totals, totals_of
from projections.web.outcomes.trades import KINDS_PER_OUTCOME, TradeColumns

BLOCK = 512  # trades: the rest of a prefix costs some 50 us, the totals some bytes a trade
PARTS, PART_SAMPLE = 64, 32  # into which trades are divided before each part is sorted


class _Block(NamedTuple):
    """Some trades next to each other in the order of returns."""

    by_return: "array[int]"
    by_number: "array[int]"
    voids: list[int]  # the seqs at which some of them were withdrawn, ascending


class Ranks:
    """The trades of a group that count at one moment, by return."""

    def __init__(self, group: "Group", trades: TradeColumns, count: int, seq: int) -> None:
        self._group = group
        self._trades = trades
        self._known, self._seq = count, seq
        self._before = [
            0,
            *accumulate(
                bisect_left(block.by_number, count) - bisect_right(block.voids, seq)
                for block in group.blocks
            ),
        ]

    @property
    def count(self) -> int:
        return self._before[-1]

    def at(self, rank: int) -> float:
        """The return of this rank; 0 is the least."""
        block = bisect_right(self._before, rank) - 1
        return self._trades.pct[self._active(block)[rank - self._before[block]]]

    def below(self, value: float) -> int:
        """The number of returns below a value."""
        tops, pct = self._group.tops, self._trades.pct
        block = bisect_left(tops, value)
        if block == len(tops):
            return self.count
        return self._before[block] + sum(pct[each] < value for each in self._active(block))

    def median(self) -> float | None:
        """The median return."""
        count = self.count
        if count % 2:
            return self.at(count // 2)
        return (self.at(count // 2 - 1) + self.at(count // 2)) / 2 if count else None

    def all(self) -> Iterator[int]:
        """The numbers of all trades that count."""
        for block in range(len(self._group.blocks)):
            yield from self._active(block)

    def _active(self, block: int) -> list[int]:
        void_seq, seq, known = self._trades.void_seq, self._seq, self._known
        by_return = self._group.blocks[block].by_return
        if not self._group.blocks[block].voids:
            return [each for each in by_return if each < known]
        return [each for each in by_return if each < known and void_seq.get(each, seq + 1) > seq]


class Group:
    """The trades of one group, and the signals that it has in all."""

    __slots__ = ("blocks", "is_exact", "marks", "signals", "tops", "trades", "voids")

    def __init__(self) -> None:
        self.signals: array[int] = array("I")  # numbers, ascending
        self.trades: array[int] = array("I")
        self.marks: list[Totals] = [Totals()]  # after each BLOCK trades
        self.blocks: list[_Block] = []
        self.tops: list[float] = []  # the greatest return of each block
        self.voids: list[tuple[int, int]] = []  # (seq, trade), ascending
        self.is_exact = True  # no sum is beyond the range of a double

    def mark(self, signals: SignalColumns, trades: TradeColumns) -> None:
        """Remembers the totals after each block of trades that is whole by now."""
        while self.is_exact and len(self.marks) * BLOCK <= len(self.trades):
            start = (len(self.marks) - 1) * BLOCK
            found = totals_of(signals, trades, as_range(self.trades[start : start + BLOCK]))
            try:
                self.marks.append(self.marks[-1].plus(found).compacted())
            except OverflowError:
                self.is_exact = False

    def build(self, ordered: "array[int]", signals: SignalColumns, trades: TradeColumns) -> "Built":
        """The marks and the blocks of a group with these trades, sorted by return."""
        self.mark(signals, trades)
        by_number = array("I")
        for part in _blocks_of(ordered):
            by_number.extend(sorted(part))
        return Built(self.marks, self.is_exact, ordered, by_number)

    def take(self, built: "Built", trades: TradeColumns) -> None:
        """Takes what `build` made, perhaps in another process."""
        self.marks, self.is_exact = built.marks, built.is_exact
        self.blocks = [
            _Block(*each, [])
            for each in zip(_blocks_of(built.by_return), _blocks_of(built.by_number), strict=True)
        ]
        self.tops = [trades.pct[block.by_return[-1]] for block in self.blocks]
        self.voids.clear()

    def insert(self, number: int, trades: TradeColumns) -> None:
        """Adds a trade, the last by number, to the blocks."""
        pct = trades.pct
        if not self.blocks:
            self.blocks.append(_Block(array("I", [number]), array("I", [number]), []))
            self.tops.append(pct[number])
            return
        index = min(bisect_left(self.tops, pct[number]), len(self.blocks) - 1)
        block = self.blocks[index]
        insort(block.by_return, number, key=pct.__getitem__)
        block.by_number.append(number)
        self.tops[index] = pct[block.by_return[-1]]
        if len(block.by_return) >= 2 * BLOCK:
            self._split(index, trades)

    def withdraw(self, seq: int, number: int, trades: TradeColumns) -> None:
        """A trade is void from `seq` on."""
        self.voids.append((seq, number))
        value = trades.pct[number]
        for index in range(bisect_left(self.tops, value), len(self.blocks)):
            block = self.blocks[index]
            position = bisect_left(block.by_number, number)
            if position < len(block.by_number) and block.by_number[position] == number:
                block.voids.append(seq)
                return
        raise AssertionError("a trade is in one of the blocks that reach its return")

    def _split(self, index: int, trades: TradeColumns) -> None:
        whole = self.blocks[index]
        # Not those in the columns alone: `withdraw` is called for them after all trades are added.
        known = set(whole.voids)
        halves = []
        for part in (whole.by_return[:BLOCK], whole.by_return[BLOCK:]):
            voids = sorted(known & {trades.void_seq.get(each) for each in part})
            halves.append(_Block(part, array("I", sorted(part)), voids))
        self.blocks[index : index + 1] = halves
        self.tops[index : index + 1] = [trades.pct[half.by_return[-1]] for half in halves]

    def withdrawn(self, seq: int) -> list[int]:
        """The trades that were withdrawn by an entry."""
        return [number for _, number in self.voids[: bisect_right(self.voids, (seq, 1 << 62))]]


class Built(NamedTuple):
    """The marks and the blocks of a group, in few large columns: fast to send."""

    marks: list[Totals]
    is_exact: bool
    by_return: "array[int]"
    by_number: "array[int]"  # in the same blocks


def _blocks_of(numbers: "array[int]") -> Iterator["array[int]"]:
    return (numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK))


def parts_by_return(numbers: Sequence[int], pct: "array[float]") -> list["array[int]"]:
    """Trades in parts, each with greater returns than the one before: each is sorted alone."""
    sample = sorted(pick(pct, numbers[:: len(numbers) // (PARTS * PART_SAMPLE) + 1]))
    cuts = sample[PART_SAMPLE::PART_SAMPLE]
    parts = [array("I") for _ in range(len(cuts) + 1)]
    for chunk in chunks(numbers):
        for number, value in zip(chunk, pick(pct, chunk), strict=True):
            parts[bisect_left(cuts, value)].append(number)
    return parts


def measures_at(
    group: Group, signals: SignalColumns, trades: TradeColumns, seq: int
) -> tuple[Measures, Ranks]:
    """The measures of a group as of an entry, and its returns in order."""
    known = trades.count_at(seq)
    ranks = Ranks(group, trades, known, seq)
    if not group.is_exact:
        return _measured(signals, trades, list(ranks.all())), ranks
    count = bisect_left(group.trades, known)
    full = count // BLOCK
    totals = group.marks[full].plus(totals_of(signals, trades, group.trades[full * BLOCK : count]))
    if gone := group.withdrawn(seq):
        totals = totals.plus(totals_of(signals, trades, gone), -1)
    assert totals.count == ranks.count
    try:
        return _measures(totals, ranks), ranks
    except OverflowError:
        return _measured(signals, trades, list(ranks.all())), ranks


def _measures(totals: Totals, ranks: Ranks) -> Measures:
    count = totals.count
    return Measures(
        outcomes=dict(zip(OUTCOMES, totals.outcomes, strict=True)),
        mean_return=fsum(totals.gain_parts + totals.loss_parts) / count if count else None,
        median_return=ranks.median(),
        best=ranks.at(count - 1) if count else None,
        worst=ranks.at(0) if count else None,
        gains=(totals.gains, fsum(totals.gain_parts) / totals.gains if totals.gains else 0.0),
        losses=(totals.losses, -fsum(totals.loss_parts) / totals.losses if totals.losses else 0.0),
        held_us=totals.held_us,
        bands=[
            (number, band.count, band.wins, fsum(band.confidences) / band.count)
            for number, band in enumerate(totals.bands)
            if band.count
        ],
    )


def _measured(signals: SignalColumns, trades: TradeColumns, numbers: list[int]) -> Measures:
    """The measures of some trades by looking at all of them: for returns beyond any reason."""
    sample = Sample()
    sample.extend(
        [OUTCOMES[kind // KINDS_PER_OUTCOME] for kind in pick(trades.kind, numbers)],
        pick(trades.pct, numbers),
        pick(signals.confidence, pick(trades.signal, numbers)),
        [timedelta(microseconds=us) for us in pick(trades.held_us, numbers)],
    )
    return measures_of(sample)
