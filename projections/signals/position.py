"""Exit price and profit of a position that is closed in parts, by exact arithmetic. Pure.

A number counts as the decimal number that its JSON text shows: 0.1 is one tenth. Sums are exact,
and each result is rounded once. So the order of the parts does not matter, and thirds that were
closed at the entry price are a profit of 0.0, not of 1e-14.

Invariant: results are the doubles nearest to the exact values; never -0.0.
"""

from fractions import Fraction
from math import inf
from typing import NamedTuple

from projections.signals.transitions import SELL

# Fractions such as 0.3333333333 cannot sum to 1, so a rest this small is no position.
REST_MIN = Fraction(1, 10**9)


class ClosedParts(NamedTuple):
    """What was closed so far: the sums over all parts."""

    fraction: Fraction  # of the whole position
    value: Fraction  # sum of fraction * exit_price

    def with_part(self, fraction: float, exit_price: float) -> "ClosedParts":
        """These parts and one more."""
        part = _exact(fraction)
        return ClosedParts(self.fraction + part, self.value + part * _exact(exit_price))

    def with_rest(self, exit_price: float) -> "ClosedParts":
        """The whole position, once the rest is closed at this price."""
        rest = 1 - self.fraction
        return ClosedParts(Fraction(1), self.value + rest * _exact(exit_price))

    def leaves_no_rest(self) -> bool:
        """Whether the parts are the whole position, or more."""
        return self.fraction > 1 - REST_MIN

    def exit_price(self) -> float:
        """The average exit price of the parts, weighted by fraction."""
        return _rounded(self.value / self.fraction)

    def profit_loss_pct(self, action: str, *, entry_price: float) -> float:
        """Profit of the parts in percent of the entry price; infinite where no double holds it."""
        entry = _exact(entry_price)
        pct = (self.value / self.fraction - entry) / entry * 100
        return _rounded(-pct if action == SELL else pct)


NO_PARTS = ClosedParts(Fraction(0), Fraction(0))


def _exact(number: float) -> Fraction:
    return Fraction(repr(number))


def _rounded(number: Fraction) -> float:
    try:
        return float(number) + 0.0  # a tiny negative number rounds to -0.0
    except OverflowError:
        return inf if number > 0 else -inf
