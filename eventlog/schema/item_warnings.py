"""Warnings about items that are accepted although something in them looks wrong. Pure.

Invariant: a warning never changes what is stored.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import TypedDict

from eventlog.errors import printable_value


class ItemWarning(TypedDict):
    """One warning: the field, and what looks wrong with it, in words that begin with the field."""

    field: str
    warning: str


NO_WARNINGS: tuple[ItemWarning, ...] = ()
# The kinds of warnings, by field. A log line is written for one warning of a kind a minute.
KINDS: Mapping[str, str] = {
    "target_price": "wrong_side",
    "stop_price": "wrong_side",
    "timestamp": "ahead_of_clock",
    "symbol": "invisible_character",
    "event": "unknown_event",
}

# Characters without a glyph of their own that are not in category Cf: fillers, joiners, variation
# selectors, the blank of Braille.
_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


def warning(field: str, problem: str, value: object) -> ItemWarning:
    """The warning that `field` has a problem."""
    return {"field": field, "warning": f"{field} {problem} (got {printable_value(value)})"}


def signal_warnings(
    symbol: str, action: str, entry: float, target: float, stop: float
) -> tuple[ItemWarning, ...]:
    """The warnings about the values of a signal in stored form."""
    found = []
    invisible = _invisible_character(symbol)
    if invisible:
        problem = f"holds the invisible character U+{ord(invisible):04X}"
        found.append(warning("symbol", problem, symbol))
    sign = 1 if action == "BUY" else -1
    above, below = ("above", "below") if sign == 1 else ("below", "above")
    if (target - entry) * sign < 0:
        problem = f"is {below} the entry_price, {entry!r}: the wrong side for a {action}"
        found.append(warning("target_price", problem, target))
    if (stop - entry) * sign > 0:
        problem = f"is {above} the entry_price, {entry!r}: the wrong side for a {action}"
        found.append(warning("stop_price", problem, stop))
    return tuple(found)


def _invisible_character(text: str) -> str | None:
    for char in text:
        if not char.isascii() and (
            unicodedata.category(char) == "Cf" or _FILLERS.match(char) is not None
        ):
            return char
    return None
