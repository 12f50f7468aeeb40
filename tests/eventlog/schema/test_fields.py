import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import ClassVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import EntryTooLarge, InvalidSignal
from eventlog.schema import fields, json_values, times

NUMBERS = st.integers() | st.floats() | st.booleans()
ANYTHING = (
    NUMBERS
    | st.none()
    | st.binary(max_size=5)
    | st.text(alphabet=st.characters(), max_size=30)
    | st.text(alphabet="\t\n\x00\x7f\x85 \ud800aZ\u017f\u00df\u200b", max_size=25)
    | st.sampled_from(["BUY", "sell", "win", "2025-11-18T02:00:00Z", "0" * 64])
    | st.datetimes(timezones=st.just(UTC) | st.none())
    | st.lists(st.integers(), max_size=2)
)
ALL_RULES = (
    *(fields.name, fields.label, fields.order_id, fields.reason, fields.signal_id, fields.symbol),
    *(fields.action, fields.outcome, fields.sha256_hex, fields.number, fields.price),
    *(fields.confidence, fields.fraction, fields.ordinal, times.timestamp),
)


@given(rule=st.sampled_from(ALL_RULES), value=ANYTHING)
def test_a_rule_gives_the_stored_form_or_refuses(rule: fields.FieldRule, value: object) -> None:
    with suppress(InvalidSignal):  # what is refused, and how, stands in the tables below
        stored = rule("the_field", value)
        assert repr(rule("the_field", stored)) == repr(stored)  # it is left as it is
        assert orjson.loads(orjson.dumps(stored)) == stored


class Side(StrEnum):
    BUY = "BUY"


class Wide(float):
    """Like the floats that come out of pandas."""


@pytest.mark.parametrize(
    ("rule", "given", "stored"),
    [
        (fields.symbol, "  aapl\n", "AAPL"),
        (fields.symbol, "brk.a", "BRK.A"),
        (fields.symbol, "a" * 20, "A" * 20),
        (fields.action, "Sell", "SELL"),
        (fields.action, Side.BUY, "BUY"),
        (fields.name, Side.BUY, "BUY"),
        (fields.price, 150, 150.0),
        (fields.price, Wide(1.5), 1.5),
        (fields.price, 5e-324, 5e-324),
        (fields.price, 2**53, 2.0**53),
        (fields.price, Decimal("1.1"), 1.1),
        (fields.price, Fraction(1, 3), 1 / 3),
        (fields.number, -0.0, 0.0),
        (fields.confidence, 0, 0.0),
        (fields.confidence, -0.0, 0.0),
        (fields.confidence, 100, 100.0),
        (fields.confidence, 1.0000000000000002, 1.0000000000000002),
        (fields.name, "x" * 100, "x" * 100),
        (fields.label, "", ""),
        (fields.reason, "two\nlines", "two\nlines"),
        (fields.signal_id, "é 模型 🚀", "é 模型 🚀"),
        (fields.signal_id, "x" * 128, "x" * 128),
        (fields.outcome, "win", "win"),
        (fields.outcome, "breakeven", "breakeven"),
        (fields.fraction, 0.25, 0.25),
        (fields.ordinal, 1, 1),
        (fields.ordinal, 2.0, 2),
        (fields.ordinal, Decimal(3), 3),
        (fields.ordinal, 2**63 - 1, 2**63 - 1),
    ],
)
def test_a_valid_value_is_stored_in_one_form(
    rule: fields.FieldRule, given: object, stored: str | float
) -> None:
    found = rule("f", given)
    assert (type(found), repr(found)) == (type(stored), repr(stored))


@pytest.mark.parametrize(
    ("rule", "given", "problem"),
    [
        (fields.symbol, "A B", "may not hold white space (got A B)"),
        (fields.symbol, "A\u2003B", "may not hold white space"),
        (fields.symbol, "A\x00B", "holds the control character U+0000 (got A\\x00B)"),
        (fields.symbol, " ", "must have 1 to 20 characters (got  )"),
        (fields.symbol, "ß" * 11, "must have 1 to 20 characters"),
        (fields.symbol, 7, "must be text (got 7)"),
        (fields.action, "HOLD", "must be BUY or SELL (got HOLD)"),
        (fields.action, "\u017fell", "must be BUY or SELL"),
        (fields.action, " BUY", "must be BUY or SELL"),
        (fields.action, None, "must be BUY or SELL (got None)"),
        (fields.price, -1, "must be > 0 (got -1)"),
        (fields.price, 0, "must be > 0 (got 0)"),
        (fields.price, True, "must be a number (got True)"),
        (fields.price, "150", "must be a number, not text (got 150)"),
        (fields.price, float("nan"), "must be a finite number (got nan)"),
        (fields.price, float("inf"), "must be a finite number (got inf)"),
        (fields.price, 2**53 + 1, "cannot be stored exactly as a floating-point number"),
        (fields.price, 2**63, "cannot be stored exactly as a floating-point number"),
        (fields.price, 10**400, "cannot be stored exactly as a floating-point number"),
        (fields.confidence, 0.85, "looks like a fraction; did you mean 85.0? (got 0.85)"),
        (fields.confidence, 0.07, "looks like a fraction; did you mean 7.0? (got 0.07)"),
        (fields.confidence, 1, "looks like a fraction; did you mean 100.0? (got 1)"),
        (fields.confidence, 5e-324, "looks like a fraction"),
        (fields.confidence, -1, "must be a percent: 0, or above 1 up to 100 (got -1)"),
        (fields.confidence, 100.00000000000001, "must be a percent: 0, or above 1 up to 100"),
        (fields.fraction, 0, "must be a number above 0 and below 1 (got 0)"),
        (fields.fraction, 1, "must be a number above 0 and below 1 (got 1)"),
        (fields.fraction, Decimal("0." + "9" * 30), "must be a number above 0 and below 1"),
        (fields.fraction, -0.5, "must be a number above 0 and below 1"),
        (fields.ordinal, 0, "must be a whole number, 1 or more (got 0)"),
        (fields.ordinal, -1, "must be a whole number, 1 or more (got -1)"),
        (fields.ordinal, 1.5, "must be a whole number, 1 or more (got 1.5)"),
        (fields.ordinal, 2**63, "must be a whole number, 1 or more"),
        (fields.ordinal, 1e300, "must be a whole number, 1 or more"),
        (fields.ordinal, float("inf"), "must be a whole number, 1 or more"),
        (fields.ordinal, True, "must be a number (got True)"),
        (fields.ordinal, "1", "must be a number, not text (got 1)"),
        (fields.name, "", "must have 1 to 100 characters (got )"),
        (fields.name, "x" * 101, "must have 1 to 100 characters"),
        (fields.name, "a\nb", "holds the control character U+000A (got a\\nb)"),
        (fields.name, "a\x85b", "holds the control character U+0085"),
        (fields.name, "a\ud800b", "holds half a character, U+D800 alone (got a\\ud800b)"),
        (fields.label, "x" * 101, "must have at most 100 characters"),
        (fields.reason, "x" * 1001, "must have 1 to 1000 characters"),
        (fields.reason, "\udfff", "holds half a character"),
        (fields.signal_id, "", "must have 1 to 128 characters"),
        (fields.signal_id, "x" * 129, "must have 1 to 128 characters"),
        (fields.signal_id, "a\u202eb", "must be 1 to 128 printable characters (got a\\u202eb)"),
        (fields.signal_id, "a\u00a0b", "must be 1 to 128 printable characters"),
        (fields.signal_id, 17, "must be text (got 17)"),
        (fields.outcome, "WIN", "must be win, loss, breakeven or expired (got WIN)"),
        (fields.sha256_hex, "A" * 64, "must be 64 lower-case hex digits"),
        (fields.sha256_hex, "a" * 64 + "\n", "must be 64 lower-case hex digits"),
    ],
)
def test_an_invalid_value_is_refused_with_field_problem_and_value(
    rule: fields.FieldRule, given: object, problem: str
) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        rule("the_field", given)
    assert str(refusal.value).startswith(f"the_field {problem}")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2025-11-18T02:00:00Z", "2025-11-18T02:00:00.000000+00:00"),
        ("2025-11-18t02:00:00z", "2025-11-18T02:00:00.000000+00:00"),
        ("2025-11-18 02:00:00.5+00:00", "2025-11-18T02:00:00.500000+00:00"),
        ("2025-11-17T21:00:00-05:00", "2025-11-18T02:00:00.000000+00:00"),
        ("2024-02-29T23:59:59.999999-23:59", "2024-03-01T23:58:59.999999+00:00"),
        ("0001-01-01T00:00:00-00:00", "0001-01-01T00:00:00.000000+00:00"),
        (
            datetime(2025, 11, 17, 21, tzinfo=timezone(timedelta(hours=-5))),
            "2025-11-18T02:00:00.000000+00:00",
        ),
    ],
)
def test_a_time_is_stored_in_utc_with_six_digits(given: object, stored: str) -> None:
    assert times.timestamp("timestamp", given) == stored
    assert times.is_stored_timestamp(stored)


class NotATime(datetime):
    """As pandas' NaT: it is a datetime, and has none."""

    def utcoffset(self) -> timedelta | None:
        raise ValueError("NaTType does not support utcoffset")


class Nanoseconds(datetime):
    """As pandas' Timestamp."""

    nanosecond: ClassVar[int] = 7


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("2025-11-18T02:00:00", "has no offset (got 2025-11-18T02:00:00); add Z for UTC"),
        ("2025-11-18T02:00:00.1234567Z", "has more than six digits of a second"),
        ("2025-11-18T23:59:60Z", "is a leap second"),
        ("2025-11-18T02:00:61Z", "does not exist"),
        ("2025-02-30T00:00:00Z", "does not exist"),
        ("2025-11-18T24:00:00Z", "does not exist"),
        ("0000-01-01T00:00:00Z", "does not exist"),
        ("2025-11-18T02:00:00+24:00", "has an offset beyond 23:59"),
        ("2025-11-18T02:00:00+05:60", "has an offset beyond 23:59"),
        ("0001-01-01T00:00:00+01:00", "is outside the years 1 to 9999"),
        ("9999-12-31T23:59:59-01:00", "is outside the years 1 to 9999"),
        ("2025-11-18", "is not an RFC 3339 time"),
        ("2025-11-18T02:00Z", "is not an RFC 3339 time"),
        ("2025-11-18T02:00:00,5Z", "is not an RFC 3339 time"),
        ("2025-11-18T02:00:00.Z", "is not an RFC 3339 time"),
        ("2025-11-18T02:00:00Z\n", "is not an RFC 3339 time"),
        ("2025-11-18  02:00:00Z", "is not an RFC 3339 time"),
        ("\u0662025-11-18T02:00:00Z", "is not an RFC 3339 time"),
        ("2025-W47-2T02:00:00Z", "is not an RFC 3339 time"),
        ("", "is not an RFC 3339 time"),
        (1763431200, "must be RFC 3339 text or an aware datetime (got 1763431200)"),
        (datetime(2025, 11, 18), "has no time zone"),  # noqa: DTZ001
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "is outside the years 1 to 9999"),
        (NotATime(2025, 1, 1, tzinfo=UTC), "is not a time"),
        (Nanoseconds(2025, 1, 1, tzinfo=UTC), "has more than six digits of a second"),
    ],
)
def test_an_ambiguous_time_is_refused(given: object, problem: str) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        times.timestamp("timestamp", given)
    assert str(refusal.value).startswith(f"timestamp {problem}")


ZONES: st.SearchStrategy[tzinfo] = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
).map(lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1))))


@given(
    moment=st.datetimes(
        datetime(2, 1, 1),  # noqa: DTZ001
        datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=ZONES,
    )
)
def test_text_and_datetime_of_the_same_time_are_stored_alike(moment: datetime) -> None:
    stored = times.timestamp("timestamp", moment)
    assert times.timestamp("timestamp", moment.isoformat()) == stored
    assert datetime.fromisoformat(stored) == moment


@given(st.text(alphabet="0123456789-:.+TtZz W", max_size=33) | st.datetimes().map(str))
def test_only_stored_form_is_taken_for_stored_form(text: str) -> None:
    if times.is_stored_timestamp(text):
        assert times.timestamp("timestamp", text) == text


@pytest.mark.parametrize("time", ["24:00:00", "23:59:60", "23:60:00"])
def test_a_time_of_day_that_does_not_exist_is_never_in_stored_form(time: str) -> None:
    """The pattern decides, not what the parser of some Python takes."""
    assert not times.is_stored_timestamp(f"2025-11-18T{time}.000000+00:00")


@given(moment=st.datetimes(timezones=st.just(UTC)), at=st.integers(0, 31), char=st.characters())
def test_a_stored_time_with_one_character_changed_is_never_taken_for_another(
    moment: datetime, at: int, char: str
) -> None:
    stored = moment.isoformat(timespec="microseconds")
    assert times.is_stored_timestamp(stored)
    changed = stored[:at] + char + stored[at + 1 :]
    if times.is_stored_timestamp(changed):
        assert times.timestamp("timestamp", changed) == changed


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(json_values.INT_MIN, json_values.INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), JSON))
def test_every_json_value_passes_and_comes_back_as_it_was(payload: dict[str, object]) -> None:
    json_values.plain_json(payload)
    assert repr(orjson.loads(orjson.dumps(payload))) == repr(payload)
    assert repr(json.loads(orjson.dumps(payload))) == repr(payload)


class Text(str):
    __slots__ = ()


NESTED_32: list[object] = []
for _ in range(30):
    NESTED_32 = [NESTED_32]


def doubling(levels: int) -> object:
    """Lists of which each holds the one before twice: 2 ** levels values in little memory."""
    value: object = 0
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"a": float("nan")}, "a must be a finite number (got nan)"),
        ({"a": [{"b": float("-inf")}]}, "a[0].b must be a finite number (got -inf)"),
        ({"a": 2**63}, "a must be from -2^63 to 2^63-1 (got 9223372036854775808)"),
        ({"a": -(2**63) - 1}, "a must be from -2^63 to 2^63-1"),
        ({"a": "\ud800"}, "a holds half a character"),
        ({"a": {"\udc00": 1}}, "a has a key with half a character (got \\udc00)"),
        ({"\udc00": 1}, "item has a key with half a character"),
        ({"a": {1: 2}}, "a has a key that is not text (got 1)"),
        ({"a": {Text("b"): 2}}, "a has a key that is not text"),
        ({"a": Text("b")}, f"a is of type {__name__}.Text, which is not JSON (got b)"),
        ({"a": Wide(1.5)}, f"a is of type {__name__}.Wide, which is not JSON (got 1.5)"),
        ({"a": {1, 2}}, "a is of type set, which is not JSON"),
        ({"a": b"bytes"}, "a is of type bytes, which is not JSON (got b'bytes')"),
        (
            {"a": datetime(2025, 1, 1, tzinfo=UTC)},
            "a is of type datetime.datetime, which is not JSON",
        ),
        ({"a": Decimal(1)}, "a is of type decimal.Decimal, which is not JSON"),
        ({"a": [NESTED_32]}, "a is nested deeper than 32"),
    ],
)
def test_a_value_that_json_would_change_is_refused_with_its_path(
    payload: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        json_values.plain_json(payload)
    assert str(refusal.value).startswith(problem)


def test_nesting_is_counted_from_the_payload() -> None:
    json_values.plain_json({"a": NESTED_32})  # 31 lists within the payload's own object
    with pytest.raises(InvalidSignal, match="is nested deeper than 32"):
        json_values.plain_json({"a": [NESTED_32]})


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidSignal, match="is nested deeper than 32"):
        json_values.plain_json({"a": endless})


@pytest.mark.parametrize("value", [doubling(31), [0] * 65_000, [[0] * 40_000] * 2])
def test_more_values_than_a_payload_can_hold_are_refused(value: object) -> None:
    json_values.plain_json({"a": [0] * 64_999})
    with pytest.raises(EntryTooLarge, match="brings the payload over 65,000 values"):
        json_values.plain_json({"a": value})


def test_checking_takes_little_memory_however_long_the_names() -> None:
    """Each value is walked with its path, to be named if it is refused."""
    payload = {"x" * 60_000: [0] * 6_000}
    tracemalloc.start()
    json_values.plain_json(payload)
    _, bytes_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_peak < 20_000_000
