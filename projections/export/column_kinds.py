"""The kind of column that holds the values of a further key: boolean, integer, float or text. Pure.

A log may hold any JSON value under a further key, also of several types. A column of numbers is
numeric only where no value changes by that; otherwise it is text, in which a text stands as it is
and any other value as JSON.

Invariant: no value is lost or rounded in a column of its kind.
"""

from collections.abc import Iterable, Sequence

from projections.queries.selection import json_text

BOOLEAN, INTEGER, FLOAT, TEXT = "boolean", "integer", "float", "text"

_INTEGER_MAX = 2**63 - 1
_EXACT_MAX = 2**53  # up to here a float holds every integer
_LARGE = "large"  # an integer that is not exact as a float


class ColumnKinds:
    """Finds the kinds of `count` columns."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._seen: list[set[str]] = [set() for _ in range(count)]

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Takes rows of these columns into account."""
        for row in rows:
            for seen, value in zip(self._seen, row, strict=True):
                if value is not None:
                    seen.add(_kind_of(value))

    def found(self) -> tuple[str, ...]:
        """The kind of each column. A column without values is text."""
        return tuple(map(_common, self._seen))


def as_kind(kind: str, value: object) -> object:
    """The value as a column of this kind holds it."""
    if value is None or kind in (BOOLEAN, INTEGER):
        return value
    if kind == FLOAT:
        assert isinstance(value, int | float)
        return float(value)
    return json_text(value)


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        if abs(value) <= _EXACT_MAX:
            return INTEGER
        return _LARGE if abs(value) <= _INTEGER_MAX else TEXT
    return FLOAT if isinstance(value, float) else TEXT


def _common(seen: set[str]) -> str:
    if seen == {BOOLEAN}:
        return BOOLEAN
    if seen and seen <= {INTEGER, _LARGE}:
        return INTEGER
    return FLOAT if seen and seen <= {INTEGER, FLOAT} else TEXT
