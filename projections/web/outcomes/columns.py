"""Compact columns: arrays of numbers, and names by small numbers. Pure.

Invariant: a column has the least width that holds its greatest number, and never shrinks.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TypeVar

CHUNK = 10_000  # positions that are looked at together: some MiB of numbers, some ms
_WIDER = {"B": "H", "H": "I", "I": "q"}

N = TypeVar("N", int, float)


def extended(column: "array[int]", numbers: list[int]) -> "array[int]":
    """The column with more numbers at its end: itself, or a wider copy that replaces it."""
    try:
        column.fromlist(numbers)
    except OverflowError:  # and then the column is unchanged
        return extended(array(_WIDER[column.typecode], column), numbers)
    return column


def pick(column: "array[N]", numbers: Sequence[int]) -> tuple[N, ...]:
    """The values of a column at some positions."""
    if len(numbers) == 1:
        return (column[numbers[0]],)
    return itemgetter(*numbers)(column) if numbers else ()


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

    def among(self, count: int) -> list[str]:
        """The names among the first `count` texts, sorted."""
        return sorted(self.texts[: bisect_left(self._first, count)])

    def code(self, text: str) -> int:
        """The number of a text; -1 for an unknown one."""
        return self._codes.get(text, -1)
