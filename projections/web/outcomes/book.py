"""A book: the trades that a filter selects, in groups, and the answer of the page Outcomes.

Invariant: its figures as of an entry are those of `eventlog stats` as of it, with equal filters.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from projections.queries.filters import SignalFilter
from projections.queries.statistics import figures_of, wilson_interval
from projections.web.outcomes.columns import Names, chunks, pick
from projections.web.outcomes.curve import Curve, histogram, make_curve, max_drawdown, thinned
from projections.web.outcomes.groups import Group, measures_at, sorted_parts
from projections.web.outcomes.trades import Trades, microseconds

SORT_AGAIN_MIN = 20_000  # new trades: sorting all is faster than inserting each

Json = dict[str, object]


class _Grouping(NamedTuple):
    """The groups by one key, by the number of its text."""

    key: str
    names: Names  # of each signal
    groups: dict[int, Group]

    def group(self, code: int) -> Group:
        found = self.groups.get(code)
        if found is None:
            found = self.groups[code] = Group()
        return found


class Book:
    """The signals and trades that a filter selects. `follow` takes what is new in the columns."""

    def __init__(self, source: Trades, chosen: SignalFilter) -> None:
        self._signals, self._trades = source.signals, source.trades
        self._filter = chosen
        self.number = source.number  # of the columns that it was built on
        signals = self._signals
        self.all = Group()
        self._groupings = (
            _Grouping("strategy", signals.strategies, {}),
            _Grouping("symbol", signals.symbols, {}),
            _Grouping("month", signals.months, {}),
        )
        self._signals_seen = self._trades_seen = self._voids_seen = 0
        self._curve: tuple[int, int, Curve] | None = None  # trades and voids in it

    @property
    def size(self) -> int:
        """A measure of its memory."""
        return len(self.all.signals) + len(self.all.trades)

    def follow(self) -> None:
        """Adds new signals, trades and voids."""
        signals, trades = self._signals, self._trades
        self._add_signals(self._chosen_signals(self._signals_seen, len(signals.id)))
        self._signals_seen = len(signals.id)
        numbers = self._chosen_trades(self._trades_seen, len(trades.known_seq))
        is_bulk = len(numbers) >= SORT_AGAIN_MIN or not self.all.trades
        self._trades_seen = len(trades.known_seq)
        self._add_trades(numbers, is_bulk=is_bulk)
        start = 0 if is_bulk else self._voids_seen
        self._voids_seen = len(trades.voids)
        for seq, number in trades.voids[start:]:
            if self._has(number):
                for group in self._groups_of(number):
                    group.withdraw(seq, number, trades)

    def _chosen_signals(self, start: int, end: int) -> Sequence[int]:
        """The signals from `start` on that the filter selects."""
        signals, chosen = self._signals, self._filter
        numbers: Sequence[int] = range(start, end)
        for value, names in (
            (chosen.strategy, signals.strategies),
            (chosen.symbol, signals.symbols),
            (chosen.action, signals.actions),
        ):
            if value is not None:
                code, column = names.code(value), names.column
                numbers = [each for each in numbers if column[each] == code]
        decided_us = signals.decided_us
        if chosen.since is not None:
            since_us = microseconds(chosen.since)
            numbers = [each for each in numbers if decided_us[each] >= since_us]
        if chosen.until is not None:
            until_us = microseconds(chosen.until)
            numbers = [each for each in numbers if decided_us[each] < until_us]
        return numbers

    def _chosen_trades(self, start: int, end: int) -> Sequence[int]:
        numbers = range(start, end)
        if len(self.all.signals) == len(self._signals.id):
            return numbers
        of_signal = bytearray(len(self._signals.id))
        for signal in self.all.signals:
            of_signal[signal] = 1
        chosen = map(of_signal.__getitem__, self._trades.signal[start:end])
        return array("I", compress(numbers, chosen))

    def _has(self, number: int) -> bool:
        index = bisect_left(self.all.trades, number)
        return index < len(self.all.trades) and self.all.trades[index] == number

    def _groups_of(self, number: int) -> list[Group]:
        signal = self._trades.signal[number]
        return [self.all, *(each.groups[each.names.column[signal]] for each in self._groupings)]

    def _add_signals(self, numbers: Sequence[int]) -> None:
        self.all.signals.extend(numbers)
        for part in chunks(numbers):
            for grouping in self._groupings:
                for code, its in _dealt(part, pick(grouping.names.column, part)):
                    grouping.group(code).signals.extend(its)

    def _add_trades(self, numbers: Sequence[int], *, is_bulk: bool) -> None:
        trades = self._trades
        self.all.trades.extend(numbers)
        for part in chunks(numbers):
            for group, its in self._dealt_trades(part):
                group.trades.extend(its)
        for group in self._every_group():
            group.mark(self._signals, trades)
        if is_bulk:
            self._sort_all()
            return
        for number in numbers:
            for group in self._groups_of(number):
                group.insert(number, trades)

    def _every_group(self) -> list[Group]:
        return [self.all, *(g for each in self._groupings for g in each.groups.values())]

    def _dealt_trades(self, numbers: Sequence[int]) -> Iterator[tuple[Group, "array[int]"]]:
        """Trades by group, but for the group of all."""
        signals = pick(self._trades.signal, numbers)
        for grouping in self._groupings:
            for code, part in _dealt(numbers, pick(grouping.names.column, signals)):
                yield grouping.groups[code], part

    def _sort_all(self) -> None:
        """Sorts all trades by return once, and deals them out to the groups."""
        ordered = {group: array("I") for group in self._every_group()}
        for part in sorted_parts(self.all.trades, self._trades.pct):
            ordered[self.all].extend(part)
            for group, its in self._dealt_trades(part):
                ordered[group].extend(its)
        while ordered:
            group, numbers = ordered.popitem()
            group.voids.clear()
            group.sort(numbers, self._trades)

    def answer(self, seq: int, last_updated: object) -> Json:
        """The part of /api/outcomes that the filter and the entry decide."""
        signals, trades = self._signals, self._trades
        measures, ranks = measures_at(self.all, signals, trades, seq)
        found = figures_of(self._total(self.all, seq), measures)
        curve, count = self._curve_at(seq)
        return {
            "stats": found | {"last_updated": last_updated},
            "by": {each.key: self._by(each, seq, last_updated) for each in self._groupings},
            "curve": thinned(curve, count),
            "max_drawdown": max_drawdown(curve, count),
            "histogram": histogram(ranks),
            "calibration": [
                {**band, **_interval(wins, band_count)}
                for band, (_, band_count, wins, _) in zip(
                    _bands(found), measures.bands, strict=True
                )
            ],
        }

    def _total(self, group: Group, seq: int) -> int:
        return bisect_left(group.signals, self._signals.count_at(seq))

    def _by(self, grouping: _Grouping, seq: int, last_updated: object) -> list[Json]:
        found = []
        names = grouping.names.texts
        for code in sorted(grouping.groups, key=names.__getitem__):
            group = grouping.groups[code]
            total = self._total(group, seq)
            if total:
                measures, _ = measures_at(group, self._signals, self._trades, seq)
                figures = figures_of(total, measures)
                found.append({grouping.key: names[code], **figures, "last_updated": last_updated})
        return found

    def _curve_at(self, seq: int) -> tuple[Curve, int]:
        """A curve, and how many of its points the entry has.

        The curve without the trades that are withdrawn by now serves every entry but those before
        which one of these was not withdrawn yet.
        """
        trades, group = self._trades, self.all
        known = trades.count_at(seq)
        if any(number < known and void_seq > seq for void_seq, number in group.voids):
            gone = set(group.withdrawn(seq))
            numbers = group.trades[: bisect_left(group.trades, known)]
            curve = self._make_curve([each for each in numbers if each not in gone])
            return curve, len(curve.at_s)
        key = (len(group.trades), len(group.voids))
        if self._curve is None or self._curve[:2] != key:
            gone = {number for _, number in group.voids}
            kept = [each for each in group.trades if each not in gone] if gone else group.trades
            self._curve = (*key, self._make_curve(kept))
        curve = self._curve[2]
        count = bisect_left(group.trades, known)
        return curve, count - sum(number < known for _, number in group.voids)

    def _make_curve(self, numbers: Sequence[int]) -> Curve:
        at_s, returns = array("I"), array("d")
        for part in chunks(numbers):
            at_s.extend(pick(self._trades.at_s, part))
            returns.extend(pick(self._trades.pct, part))
        return make_curve(at_s, returns)


def _dealt(numbers: Sequence[int], codes: Sequence[int]) -> Iterable[tuple[int, "array[int]"]]:
    """The numbers of each code, in their order."""
    parts: dict[int, array[int]] = {code: array("I") for code in set(codes)}
    appends = {code: part.append for code, part in parts.items()}
    for number, code in zip(numbers, codes, strict=True):
        appends[code](number)
    return parts.items()


def _bands(found: Json) -> list[Json]:
    bands = found["calibration"]
    assert isinstance(bands, list)
    return bands


def _interval(wins: int, count: int) -> Json:
    low, high = wilson_interval(wins, count)
    return {"win_rate_low": low, "win_rate_high": high}
