"""Field rules: what each field may hold, its limits, and the form in which it is stored.

A rule takes the field's name and the value, and returns the stored form.

Invariant: a value in stored form is returned unchanged, and a value that cannot be stored without
loss is refused with an InvalidSignal that names field, problem and value.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from math import isfinite
from types import NoneType
from typing import NamedTuple

from eventlog.errors import EntryTooLarge, InvalidSignal
from eventlog.format.line import HASH_PATTERN

FieldRule = Callable[[str, object], str | float]

INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # what SQLite, DuckDB and most languages hold exactly
DEPTH_MAX = 32  # the payload's own object is level 1; every common JSON reader goes that deep
VALUES_MAX = 65_000  # more cannot fit into a payload; bounds the check of lists that share lists
ID_CHARS_MAX = 128
SYMBOL_CHARS_MAX = 20  # Alpine answers 500 to a longer one
NAME_CHARS_MAX = 100
FRACTION_MAX = 1.0  # Alpine takes a confidence up to here for a fraction, not a percent
PERCENT_MAX = 100.0
ACTIONS = ("BUY", "SELL")
OUTCOMES = ("win", "loss", "breakeven", "expired")
# What a value must be, in words that continue "must be" or "is not".
WORDS: Mapping[str, str] = {
    "text": "text",
    "signal_id": f"1 to {ID_CHARS_MAX} printable characters",
    "action": " or ".join(ACTIONS),
    "outcome": f"{', '.join(OUTCOMES[:-1])} or {OUTCOMES[-1]}",
    "number": "a finite number",
    "price": "a finite number above 0",
    "confidence": f"a percent: 0, or above {FRACTION_MAX:g} up to {PERCENT_MAX:g}",
}


class FieldLimits(NamedTuple):
    """Limits and words that readers of stored payloads share with the rules of this module.

    Readers share these and no other rule: a log may hold what an older version accepted, and a
    stricter rule here must not remove a stored signal from a view.
    """

    words: Mapping[str, str] = WORDS
    id_chars_max: int = ID_CHARS_MAX
    depth_max: int = DEPTH_MAX
    fraction_max: float = FRACTION_MAX
    percent_max: float = PERCENT_MAX

    def is_percent(self, number: float) -> bool:
        """Whether a confidence may be `number`: 0, or above `fraction_max` to `percent_max`."""
        return number == 0.0 or self.fraction_max < number <= self.percent_max


FIELD_LIMITS = FieldLimits()

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # exactly Unicode's category Cc
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character: it has no UTF-8
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)
_STORED_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}\+00:00", re.ASCII
)


def text(
    field: str, value: object, *, chars_min: int = 1, chars_max: int, controls: bool = False
) -> str:
    """Text of `chars_min` to `chars_max` characters; control characters only with `controls`."""
    if not isinstance(value, str):
        raise _unfit(field, value, "text")
    plain = str.__str__(value)  # a member of a StrEnum becomes plain text
    if not chars_min <= len(plain) <= chars_max:
        span = f"{chars_min} to {chars_max}" if chars_min else f"at most {chars_max}"
        raise InvalidSignal(f"must have {span} characters", field=field, value=value)
    if not plain.isprintable():  # nearly all text is; surrogates and controls never are
        _refuse_surrogates(field, plain)
        control = None if controls else _CONTROL.search(plain)
        if control is not None:
            raise InvalidSignal(
                f"holds the control character U+{ord(control[0]):04X}", field=field, value=value
            )
    return plain


def name(field: str, value: object) -> str:
    """Text of 1 to 100 characters without control characters: a strategy."""
    return text(field, value, chars_max=NAME_CHARS_MAX)


def label(field: str, value: object) -> str:
    """Text of 0 to 100 characters without control characters: an asset_type, a data_source."""
    return text(field, value, chars_min=0, chars_max=NAME_CHARS_MAX)


def order_id(field: str, value: object) -> str:
    """Text of 1 to 128 characters without control characters."""
    return text(field, value, chars_max=ID_CHARS_MAX)


def reason(field: str, value: object) -> str:
    """Text of 1 to 1,000 characters, which may hold newlines: a reason."""
    return text(field, value, chars_max=1_000, controls=True)


def signal_id(field: str, value: object) -> str:
    """Text of 1 to 128 printable characters."""
    plain = text(field, value, chars_max=ID_CHARS_MAX)
    if not is_signal_id(plain):
        raise _unfit(field, value, "signal_id")
    return plain


def is_signal_id(value: str) -> bool:
    """Whether `value` is a signal_id."""
    return 0 < len(value) <= ID_CHARS_MAX and value.isprintable()


def symbol(field: str, value: object) -> str:
    """Stripped, upper-cased, 1 to 20 characters, no white space."""
    if not isinstance(value, str):
        raise _unfit(field, value, "text")
    stored = str.__str__(value).strip().upper()
    if not 0 < len(stored) <= SYMBOL_CHARS_MAX:
        raise InvalidSignal(
            f"must have 1 to {SYMBOL_CHARS_MAX} characters", field=field, value=value
        )
    if stored.split() != [stored]:
        raise InvalidSignal("may not hold white space", field=field, value=value)
    return text(field, stored, chars_max=SYMBOL_CHARS_MAX)


def action(field: str, value: object) -> str:
    """BUY or SELL, given in any case."""
    # Only ASCII: U+017F, the long s, becomes S when upper-cased.
    if isinstance(value, str) and value.isascii():
        stored = str.__str__(value).upper()
        if stored in ACTIONS:
            return stored
    raise _unfit(field, value, "action")


def outcome(field: str, value: object) -> str:
    """How a trade ended: win, loss or expired."""
    if isinstance(value, str) and value in OUTCOMES:
        return str.__str__(value)
    raise _unfit(field, value, "outcome")


def sha256_hex(field: str, value: object) -> str:
    """64 lower-case hex digits."""
    if isinstance(value, str) and HASH_PATTERN.fullmatch(value):
        return str.__str__(value)
    raise InvalidSignal("must be 64 lower-case hex digits", field=field, value=value)


def number(field: str, value: object) -> float:
    """A finite number as a float: never -0.0; an int that a float cannot hold is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        instead = ", not text" if isinstance(value, str) else ""
        raise InvalidSignal(f"must be a number{instead}", field=field, value=value)
    if isinstance(value, int) and not (INT_MIN <= value <= INT_MAX and float(value) == value):
        raise InvalidSignal(
            "cannot be stored exactly as a floating-point number", field=field, value=value
        )
    stored = float(value)
    if not isfinite(stored):
        raise _unfit(field, value, "number")
    return stored + 0.0  # -0.0 + 0.0 is 0.0


def price(field: str, value: object) -> float:
    """A finite number above 0."""
    stored = number(field, value)
    if not stored > 0.0:
        raise InvalidSignal("must be > 0", field=field, value=value)
    return stored


def confidence(field: str, value: object) -> float:
    """Percent: 0, or above 1 up to 100. Alpine takes what is not above 1 for a fraction."""
    stored = number(field, value)
    if FIELD_LIMITS.is_percent(stored):
        return stored
    if 0.0 < stored <= FRACTION_MAX:
        percent = float(f"{stored * 100.0:.12g}")
        raise InvalidSignal(
            f"looks like a fraction; did you mean {percent}?", field=field, value=value
        )
    raise _unfit(field, value, "confidence")


def timestamp(field: str, value: object) -> str:
    """RFC 3339 text or an aware datetime, as UTC text with six digits of a second."""
    if isinstance(value, datetime):
        time = _check_aware(field, value)
    elif isinstance(value, str):
        time = _parse_timestamp(field, value)
    else:
        raise InvalidSignal("must be RFC 3339 text or an aware datetime", field=field, value=value)
    try:
        return time.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise InvalidSignal(
            "is outside the years 1 to 9999 once in UTC", field=field, value=value
        ) from None


def is_stored_timestamp(value: str) -> bool:
    """Whether `value` is a time in stored form, YYYY-MM-DDTHH:MM:SS.ffffff+00:00."""
    if _STORED_TIMESTAMP.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 30th of February
        return False
    return True


def check_json(fields: Mapping[str, object]) -> None:
    """Refuses values that a JSON line would not return unchanged. `fields`: keys of a payload.

    Only the exact JSON types are accepted: a subclass would be read back as another type.
    """
    for key in fields:
        _check_key("item", key)
    values = [(key, key, fields[key], 2) for key in fields]
    count = len(values)
    while values:
        top, field, value, depth = values.pop()
        if type(value) is dict:
            count += len(value)
            _refuse_size_and_depth(top, field, count, depth)
            for key in value:
                _check_key(field, key)
                values.append((top, f"{_short_field(field)}.{key}", value[key], depth + 1))
        elif type(value) is list or type(value) is tuple:
            count += len(value)
            _refuse_size_and_depth(top, field, count, depth)
            stem = _short_field(field)
            values.extend((top, f"{stem}[{i}]", inner, depth + 1) for i, inner in enumerate(value))
        else:
            _check_scalar(field, value)


def _short_field(field: str) -> str:
    # Otherwise a key of 60,000 characters above a list as long is copied 60,000 times.
    return field if len(field) <= NAME_CHARS_MAX else field[:NAME_CHARS_MAX] + "..."


def _check_scalar(field: str, value: object) -> None:
    if type(value) is str:
        _refuse_surrogates(field, value)
    elif type(value) is float:
        if not isfinite(value):
            raise _unfit(field, value, "number")
    elif type(value) is int:
        if not INT_MIN <= value <= INT_MAX:
            raise InvalidSignal("must be from -2^63 to 2^63-1", field=field, value=value)
    elif type(value) not in (bool, NoneType):
        raise InvalidSignal(
            f"is of type {type(value).__name__}, which is not JSON",
            field=field,
            value=value,
            do="convert it to str, int, float, bool, None, list or dict",
        )


def _check_key(field: str, key: object) -> None:
    if type(key) is not str:
        raise InvalidSignal("has a key that is not text", field=field, value=key)
    if _SURROGATE.search(key):
        raise InvalidSignal("has a key with half a character", field=field, value=key)


def _refuse_size_and_depth(top: str, field: str, count: int, depth: int) -> None:
    # The value is not shown: formatting one this large or this deep is what must be avoided.
    if depth > DEPTH_MAX:
        raise InvalidSignal(f"is nested deeper than {DEPTH_MAX}", field=top)
    if count > VALUES_MAX:
        raise EntryTooLarge(f"brings the payload over {VALUES_MAX:,} values", field=field)


def _refuse_surrogates(field: str, value: str) -> None:
    found = _SURROGATE.search(value)
    if found is not None:
        raise InvalidSignal(
            f"holds half a character, U+{ord(found[0]):04X} alone", field=field, value=value
        )


def _check_aware(field: str, value: datetime) -> datetime:
    try:
        offset = value.utcoffset()
    except ValueError:  # pandas' NaT is a datetime without a time
        raise InvalidSignal("is not a time", field=field, value=value) from None
    if offset is None:
        raise InvalidSignal(
            "has no time zone", field=field, value=value, do="use an aware datetime"
        )
    if getattr(value, "nanosecond", 0):  # pandas' Timestamp is a finer datetime
        raise _too_precise(field, value)
    return value


def _parse_timestamp(field: str, value: str) -> datetime:
    found = _RFC3339.fullmatch(value)
    if found is None:
        raise InvalidSignal(
            "is not an RFC 3339 time such as 2025-11-18T02:00:00Z", field=field, value=value
        )
    fraction, sign = found[7] or "", found[8]
    offset = timedelta()
    if sign is not None:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            raise InvalidSignal("has an offset beyond 23:59", field=field, value=value)
        offset = timedelta(hours=hours, minutes=minutes) * (1 if sign == "+" else -1)
    elif value[-1] not in "Zz":
        raise InvalidSignal(
            "has no offset", field=field, value=value, do="add Z for UTC, or one such as -05:00"
        )
    if len(fraction) > 6:
        raise _too_precise(field, value)
    if found[6] == "60":
        raise InvalidSignal("is a leap second, which has no stored form", field=field, value=value)
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    micro = int(fraction.ljust(6, "0"))
    try:
        return datetime(year, month, day, hour, minute, second, micro, tzinfo=timezone(offset))
    except ValueError as error:
        raise InvalidSignal(f"does not exist: {error}", field=field, value=value) from None


def _unfit(field: str, value: object, kind: str) -> InvalidSignal:
    return InvalidSignal(f"must be {WORDS[kind]}", field=field, value=value)


def _too_precise(field: str, value: object) -> InvalidSignal:
    return InvalidSignal("has more than six digits of a second", field=field, value=value)
