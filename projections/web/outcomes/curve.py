"""The curve of cumulative returns with its drawdown, thinned for a screen, and the histogram.

The returns of trades are added up in the order in which the log learned them. Thinning is M4: of
each stretch of time the first, the least, the greatest and the last point stay, so a line over the
points covers the same pixels as one over all trades. Pure.

Invariant: the greatest drawdown is that of all trades, whatever was thinned away.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import floor, isfinite, log10
from operator import sub
from typing import NamedTuple

from projections.web.outcomes.extremes import Extremes, extremes_of
from projections.web.outcomes.groups import Ranks

POINTS_MAX = 2_000
BUCKETS = POINTS_MAX // 4
BARS = 24  # about; of round widths
DIGITS = 6  # of points, for a screen

Json = dict[str, object]


class Curve(NamedTuple):
    """A point for each trade: when, all returns so far, and how far below their peak."""

    at_s: Sequence[int]
    sums: Sequence[float]  # percent points
    depths: Sequence[float]  # 0 or less
    lows: Extremes  # of the sums
    highs: Extremes
    deepest: Extremes  # of the depths


def make_curve(at_s: Sequence[int], returns: Sequence[float]) -> Curve:
    """The curve of some trades, in their order."""
    sums = array("d", accumulate(returns))
    peaks = accumulate(sums, max, initial=0.0)
    next(peaks)
    depths = array("d", map(sub, sums, peaks))
    lows, highs, deepest = (
        extremes_of(*each) for each in ((sums, min), (sums, max), (depths, min))
    )
    return Curve(at_s, sums, depths, lows, highs, deepest)


def max_drawdown(curve: Curve, count: int) -> float | None:
    """The greatest fall below a peak among the first `count` points, 0 or less."""
    return curve.deepest.value(0, count) if count and _is_finite(curve, count) else None


def _is_finite(curve: Curve, count: int) -> bool:
    """Whether no sum is beyond the range of a double: the next ones would be as well."""
    return not count or isfinite(curve.sums[count - 1])


def thinned(curve: Curve, count: int) -> Json:
    """The object `curve` of /api/outcomes, from the first `count` points."""
    if not _is_finite(curve, count):
        return {"t": [], "v": [], "d": []}
    kept = range(count) if count <= POINTS_MAX else _m4(curve, count)
    depths: list[float] = []
    start = 0
    for point in kept:  # the deepest since the point before
        depths.append(curve.deepest.value(start, point + 1))
        start = point + 1
    return {
        "t": [curve.at_s[point] for point in kept],
        "v": [_rounded(curve.sums[point]) for point in kept],
        "d": [_rounded(depth) for depth in depths],
    }


def _m4(curve: Curve, count: int) -> list[int]:
    at_s = curve.at_s
    first_s = at_s[0]
    span_s = at_s[count - 1] - first_s + 1
    kept: list[int] = []
    start = 0
    for bucket in range(1, BUCKETS + 1):
        end = bisect_left(at_s, first_s + span_s * bucket / BUCKETS, start, count)
        if end > start:
            low, high = curve.lows.position(start, end), curve.highs.position(start, end)
            kept += sorted({start, low, high, end - 1})
        start = end
    return kept


def histogram(ranks: Ranks) -> list[Json]:
    """The object `histogram`: bars of one round width; the outer ones are open."""
    if not ranks.count:
        return []
    low, high = ranks.at(ranks.count // 50), ranks.at(ranks.count - 1 - ranks.count // 50)
    width = _round_width(high / BARS - low / BARS)
    if not (isfinite(low / width) and isfinite(high / width)):
        return []
    edges = [width * step for step in range(floor(low / width), floor(high / width) + 2)]
    below = [0, *(ranks.below(edge) for edge in edges), ranks.count]
    bounds: list[float | None] = [None, *(_rounded(edge) for edge in edges), None]
    bars = zip(bounds, bounds[1:], map(sub, below[1:], below), strict=False)
    return [
        {"from": start, "to": end, "count": count}
        for start, end, count in bars
        if count or (start is not None and end is not None)
    ]


def _round_width(width: float) -> float:
    """The next of 1, 2, 5, 10 ... that is not below."""
    if not width > 0 or not isfinite(width):
        return 1.0
    power = 10.0 ** floor(log10(width))
    return next((power * step for step in (1, 2, 5) if power * step >= width), power * 10)


def _rounded(value: float) -> float:
    return round(value, DIGITS) + 0.0
