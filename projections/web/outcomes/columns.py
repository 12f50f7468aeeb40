"""Compact columns: arrays of numbers, and names by small numbers. Pure.

Invariant: a column has the least width that holds its greatest number, and never shrinks.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TypeVar

# Positions that are looked at together. Ten times as many take three times as long each: their
# numbers do not fit into the cache of a processor.
CHUNK = 1_000
# `positions` makes a table with four bytes for each value between the least and the greatest one.
# Where few of these are in the column it would be large for little.
VALUES_PER_POSITION_MAX = 8
_WIDER = {"B": "H", "H": "I", "I": "q"}

N = TypeVar("N", int, float)


def extended(column: "array[int]", numbers: "list[int] | array[int]") -> "array[int]":
    """The column with more numbers at its end: itself, or a wider copy that replaces it."""
    try:
        if isinstance(numbers, list):
            column.fromlist(numbers)
        elif numbers.typecode == column.typecode:
            column.extend(numbers)
        else:
            column.fromlist(numbers.tolist())
    except OverflowError:  # and then the column is unchanged
        return extended(array(_WIDER[column.typecode], column), numbers)
    return column


def pick(column: "array[N]", numbers: Sequence[int]) -> Sequence[N]:
    """The values of a column at some positions."""
    if isinstance(numbers, range):
        return column[numbers.start : numbers.stop]
    if len(numbers) == 1:
        return (column[numbers[0]],)
    if len(numbers) <= CHUNK:
        return itemgetter(*numbers)(column) if numbers else ()
    return [value for part in chunks(numbers) for value in pick(column, part)]


def as_range(numbers: "array[int]") -> Sequence[int]:
    """Ascending numbers as a range where they have no gap: it is picked faster."""
    is_whole = numbers[-1] - numbers[0] == len(numbers) - 1
    return range(numbers[0], numbers[-1] + 1) if is_whole else numbers


def positions(column: "array[int]", values: "Sequence[int]") -> list[int]:
    """The positions of values that an ascending column of numbers holds."""
    if not values:
        return []
    least, greatest = min(values), max(values)
    low, high = bisect_left(column, least), bisect_right(column, greatest)
    if greatest - least > VALUES_PER_POSITION_MAX * (high - low):
        return [bisect_left(column, value, low, high) for value in values]
    table = array("I", bytes(4 * (greatest - least + 1)))
    for position, value in enumerate(column[low:high], low):
        table[value - least] = position
    return [table[value - least] for value in values]


def chunks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Positions, some at a time."""
    for start in range(0, len(numbers), CHUNK):
        yield numbers[start : start + CHUNK]


class Names:
    """A column of texts: each as the number of its text, in the order in which these came."""

    def __init__(self) -> None:
        self.column: array[int] = array("B")
        self.texts: list[str] = []
        self._first: list[int] = []  # the position of the first of each
        self._codes: dict[str, int] = {}

    def extend(self, texts: Sequence[str]) -> None:
        """Adds texts at the end of the column."""
        codes = self._codes
        for text in dict.fromkeys(texts):
            if text not in codes:
                codes[text] = len(self.texts)
                self.texts.append(text)
                self._first.append(len(self.column) + texts.index(text))
        self.column = extended(self.column, [codes[text] for text in texts])

    def append(self, more: "Names") -> None:
        """Adds another column at the end."""
        codes, start = self._codes, len(self.column)
        for text, first in zip(more.texts, more._first, strict=True):
            if text not in codes:
                codes[text] = len(self.texts)
                self.texts.append(text)
                self._first.append(start + first)
        translated = [codes[text] for text in more.texts]
        if translated != list(range(len(translated))):
            numbers: list[int] | array[int] = [translated[code] for code in more.column]
        else:
            numbers = more.column
        self.column = extended(self.column, numbers)

    def among(self, count: int) -> list[str]:
        """The names among the first `count` texts, sorted."""
        return sorted(self.texts[: bisect_left(self._first, count)])

    def code(self, text: str) -> int:
        """The number of a text; -1 for an unknown one."""
        return self._codes.get(text, -1)
