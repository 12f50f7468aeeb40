"""The least or the greatest of any part of a column, without looking at all of it. Pure.

Invariant: the result is that of `min` or `max` of the part, and its position the first one.
"""

from array import array
from collections.abc import Callable, Iterable
from typing import NamedTuple

STEP = 64  # values in a block: the ends of a part cost some 2 us, the blocks little memory

Choose = Callable[[Iterable[float]], float]  # min or max


class Extremes(NamedTuple):
    """A column, and the extreme of each of its blocks."""

    values: "array[float]"
    choose: Choose
    blocks: "array[float]"

    def value(self, start: int, end: int) -> float:
        """The extreme of values[start:end], which is not empty."""
        first, last = -(-start // STEP), end // STEP  # the whole blocks in it
        if first >= last:
            return self.choose(self.values[start:end])
        ends = self.values[start : first * STEP] + self.values[last * STEP : end]
        return self.choose([self.choose(self.blocks[first:last]), *ends])

    def position(self, start: int, end: int) -> int:
        """The first position of that value."""
        value = self.value(start, end)
        first, last = -(-start // STEP), end // STEP
        if first >= last or value in self.values[start : first * STEP]:
            return self.values.index(value, start, end)
        try:
            start = self.blocks.index(value, first, last) * STEP
        except ValueError:  # it is behind the whole blocks
            start = last * STEP
        return self.values.index(value, start, end)


def extremes_of(values: "array[float]", choose: Choose) -> Extremes:
    """Looks at all values once."""
    starts = range(0, len(values), STEP)
    return Extremes(values, choose, array("d", [choose(values[at : at + STEP]) for at in starts]))
