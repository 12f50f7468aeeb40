"""Reads the values of a stored payload; a malformed one gives a reason, not an error.

A log may have been written by another program, or under older validation rules. This module checks
only what the tables and transitions need: types, finite numbers, times that sort as text. It is
less strict than validation, so a stored signal stays a row when validation becomes stricter.

Invariant: no JSON payload raises. `read_signal` and `read_fact` return values that fit their
columns without conversion, or the reason why the first unfit key does not.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from math import inf, isfinite
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import orjson

from eventlog.plumbing import FIELD_LIMITS
from projections.signals.transitions import (
    ACTIONS,
    CANCELLED,
    CLOSED,
    EXECUTED,
    EXPIRED,
    OUTCOMES,
    REDUCED,
    SKIPPED,
    VOIDED,
)

MISSING = "{key} is missing"  # or null
NOT_AN_ID = f"{{key}} is not {FIELD_LIMITS.words['signal_id']}"
NOT_TEXT = f"{{key}} is not {FIELD_LIMITS.words['text']}"
EMPTY = "{key} is not text of at least one character"
NOT_AN_ACTION = f"{{key}} is not {FIELD_LIMITS.words['action']}"
NOT_A_NUMBER = f"{{key}} is not {FIELD_LIMITS.words['number']}"
NOT_A_PRICE = f"{{key}} is not {FIELD_LIMITS.words['price']}"
NOT_A_PERCENT = f"{{key}} is not {FIELD_LIMITS.words['confidence']}"
NOT_A_TIME = "{key} is not a time in stored form"
NOT_AN_OUTCOME = f"{{key}} is not {FIELD_LIMITS.words['outcome']}"
NOT_A_COUNT = "{key} is not a whole number above 0"
NOT_A_PART = "{key} is not a number above 0 and below 1"

SALT = "salt"  # random; in no table of signals, and in no comparison
# The payload's own object is level 1. SQLite's JSON ends at 1,000.
_, ID_CHARS_MAX, DEPTH_MAX, FRACTION_MAX, PERCENT_MAX = FIELD_LIMITS
NOT_JSON = "the stored payload is not a JSON object"
TOO_DEEP = f"the payload is nested deeper than {DEPTH_MAX}"

SignalValues: TypeAlias = tuple[str, str, str, float, float, float, float, str, str, str, str, str]
# Plain, so that marshal can carry it to another process.
FactValues: TypeAlias = tuple[
    *tuple[str, str | None, str | None],  # signal_id, JSON of all other keys, order_id
    *tuple[float | None, str | None, float | None],  # exit_price, outcome, profit_loss_pct
    *tuple[int | None, float | None, int | None],  # part, fraction, voids
]

# Stored form only: text that sorts as time does. Some Pythons accept hour 24, so it is excluded.
_STORED_TIME = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_SCALAR_TYPES = frozenset({str, int, bool, NoneType})
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class FieldRule(NamedTuple):
    """The reader of a key's value (None where it does not fit), and the reason then."""

    read: Callable[[object], str | float | None]
    reason: str
    required: bool = True


def read_id(value: object) -> str | None:
    """A signal_id. Printable, since SQLite's JSON functions cut text at a NUL."""
    if isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX and value.isprintable():
        return value
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _nonempty_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _action(value: object) -> str | None:
    return value if isinstance(value, str) and value in ACTIONS else None


def _outcome(value: object) -> str | None:
    return value if isinstance(value, str) and value in OUTCOMES else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value) + 0.0  # -0.0 + 0.0 is 0.0, and SQLite keeps no other
    return number if isfinite(number) else None


def _price(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0.0 else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _part(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0.0 < number < 1.0 else None


def _percent(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and FIELD_LIMITS.is_percent(number) else None


def _time(value: object) -> str | None:
    if not isinstance(value, str) or _STORED_TIME.fullmatch(value) is None:
        return None
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 30th of February
        return None
    return value


_ID = FieldRule(read_id, NOT_AN_ID)
SIGNAL_RULES: Mapping[str, FieldRule] = {  # in the order of the values that read_signal returns
    "signal_id": _ID,
    "symbol": FieldRule(_nonempty_text, EMPTY),
    "action": FieldRule(_action, NOT_AN_ACTION),
    "entry_price": FieldRule(_price, NOT_A_PRICE),
    "target_price": FieldRule(_price, NOT_A_PRICE),
    "stop_price": FieldRule(_price, NOT_A_PRICE),
    "confidence": FieldRule(_percent, NOT_A_PERCENT),
    "strategy": FieldRule(_nonempty_text, EMPTY),
    "asset_type": FieldRule(_text, NOT_TEXT),
    "data_source": FieldRule(_text, NOT_TEXT),
    "timestamp": FieldRule(_time, NOT_A_TIME),
    "sha256": FieldRule(_nonempty_text, EMPTY),
}
# The keys of a fact that the fold reads; `detail` keeps them and all others but signal_id.
FACT_RULES: Mapping[str, Mapping[str, FieldRule]] = {
    EXECUTED: {"signal_id": _ID, "order_id": FieldRule(_text, NOT_TEXT)},
    SKIPPED: {"signal_id": _ID, "reason": FieldRule(_text, NOT_TEXT)},
    EXPIRED: {"signal_id": _ID},
    CANCELLED: {"signal_id": _ID},
    REDUCED: {
        "signal_id": _ID,
        "part": FieldRule(_count, NOT_A_COUNT),
        "exit_price": FieldRule(_number, NOT_A_NUMBER),
        "fraction": FieldRule(_part, NOT_A_PART),
    },
    CLOSED: {
        "signal_id": _ID,
        "exit_price": FieldRule(_number, NOT_A_NUMBER),
        "outcome": FieldRule(_outcome, NOT_AN_OUTCOME, required=False),
        "profit_loss_pct": FieldRule(_number, NOT_A_NUMBER, required=False),
    },
    VOIDED: {"signal_id": _ID, "voids": FieldRule(_count, NOT_A_COUNT)},
}

_signal_values = itemgetter(*SIGNAL_RULES)


def read_signal(payload: dict[str, object]) -> tuple[SignalValues, str | None] | str:
    """The values of a signal, and the JSON of its other keys or None; or a reason.

    The salt, which only the proof of a line needs, is not among them.
    """
    values = _stored_values(payload) or _read_signal_values(payload)
    if isinstance(values, str):
        return values
    if len(payload) == len(SIGNAL_RULES):
        return values, None
    others = {key: payload[key] for key in payload if key not in SIGNAL_RULES and key != SALT}
    if not others:
        return values, None
    extra = to_json(others)
    return TOO_DEEP if extra is None else (values, extra)


def read_fact(event: str, payload: dict[str, object]) -> FactValues | str:
    """The values of a fact; or a reason."""
    read = _read(payload, FACT_RULES[event])
    if isinstance(read, str):
        return read
    detail = None
    if len(payload) > 1:
        detail = to_json({key: payload[key] for key in payload if key != "signal_id"})
        if detail is None:
            return TOO_DEEP
    get = read.get
    return (
        *(read["signal_id"], detail, get("order_id")),
        *(get("exit_price"), get("outcome"), get("profit_loss_pct")),
        *(get("part"), get("fraction"), get("voids")),
    )


def read_detail(event: str, signal_id: str, detail: str) -> FactValues | str:
    """The values of a fact whose other keys `read_fact` returned as this JSON; or a reason."""
    try:
        return read_fact(event, {"signal_id": signal_id, **orjson.loads(detail)})
    except (ValueError, TypeError):  # only where another program changed the database
        return NOT_JSON


def _stored_values(payload: dict[str, object]) -> SignalValues | None:
    """The values of a signal in the form that validation stores; None leaves it to SIGNAL_RULES.

    One expression for all of SIGNAL_RULES, in a third of their time: nearly every entry of a log
    passes. A confidence of 0 does not, since it may be -0.0.
    """
    try:
        values: Any = _signal_values(payload)
    except KeyError:
        return None
    # fmt: off
    (signal_id, symbol, action, entry, target, stop, confidence,
     strategy, asset_type, source, timestamp, sha256) = values
    is_stored_form = (
        isinstance(signal_id, str) and 0 < len(signal_id) <= ID_CHARS_MAX
        and signal_id.isprintable()
        and isinstance(symbol, str) and symbol and action in ACTIONS
        and isinstance(entry, float) and 0.0 < entry < inf
        and isinstance(target, float) and 0.0 < target < inf
        and isinstance(stop, float) and 0.0 < stop < inf
        and isinstance(confidence, float) and FRACTION_MAX < confidence <= PERCENT_MAX
        and isinstance(strategy, str) and strategy
        and isinstance(asset_type, str) and isinstance(source, str)
        and _time(timestamp) is not None
        and isinstance(sha256, str) and sha256
    )
    # fmt: on
    stored: SignalValues = values
    return stored if is_stored_form else None


def _read_signal_values(payload: dict[str, object]) -> SignalValues | str:
    read = _read(payload, SIGNAL_RULES)
    if isinstance(read, str):
        return read
    values: SignalValues = _signal_values(read)
    return values


def _read(payload: dict[str, object], rules: Mapping[str, FieldRule]) -> dict[str, Any] | str:
    """The values that `rules` read from the payload, or the reason of the first unfit one."""
    read: dict[str, Any] = {}
    for key, rule in rules.items():
        given = payload.get(key)
        if given is None and rule.required:
            return MISSING.format(key=key)
        if given is not None:
            read[key] = rule.read(given)
            if read[key] is None:
                return rule.reason.format(key=key)
    return read


def to_json(fields: dict[str, object]) -> str | None:
    """`fields` as JSON, in their order and with exact values; None where nested too deep.

    The text equals that of the standard json module, so that an old database equals a rebuilt one.
    orjson therefore writes no floats: its text for them has changed between releases.
    """
    for value in fields.values():
        if type(value) not in _SCALAR_TYPES:
            return _dumps(fields) if _is_nested_within(fields, DEPTH_MAX) else None
    return orjson.dumps(fields).decode()


def _is_nested_within(value: object, levels: int) -> bool:
    """Whether lists and objects go at most `levels` deep."""
    if isinstance(value, dict):
        return levels > 0 and all(_is_nested_within(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_is_nested_within(inner, levels - 1) for inner in value)
    return True
