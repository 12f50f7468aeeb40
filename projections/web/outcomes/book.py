"""A book: the trades that a filter selects, in groups, and the answer of the page Outcomes.

Invariant: its figures as of an entry are those of `eventlog stats` as of it, with equal filters.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

from eventlog.plumbing import run_in_processes
from projections.queries.filters import SignalFilter
from projections.queries.statistics import figures_of, wilson_interval
from projections.web.outcomes.columns import Names, chunks, pick
from projections.web.outcomes.curve import Curve, histogram, make_curve, max_drawdown, thinned
from projections.web.outcomes.groups import Built, Group, measures_at, parts_by_return
from projections.web.outcomes.times import microseconds
from projections.web.outcomes.trades import Trades

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

    @property
    def group_count(self) -> int:
        """The number of its groups."""
        return len(self._every_group())

    def pop_group(self) -> tuple[int | None, int, Group] | None:
        """Takes one group out, for `take_group` of another book; None where none is left."""
        for number, grouping in enumerate(self._groupings):
            if grouping.groups:
                return (number, *grouping.groups.popitem())
        group, self.all = self.all, Group()
        return (None, 0, group) if group.signals else None

    def take_group(self, number: int | None, code: int, group: Group) -> None:
        """Takes a group of a book that has all signals and trades of the columns."""
        if number is None:
            self.all = group
        else:
            self._groupings[number].groups[code] = group
        self._signals_seen, self._trades_seen = len(self._signals.id), len(self._trades.known_seq)
        self._voids_seen = len(self._trades.voids)

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
        for grouping in self._groupings:
            for part in chunks(numbers):
                for code, its in self._dealt_trades(grouping, part):
                    grouping.groups[code].trades.extend(its)
        if is_bulk:
            self._build_all()
            return
        for group in self._every_group():
            group.mark(self._signals, trades)
        for number in numbers:
            for group in self._groups_of(number):
                group.insert(number, trades)

    def _every_group(self) -> list[Group]:
        return [self.all, *(g for each in self._groupings for g in each.groups.values())]

    def _dealt_trades(
        self, grouping: _Grouping, numbers: Sequence[int]
    ) -> Iterable[tuple[int, "array[int]"]]:
        """Trades by group."""
        signals = pick(self._trades.signal, numbers)
        return _dealt(numbers, pick(grouping.names.column, signals))

    def _build_all(self) -> None:
        """Sorts all trades by return, and makes the marks and blocks of every group.

        In several processes where this one may fork.
        """
        trades = self._trades
        parts = parts_by_return(self.all.trades, trades.pct)
        ordered: dict[int, array[int]] = {}
        run_in_processes(
            len(parts),
            lambda number: array("I", sorted(parts[number], key=trades.pct.__getitem__)),
            ordered.__setitem__,
        )
        sources = (None, *self._groupings)
        built: dict[int, list[tuple[int, Built]]] = {}
        whole = [ordered[number] for number in range(len(parts))]
        run_in_processes(
            len(sources),
            lambda number: self._built(sources[number], whole),
            built.__setitem__,
        )
        for number, source in enumerate(sources):
            for code, found in built[number]:
                (self.all if source is None else source.groups[code]).take(found, trades)

    def _built(
        self, grouping: _Grouping | None, ordered: "list[array[int]]"
    ) -> list[tuple[int, Built]]:
        """The marks and blocks of all groups of a grouping; None: of the group of all."""
        if grouping is None:
            groups, of_group = {0: self.all}, {0: array("I")}
            for part in ordered:
                of_group[0].extend(part)
        else:
            groups = grouping.groups
            of_group = {code: array("I") for code in groups}
            for part in ordered:
                for code, its in self._dealt_trades(grouping, part):
                    of_group[code].extend(its)
        return [
            (code, group.build(of_group[code], self._signals, self._trades))
            for code, group in groups.items()
        ]

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
