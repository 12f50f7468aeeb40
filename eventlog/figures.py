"""Figures as text for people: counts with their noun, sizes, durations, decimals, times. Pure.

Output for machines (`--json`, metrics, log lines) never passes through here.

Invariant: a text has no more digits than a person can use; counts, sizes and durations have their
unit.
"""

from eventlog.errors import printable_value

_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
_TIME_KEYS = ("_at", "timestamp", "last_updated")  # their values are RFC 3339 text
_SECONDS_CHARS = len("2025-11-18T02:00:00")
_PRICE_DIGITS = 12  # significant; a double has up to 17, of which the last ones are noise


def count_text(count: int, noun: str) -> str:
    """A count with its noun, in a regular plural: `1 entry`, `2 entries`, `12,345 signals`."""
    if count != 1:
        ends_in_y = noun.endswith("y") and noun[-2:-1] not in "aeiou"
        noun = f"{noun[:-1]}ies" if ends_in_y else f"{noun}s"
    return f"{count:,} {noun}"


def bytes_text(count: int) -> str:
    """A size in the unit that fits, with two digits or more: `512 bytes`, `1.5 KiB`, `204 MiB`."""
    if count < 1024:
        return count_text(count, "byte")
    size, power = count / 1024, 0
    while round(size) >= 1024 and power < len(_BYTE_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:{'.1f' if size < 9.95 else ',.0f'}} {_BYTE_UNITS[power]}"


def duration_text(seconds: float) -> str:
    """A duration in the unit that fits: `0.4 s`, `12 s`, `11 min`, `3.2 h`, `5 days`."""
    for limit_s, unit_s, unit, places in (
        (9.95, 1, "s", 1),
        (2 * _MINUTE_S, 1, "s", 0),
        (2 * _HOUR_S, _MINUTE_S, "min", 0),
        (9.95 * _HOUR_S, _HOUR_S, "h", 1),
        (2 * _DAY_S, _HOUR_S, "h", 0),
    ):
        if abs(seconds) < limit_s:
            return f"{seconds / unit_s:.{places}f} {unit}"
    return count_text(round(seconds / _DAY_S), "day")


def decimal_text(value: float) -> str:
    """A decimal with at most two digits after the point: `12.25`, `60.5`, `3`."""
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def price_text(value: float) -> str:
    """A price with its significant digits, without trailing zeros: `150.5`, `97123.45`, `147`."""
    return f"{value:.{_PRICE_DIGITS}g}"


def time_text(stored: str, places: int | None = None) -> str:
    """A UTC time of the log as RFC 3339 text with the offset `+00:00`, the form of every output.

    `places` is the number of digits of a second that are kept; by default all.
    """
    moment = stored.removesuffix("Z").removesuffix("+00:00")
    if moment == stored:
        return stored  # not in our form
    if places is not None:
        moment = moment[: _SECONDS_CHARS + (1 + places if places else 0)]
    return f"{moment}+00:00"


def figure_text(key: str, value: object) -> str:
    """The value of a JSON key for people: its unit follows from the key. `-` stands for null."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return printable_value(time_text(value) if key.endswith(_TIME_KEYS) else value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable_value(value)
    if key.endswith("bytes"):
        return bytes_text(int(value))
    if key.endswith(("_seconds", "_s")):
        return duration_text(value)
    if isinstance(value, int):
        return f"{value:,}"
    return price_text(value) if key.endswith("_price") else decimal_text(value)
