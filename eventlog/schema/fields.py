"""Field rules: the one table of what each field may hold, its limits, and its stored form.

A rule takes the field's name and the value, and returns the stored form. Validation, the JSON
Schema of `eventlog schema` and the tables of the documentation all come from the tables here.

Invariant: a value in stored form is returned unchanged, and a value that cannot be stored without
loss is refused with an InvalidSignal that names field, problem and value.
"""

import re
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from typing import NamedTuple, SupportsFloat

from eventlog.errors import InvalidSignal, type_name
from eventlog.format.line import HASH_PATTERN
from eventlog.schema.json_values import (
    DEPTH_MAX,
    INT_MAX,
    INT_MIN,
    from_numpy,
    is_duration_or_time,
    missing_value_hint,
    refuse_surrogates,
)
from eventlog.schema.times import STORED_TIMESTAMP_WORDS, TIMESTAMP_PATTERN, timestamp

FieldRule = Callable[[str, object], str | float]

ID_CHARS_MAX = 128
SYMBOL_CHARS_MAX = 20  # Alpine answers 500 to a longer one
NAME_CHARS_MAX = 100
REASON_CHARS_MAX = 1_000
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
    "fraction": "a number above 0 and below 1",
    "ordinal": "a whole number, 1 or more",
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
        refuse_surrogates(field, plain)
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
    return text(field, value, chars_max=REASON_CHARS_MAX, controls=True)


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
    """How a trade ended: one of OUTCOMES."""
    if isinstance(value, str) and value in OUTCOMES:
        return str.__str__(value)
    raise _unfit(field, value, "outcome")


def sha256_hex(field: str, value: object) -> str:
    """64 lower-case hex digits."""
    if isinstance(value, str) and HASH_PATTERN.fullmatch(value):
        return str.__str__(value)
    raise InvalidSignal("must be 64 lower-case hex digits", field=field, value=value)


def number(field: str, value: object) -> float:
    """A finite real number as a float: never -0.0; an int that a float cannot hold is refused.

    A scalar of numpy is the Python number that equals it. A Decimal and any other real number
    become the nearest float.
    """
    kind = type(value)
    real = value if kind is float or kind is int else _real(field, value)
    if isinstance(real, int) and not (INT_MIN <= real <= INT_MAX and float(real) == real):
        raise InvalidSignal(
            "cannot be stored exactly as a floating-point number", field=field, value=value
        )
    assert isinstance(real, int | float)
    stored = float(real)
    if not isfinite(stored):
        raise _unfit(field, value, "number")
    return stored + 0.0  # -0.0 + 0.0 is 0.0


def price(field: str, value: object) -> float:
    """A finite number above 0."""
    stored = number(field, value)
    if not stored > 0.0:
        raise InvalidSignal("must be > 0", field=field, value=value)
    return stored


def fraction(field: str, value: object) -> float:
    """A number above 0 and below 1."""
    stored = number(field, value)
    if not 0.0 < stored < 1.0:
        raise _unfit(field, value, "fraction")
    return stored


def ordinal(field: str, value: object) -> int:
    """A whole number from 1 on, as an int. 2.0 is one: pandas makes floats of many ints."""
    real = value if type(value) is int else _real(field, value)
    if isinstance(real, float) and real.is_integer():
        real = int(real)
    if not isinstance(real, int) or not 1 <= real <= INT_MAX:
        raise _unfit(field, value, "ordinal")
    return int(real)


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


def _real(field: str, value: object) -> int | float:
    """A real number of any type as an int or a float. Raises InvalidSignal for anything else."""
    from decimal import Decimal  # rarely needed, as the next
    from numbers import Integral, Real

    real = from_numpy(value)
    is_number = isinstance(real, Real | Decimal) and not isinstance(real, bool)
    if not is_number or is_duration_or_time(real):
        kind = "text" if isinstance(value, str) else type_name(value)
        instead = f", not {kind}" if kind == "text" or "." in kind else ""
        raise InvalidSignal(
            f"must be a number{instead}", field=field, value=value, do=missing_value_hint(value)
        )
    assert isinstance(real, SupportsFloat)
    try:
        return int(real) if isinstance(real, Integral) else float(real)
    except (ArithmeticError, TypeError, ValueError):  # a signalling NaN, a Fraction of any size
        raise _unfit(field, value, "number") from None


def _unfit(field: str, value: object, kind: str) -> InvalidSignal:
    do = missing_value_hint(value)
    return InvalidSignal(f"must be {WORDS[kind]}", field=field, value=value, do=do)


class RuleText(NamedTuple):
    """A rule as the documentation states it, and as JSON Schema states it, as far as it can."""

    words: str
    json_schema: Mapping[str, object]


# Escaped, so that the text of a schema is ASCII. A pattern is searched for: `not` avoids `$`, which
# in some languages matches before a newline.
_CONTROLS = r"\u0000-\u001f\u007f-\u009f"
_WHITE_SPACE = r"\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNPRINTABLE = (
    rf"[{_CONTROLS}{_WHITE_SPACE}\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_SYMBOL = (
    rf"^[\t-\r\u001c-\u0020{_WHITE_SPACE}]*[^\u0020{_CONTROLS}{_WHITE_SPACE}]"
    rf"{{1,{SYMBOL_CHARS_MAX}}}[\t-\r\u001c-\u0020{_WHITE_SPACE}]*$"
)
END = r"$(?!\n)"  # the end of a text, also where `$` alone matches before a newline
_NO_CONTROLS = {"not": {"pattern": f"[{_CONTROLS}]"}}
_FLOAT = {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max}


def _any_case(words: tuple[str, ...]) -> str:
    """A pattern for words in any case."""
    patterns = ("".join(f"[{c}{c.lower()}]" for c in word) for word in words)
    return f"^({'|'.join(patterns)}){END}"


def _text_schema(chars_min: int, chars_max: int, **further: object) -> dict[str, object]:
    return {"type": "string", "minLength": chars_min, "maxLength": chars_max, **further}


RULE_TEXTS: Mapping[FieldRule, RuleText] = {
    signal_id: RuleText(
        f"text of {WORDS['signal_id']}",
        _text_schema(1, ID_CHARS_MAX, **{"not": {"pattern": _UNPRINTABLE}}),
    ),
    symbol: RuleText(
        f"stripped, upper-cased, 1 to {SYMBOL_CHARS_MAX} characters, no white space",
        {"type": "string", "pattern": _SYMBOL},
    ),
    action: RuleText(
        "`BUY` or `SELL` in any case, stored in upper case",
        {"type": "string", "pattern": _any_case(ACTIONS)},
    ),
    name: RuleText(
        f"text of 1 to {NAME_CHARS_MAX} characters",
        _text_schema(1, NAME_CHARS_MAX, **_NO_CONTROLS),
    ),
    label: RuleText(
        f"text of at most {NAME_CHARS_MAX} characters",
        _text_schema(0, NAME_CHARS_MAX, **_NO_CONTROLS),
    ),
    order_id: RuleText(
        f"text of 1 to {ID_CHARS_MAX} characters without control characters",
        _text_schema(1, ID_CHARS_MAX, **_NO_CONTROLS),
    ),
    reason: RuleText(
        f"text of 1 to {REASON_CHARS_MAX:,} characters; may hold newlines",
        _text_schema(1, REASON_CHARS_MAX),
    ),
    outcome: RuleText(
        f"{', '.join(f'`{word}`' for word in OUTCOMES[:-1])} or `{OUTCOMES[-1]}`",
        {"enum": list(OUTCOMES)},
    ),
    sha256_hex: RuleText(
        "64 lower-case hex digits", {"type": "string", "pattern": f"^[0-9a-f]{{64}}{END}"}
    ),
    number: RuleText(WORDS["number"], _FLOAT),
    price: RuleText(
        WORDS["price"], {"type": "number", "exclusiveMinimum": 0, "maximum": sys.float_info.max}
    ),
    fraction: RuleText(
        WORDS["fraction"], {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    ),
    ordinal: RuleText(WORDS["ordinal"], {"type": "integer", "minimum": 1, "maximum": INT_MAX}),
    confidence: RuleText(
        WORDS["confidence"].removeprefix("a "),
        {
            "type": "number",
            "anyOf": [
                {"const": 0},
                {"exclusiveMinimum": FRACTION_MAX, "maximum": PERCENT_MAX},
            ],
        },
    ),
    timestamp: RuleText(
        f"a time with an offset from UTC; stored as {STORED_TIMESTAMP_WORDS}",
        {"type": "string", "pattern": TIMESTAMP_PATTERN},
    ),
}
