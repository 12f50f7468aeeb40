"""JSON values: what a line returns unchanged, and the enums and numpy scalars that become it.

numpy and pandas are never imported here: a value of theirs exists only where the caller has
imported them.

Invariant: a value that passes is read back from the log unchanged.
"""

import re
import sys
from collections.abc import Mapping
from enum import Enum
from math import isfinite
from types import NoneType
from typing import Any

from eventlog.errors import EntryTooLarge, InvalidSignal, type_name

INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # what SQLite, DuckDB and most languages hold exactly
DEPTH_MAX = 32  # the payload's own object is level 1; every common JSON reader goes that deep
VALUES_MAX = 65_000  # more cannot fit into a payload; bounds the check of lists that share lists
FIELD_CHARS_MAX = 100  # of a path in an error

_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character: it has no UTF-8
_SCALARS = frozenset({str, int, float, bool, NoneType})
_MISSING_VALUE_HINT = (
    "leave the key out where a DataFrame has no value, for example with row.dropna().to_dict()"
)


def plain_json(fields: Mapping[str, object]) -> Mapping[str, object]:
    """`fields` as values that a JSON line returns unchanged; the same object where they are that.

    `fields` are keys of a payload. Members of enums and scalars of numpy become the JSON value that
    they are, at any depth. Any other type that JSON does not have, also a subclass of one, is
    refused: it would be read back as another type. Raises InvalidSignal.
    """
    is_plain = True
    for key in fields:
        if not _is_plain_key("item", key):
            is_plain = False
    values = [(key, key, fields[key], 2) for key in fields]
    count = len(values)
    while values:
        top, field, value, depth = values.pop()
        if type(value) is dict:
            count += len(value)
            _refuse_size_and_depth(top, field, count, depth)
            for key in value:
                if not _is_plain_key(field, key):
                    is_plain = False
                values.append((top, f"{_short_field(field)}.{key}", value[key], depth + 1))
        elif type(value) is list or type(value) is tuple:
            count += len(value)
            _refuse_size_and_depth(top, field, count, depth)
            stem = _short_field(field)
            values.extend((top, f"{stem}[{i}]", inner, depth + 1) for i, inner in enumerate(value))
        elif not _is_plain_scalar(field, value):
            is_plain = False
    return fields if is_plain else _converted_object(fields)


def from_numpy(value: object) -> object:
    """A scalar of numpy as the Python value that equals it; any other value as it is."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, getattr(numpy, "generic", ())):
        return value
    if is_duration_or_time(value):  # `item` of some is an int
        return value
    if isinstance(value, numpy.floating):
        number = float(value)  # `item` of a longdouble is a longdouble
        return number if number == value or number != number else value
    scalar: Any = value
    plain: object = scalar.item()
    return plain


def is_duration_or_time(value: object) -> bool:
    """Whether `value` is a duration or a time of numpy, which counts its durations as integers."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(
        value, (getattr(numpy, "datetime64", ()), getattr(numpy, "timedelta64", ()))
    )


def refuse_surrogates(field: str, value: str) -> None:
    """Refuses text with half a character."""
    found = _SURROGATE.search(value)
    if found is not None:
        raise InvalidSignal(
            f"holds half a character, U+{ord(found[0]):04X} alone", field=field, value=value
        )


def missing_value_hint(value: object) -> str:
    """What to do about `value` where it stands for no value, as NaN in a DataFrame; else empty."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and value is getattr(pandas, "NA", None) is not None:
        return _MISSING_VALUE_HINT
    try:
        return _MISSING_VALUE_HINT if bool(value != value) else ""  # NaN, NaT
    except Exception:  # noqa: BLE001  # a foreign __eq__ may raise anything
        return ""


def _plain(value: object) -> object:
    """A member of an enum or a scalar of numpy as a JSON value; any other value as it is."""
    if isinstance(value, Enum):
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__index__(value)
        return float.__float__(value) if isinstance(value, float) else value.value
    return from_numpy(value)


def _converted_object(given: Mapping[str, object]) -> dict[str, object]:
    """A copy of a checked object in which each key and each scalar is plain."""
    plain: dict[str, object] = {}
    for key, value in given.items():
        name = str(_plain(key))
        if name in plain:  # a member of an enum, and the text that it is
            raise InvalidSignal("is given twice in one object", field=name, value=value)
        plain[name] = _converted(value)
    return plain


def _converted(value: object) -> object:
    if type(value) is dict:
        return _converted_object(value)
    if type(value) is list or type(value) is tuple:
        return [_converted(inner) for inner in value]
    return _plain(value)


def _short_field(field: str) -> str:
    # Otherwise a key of 60,000 characters above a list as long is copied 60,000 times.
    return field if len(field) <= FIELD_CHARS_MAX else field[:FIELD_CHARS_MAX] + "..."


def _is_plain_scalar(field: str, value: Any) -> bool:
    """Whether `value` is a JSON scalar already. Raises InvalidSignal if it stands for none."""
    kind = type(value)
    if kind is str:
        refuse_surrogates(field, value)
    elif kind is float:
        if not isfinite(value):
            raise InvalidSignal(
                "must be a finite number", field=field, value=value, do=missing_value_hint(value)
            )
    elif kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise InvalidSignal("must be from -2^63 to 2^63-1", field=field, value=value)
    elif kind is not bool and kind is not NoneType:
        plain = _plain(value)
        if type(plain) not in _SCALARS:
            raise _not_json(field, value)
        _is_plain_scalar(field, plain)
        return False
    return True


def _not_json(field: str, value: object) -> InvalidSignal:
    name = type_name(value)
    do = "convert it to str, int, float, bool, None, list or dict"
    if name == "decimal.Decimal":
        do = "give float(x), which rounds it, or str(x), which keeps each digit"
    do = missing_value_hint(value) or do
    return InvalidSignal(f"is of type {name}, which is not JSON", field=field, value=value, do=do)


def _is_plain_key(field: str, key: object) -> bool:
    plain = key if type(key) is str else _plain(key)
    if type(plain) is not str:
        raise InvalidSignal("has a key that is not text", field=field, value=key)
    if _SURROGATE.search(plain):
        raise InvalidSignal("has a key with half a character", field=field, value=key)
    return plain is key


def _refuse_size_and_depth(top: str, field: str, count: int, depth: int) -> None:
    # The value is not shown: formatting one this large or this deep is what must be avoided.
    if depth > DEPTH_MAX:
        raise InvalidSignal(f"is nested deeper than {DEPTH_MAX}", field=top)
    if count > VALUES_MAX:
        raise EntryTooLarge(f"brings the payload over {VALUES_MAX:,} values", field=field)
