"""The sums and counts of some trades, which add up exactly. Pure.

Sums are kept as a few floats whose exact sum is that of all values, so that they round once, as
those of `eventlog stats` do.

Invariant: the totals of trades do not depend on how they were divided and added.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum

from projections.queries.statistics import BANDS
from projections.signals.transitions import OUTCOMES, WIN
from projections.web.outcomes.columns import pick
from projections.web.outcomes.reading import CODES, SignalColumns
from projections.web.outcomes.trades import KINDS_PER_OUTCOME, TradeColumns

_WIN = CODES[WIN]
_KINDS = len(OUTCOMES) * KINDS_PER_OUTCOME

Parts = tuple[float, ...]  # floats whose exact sum is meant


@dataclass(frozen=True, slots=True)
class Band:
    """The decided trades of one band of confidence."""

    count: int = 0
    wins: int = 0
    confidences: Parts = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums and counts that the measures of some trades are computed from."""

    outcomes: tuple[int, ...] = (0,) * len(OUTCOMES)
    held_us: int = 0
    gains: int = 0
    gain_parts: Parts = ()
    losses: int = 0
    loss_parts: Parts = ()  # below 0
    bands: tuple[Band, ...] = (Band(),) * BANDS

    @property
    def count(self) -> int:
        """The number of trades."""
        return sum(self.outcomes)

    def plus(self, more: "Totals", sign: int = 1) -> "Totals":
        """These and more trades; with sign -1, without them. The sums are not compacted."""
        return Totals(
            tuple(a + sign * b for a, b in zip(self.outcomes, more.outcomes, strict=True)),
            self.held_us + sign * more.held_us,
            self.gains + sign * more.gains,
            self.gain_parts + _signed(more.gain_parts, sign),
            self.losses + sign * more.losses,
            self.loss_parts + _signed(more.loss_parts, sign),
            tuple(
                mine
                if not other.count
                else Band(
                    mine.count + sign * other.count,
                    mine.wins + sign * other.wins,
                    mine.confidences + _signed(other.confidences, sign),
                )
                for mine, other in zip(self.bands, more.bands, strict=True)
            ),
        )

    def compacted(self) -> "Totals":
        """The same with sums of a few parts. Raises OverflowError."""
        return replace(
            self,
            gain_parts=_exact(self.gain_parts),
            loss_parts=_exact(self.loss_parts),
            bands=tuple(
                replace(band, confidences=_exact(band.confidences))
                if len(band.confidences) > 1
                else band
                for band in self.bands
            ),
        )


def totals_of(signals: SignalColumns, trades: TradeColumns, numbers: Sequence[int]) -> Totals:
    """The totals of some trades."""
    if not numbers:
        return Totals()
    returns = pick(trades.pct, numbers)
    gains = tuple([value for value in returns if value > 0])
    losses = tuple([value for value in returns if value < 0])
    kinds = pick(trades.kind, numbers)
    outcomes, counts, wins = [0] * len(OUTCOMES), [0] * (BANDS + 1), [0] * (BANDS + 1)
    for kind, count in Counter(kinds).items():
        outcome, band = divmod(kind, KINDS_PER_OUTCOME)
        outcomes[outcome] += count
        counts[band] += count
        if outcome == _WIN:
            wins[band] += count
    confidences: list[list[float]] = [[] for _ in range(BANDS + 1)]
    appends = [confidences[kind % KINDS_PER_OUTCOME].append for kind in range(_KINDS)]
    for kind, value in zip(
        kinds, pick(signals.confidence, pick(trades.signal, numbers)), strict=True
    ):
        appends[kind](value)
    return Totals(
        tuple(outcomes),
        sum(pick(trades.held_us, numbers)),
        len(gains),
        gains,
        len(losses),
        losses,
        tuple(Band(counts[band], wins[band], tuple(confidences[band])) for band in range(BANDS)),
    )


def _exact(values: Parts) -> Parts:
    """A few floats whose exact sum is that of the values. Raises OverflowError."""
    parts: Parts = ()
    rest = values
    while total := fsum(rest):
        parts += (total,)
        rest += (-total,)
    return parts


def _signed(values: Parts, sign: int) -> Parts:
    return values if sign > 0 else tuple(-value for value in values)
