"""Statistics of signals: win rate with its interval, returns, holding time, calibration. Pure.

docs/quants.md defines each figure. The figures are computed from the signals that have an outcome;
only the number of the other signals is used.

Invariant: equal signals give equal figures, in any order.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import fsum, isfinite, sqrt
from typing import NamedTuple

from projections.signals.transitions import BREAKEVEN, EXPIRED, LOSS, WIN

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution
BAND_WIDTH = 10  # percent of confidence; the last band includes 100
BANDS = 100 // BAND_WIDTH
US_A_SECOND = 1_000_000
DIGITS = 2  # of win_rate and average_return, as the old tracker gave them; the others are exact


class Sample:
    """The signals of one group that have an outcome, by column."""

    __slots__ = ("confidences", "held_us", "outcomes", "returns", "wins")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.returns = array("d")  # profit_loss_pct
        self.held_us = 0  # all holding times together, more than a timedelta can hold
        self.confidences = [array("d") for _ in range(BANDS)]  # of wins and losses, by band
        self.wins = [0] * BANDS  # by band

    def extend(
        self,
        outcomes: Sequence[str],
        returns: Sequence[float],
        confidences: Sequence[float],
        held: Sequence[timedelta],
    ) -> None:
        """Adds signals, by column: twice as fast as one by one."""
        self.outcomes.update(outcomes)
        self.returns.extend(returns)
        self.held_us += _sum_us(held)
        by_band, wins = self.confidences, self.wins
        # Few confidences differ, so this is twice as fast as one signal after another.
        for (outcome, confidence), count in Counter(
            zip(outcomes, confidences, strict=True)
        ).items():
            if outcome in _DECIDED:
                band = band_of(confidence)
                by_band[band].extend([confidence] * count)
                wins[band] += count * (outcome == WIN)


_DECIDED = (WIN, LOSS)
_MICROSECOND = timedelta(microseconds=1)


class Measures(NamedTuple):
    """The inputs from which the figures of a group are computed; None for a figure of nothing."""

    outcomes: Mapping[str, int]
    mean_return: float | None
    median_return: float | None
    best: float | None
    worst: float | None
    gains: tuple[int, float]  # the number of returns above 0, and their mean
    losses: tuple[int, float]  # the same of those below 0, without the sign
    held_us: int  # all holding times together
    bands: Sequence[tuple[int, int, int, float | None]]  # band, count, wins, mean confidence


def figures(total: int, sample: Sample) -> dict[str, object]:
    """The figures of `total` signals, of which `sample` holds those with an outcome.

    A figure of nothing is None. The keys are those of `eventlog stats --json`, in its order,
    without `last_updated`.
    """
    return figures_of(total, measures_of(sample))


def figures_of(total: int, measures: Measures) -> dict[str, object]:
    """The figures of `total` signals, of which those with an outcome have these measures."""
    outcomes = measures.outcomes
    wins, losses = outcomes[WIN], outcomes[LOSS]
    count = wins + losses + outcomes[BREAKEVEN] + outcomes[EXPIRED]
    low, high = wilson_interval(wins, wins + losses)
    return {
        "total_signals": total,
        "open": total - count,
        "wins": wins,
        "losses": losses,
        "breakevens": outcomes[BREAKEVEN],
        "expired": outcomes[EXPIRED],
        "win_rate": _rounded(_percentage(wins, wins + losses)),
        "win_rate_low": _finite(low),
        "win_rate_high": _finite(high),
        "average_return": _rounded(measures.mean_return),
        "median_return": _finite(measures.median_return),
        "profit_factor": _finite(_profit_factor(measures)),
        "best": _finite(measures.best),
        "worst": _finite(measures.worst),
        "mean_holding_s": _finite(measures.held_us / US_A_SECOND / count if count else None),
        "calibration": _calibration(measures),
    }


def measures_of(sample: Sample) -> Measures:
    """The measures of all signals in a sample."""
    returns = sample.returns
    gains = [value for value in returns if value > 0]
    losses = [-value for value in returns if value < 0]
    return Measures(
        outcomes=sample.outcomes,
        mean_return=_mean(returns),
        median_return=_median(returns) if returns else None,
        best=max(returns, default=None),
        worst=min(returns, default=None),
        gains=(len(gains), _mean(gains) or 0.0),
        losses=(len(losses), _mean(losses) or 0.0),
        held_us=sample.held_us,
        bands=[
            (band, len(confidences), sample.wins[band], _mean(confidences))
            for band, confidences in enumerate(sample.confidences)
            if confidences
        ],
    )


def wilson_interval(wins: int, count: int) -> tuple[float | None, float | None]:
    """The 95 % Wilson score interval of a rate, in percent; two times None where count is 0."""
    if count == 0:
        return None, None
    rate, z2 = wins / count, Z_95**2
    centre = rate + z2 / (2 * count)
    margin = Z_95 * sqrt(rate * (1 - rate) / count + z2 / (4 * count**2))
    scale = 100 / (1 + z2 / count)
    # Exact limits where all or none won, which rounding errors would miss.
    low = 0.0 if wins == 0 else (centre - margin) * scale
    high = 100.0 if wins == count else (centre + margin) * scale
    return low, high


def band_of(confidence: float) -> int:
    """The number of the band that holds a confidence in percent: 0 to 9."""
    return min(int(confidence // BAND_WIDTH), BANDS - 1)


def band_name(band: int) -> str:
    """The name of a band: 80-90."""
    return f"{band * BAND_WIDTH}-{(band + 1) * BAND_WIDTH}"


def _sum_us(held: Sequence[timedelta]) -> int:
    """The sum of holding times, in microseconds."""
    try:
        return sum(held, timedelta()) // _MICROSECOND  # ten times as fast as one by one
    except OverflowError:  # some 350 signals that are closed in the year 9999
        return sum(each // _MICROSECOND for each in held)


def _calibration(measures: Measures) -> list[dict[str, object]]:
    return [
        {
            "from": band * BAND_WIDTH,
            "to": (band + 1) * BAND_WIDTH,
            "count": count,
            "mean_confidence": _finite(mean_confidence),
            "win_rate": _finite(_percentage(wins, count)),
        }
        for band, count, wins, mean_confidence in measures.bands
    ]


def _profit_factor(measures: Measures) -> float | None:
    """The sum of all gains divided by the sum of all losses; None without losses."""
    (gain_count, mean_gain), (loss_count, mean_loss) = measures.gains, measures.losses
    return mean_gain * gain_count / (mean_loss * loss_count) if mean_loss else None


def _percentage(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    try:
        return fsum(values) / len(values)
    except OverflowError:  # returns near the largest double, from an entry price near 0
        return fsum(value / len(values) for value in values)


def _median(values: Sequence[float]) -> float:
    """That of `statistics.median`, whose import takes more time and memory than most queries."""
    ordered, middle = sorted(values), len(values) // 2
    if len(values) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def _finite(value: float | None) -> float | None:
    """None where the figure is beyond the range of a double. Never -0.0."""
    return None if value is None or not isfinite(value) else value + 0.0


def _rounded(value: float | None) -> float | None:
    finite = _finite(value)
    return None if finite is None else round(finite, DIGITS) + 0.0
