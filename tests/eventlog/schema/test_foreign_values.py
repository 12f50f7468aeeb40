"""Numbers and times as Python programs have them: numpy, pandas, Decimal, enums."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pandas as pd  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import InvalidSignal, type_name
from eventlog.schema import facts, fields, times
from eventlog.schema.json_values import plain_json
from eventlog.schema.signal import Signal
from tests.eventlog.schema.test_validation import PLAIN, each_way, stored, validated_item
from tests.harness.requirements import CHECKOUT

STORED = "2025-11-18T02:00:00.000000+00:00"


class Size(IntEnum):
    ROUND = 150


class Regime(StrEnum):
    BULL = "bull"


class Side(str, Enum):  # noqa: UP042  # as code for Python 3.10 has it
    BUY = "BUY"


class Weight(float, Enum):
    HALF = 0.5


class Plain(Enum):
    TEXT = "text"
    LIST = ("a", "b")


# -- numbers in named fields

NUMBERS: Mapping[str, tuple[Any, float]] = {
    "int": (150, 150.0),
    "IntEnum": (Size.ROUND, 150.0),
    "float enum": (Weight.HALF, 0.5),
    "Decimal": (Decimal("150.1"), 150.1),
    "a Decimal between two floats": (Decimal("0.1000000000000000055511151231257827021181583"), 0.1),
    "Fraction": (Fraction(1, 3), 1 / 3),
    "numpy.float64": (np.float64(150.1), 150.1),
    "numpy.float32": (np.float32(150.1), 150.10000610351562),
    "numpy.float16": (np.float16(0.5), 0.5),
    "numpy.longdouble": (np.longdouble("0.1"), 0.1),
    "numpy.int64": (np.int64(150), 150.0),
    "numpy.uint8": (np.uint8(150), 150.0),
}


@pytest.mark.parametrize(("given_", "number"), NUMBERS.values(), ids=NUMBERS)
def test_every_real_number_is_stored_as_its_float(given_: object, number: float) -> None:
    for item in ({**PLAIN, "entry_price": given_}, Signal(**{**SIGNAL, "entry_price": given_})):
        found = stored(item)["entry_price"]
        assert type(found) is float
        assert found == number
    fact = facts.payload("closed", {"signal_id": "s", "exit_price": given_})
    assert (type(fact["exit_price"]), fact["exit_price"]) == (float, number)


SIGNAL: dict[str, Any] = {
    key: PLAIN[key] for key in PLAIN if key not in ("regime", "reasoning")
} | {"extra": {"regime": "bull"}}

NOT_NUMBERS: Mapping[str, tuple[object, str]] = {
    "bool": (True, "must be a number (got True)"),
    "numpy.bool": (np.True_, "must be a number, not numpy.bool (got np.True_)"),
    "text": ("150", "must be a number, not text (got 150)"),
    "numpy.str_": (np.str_("150"), "must be a number, not text (got 150)"),
    "complex": (1j, "must be a number (got 1j)"),
    "numpy.complex128": (np.complex128(1), "must be a number, not numpy.complex128"),
    "an array": (np.array(150.0), "must be a number, not numpy.ndarray"),
    "an int that a float would change": (np.int64(2**53 + 1), "cannot be stored exactly"),
    "an infinite Decimal": (Decimal("Infinity"), "must be a finite number (got Decimal('Infi"),
    "a signalling NaN": (Decimal("sNaN"), "must be a finite number (got Decimal('sNaN'))"),
    "a large Decimal": (Decimal("1e400"), "must be a finite number (got Decimal('1E+400'))"),
    "a large Fraction": (Fraction(10**400), "must be a finite number"),
    "a duration": (np.timedelta64(5, "s"), "must be a number, not numpy.timedelta64"),
    "a duration without a unit": (np.timedelta64(5), "must be a number, not numpy.timedelta64"),
    "a plain enum": (Plain.TEXT, f"must be a number, not {__name__}.Plain"),
}


@pytest.mark.parametrize(("given_", "problem"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_no_real_number_is_refused(given_: object, problem: str) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        fields.number("f", given_)
    assert str(refusal.value).startswith(f"f {problem}")


def test_an_ordinal_is_stored_as_an_int() -> None:
    for given_ in (2, 2.0, np.int64(2), np.float32(2), Decimal(2)):
        found = fields.ordinal("part", given_)
        assert (type(found), found) == (int, 2)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_a_decimal_is_stored_as_its_nearest_float(number: Decimal) -> None:
    found = fields.number("f", number)
    assert found == float(Fraction(number))  # a Fraction divides exactly and rounds once


# -- further keys

FURTHER: Mapping[str, tuple[object, object]] = {
    "numpy.bool": (np.True_, True),
    "numpy.int64": (np.int64(-5), -5),
    "numpy.uint64": (np.uint64(2**63 - 1), 2**63 - 1),
    "numpy.float64": (np.float64(1.5), 1.5),
    "numpy.float32": (np.float32(0.1), 0.10000000149011612),
    "numpy.longdouble": (np.longdouble(0.5), 0.5),
    "numpy.str_": (np.str_("a"), "a"),
    "IntEnum": (Size.ROUND, 150),
    "StrEnum": (Regime.BULL, "bull"),
    "a str enum": (Side.BUY, "BUY"),
    "a float enum": (Weight.HALF, 0.5),
    "a plain enum": (Plain.TEXT, "text"),
    "deep": ([{"a": (np.int8(1), {"b": [Regime.BULL]})}], [{"a": [1, {"b": ["bull"]}]}]),
    "a key": ({Regime.BULL: 1, np.str_("x"): 2}, {"bull": 1, "x": 2}),
}


@pytest.mark.parametrize(("given_", "plain"), FURTHER.values(), ids=FURTHER)
def test_scalars_of_numpy_and_enums_are_kept_as_the_json_value_they_are(
    given_: object, plain: object
) -> None:
    for item in (
        {**PLAIN, "x": given_},
        Signal(**{**SIGNAL, "extra": {"x": given_}}),
        {"event": "closed", "signal_id": "s", "exit_price": 1, "x": given_},
        {"event": "heartbeat", "x": given_},
    ):
        found = stored(item)["x"]
        assert repr(found) == repr(plain)


def test_a_signal_that_is_changed_later_is_checked_again() -> None:
    signal = Signal(**SIGNAL)
    assert isinstance(signal.extra, dict)
    signal.extra["x"] = np.int64(5)
    assert stored(signal)["x"] == 5


NOT_JSON: Mapping[str, tuple[object, str]] = {
    "Decimal": (
        Decimal("1.10"),
        "x is of type decimal.Decimal, which is not JSON (got Decimal('1.10')); give float(x), "
        "which rounds it, or str(x), which keeps each digit",
    ),
    "numpy.datetime64": (np.datetime64(1, "ns"), "x is of type numpy.datetime64, which is not"),
    "numpy.timedelta64": (np.timedelta64(1, "ns"), "x is of type numpy.timedelta64, which is not"),
    "numpy.complex64": (np.complex64(1), "x is of type numpy.complex64, which is not JSON"),
    "numpy.bytes_": (np.bytes_(b"a"), "x is of type numpy.bytes_, which is not JSON"),
    "numpy.ndarray": (np.array([1]), "x is of type numpy.ndarray, which is not JSON"),
    "numpy.uint64": (np.uint64(2**63), "x must be from -2^63 to 2^63-1"),
    "longdouble": (np.longdouble("0.1"), "x is of type numpy.longdouble, which is not JSON"),
    "an enum of lists": (Plain.LIST, f"x is of type {__name__}.Plain, which is not JSON"),
    "pandas.Timestamp": (pd.Timestamp(0), f"x is of type {type_name(pd.Timestamp(0))}, which"),
    "twice": ({Plain.TEXT: 1, "text": 2}, "text is given twice in one object"),
}


@pytest.mark.parametrize(("given_", "problem"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_json_does_not_have_is_refused_by_its_full_type(given_: object, problem: str) -> None:
    for item in ({**PLAIN, "x": given_}, {"event": "heartbeat", "x": given_}):
        with pytest.raises(InvalidSignal) as refusal:
            validated_item(item)
        assert str(refusal.value).startswith(problem)


def test_the_type_of_a_value_is_named_with_its_module_unless_it_is_built_in() -> None:
    assert type_name(np.True_) == "numpy.bool"
    assert type_name(True) == "bool"
    assert type_name(Decimal(1)) == "decimal.Decimal"
    with pytest.raises(InvalidSignal, match=r"^x is of type set, which"):
        plain_json({"x": set()})


SCALARS = st.sampled_from(
    [np.int32(1), np.float32(0.1), np.True_, Size.ROUND, Regime.BULL, Side.BUY, np.str_("é")]
)
NESTED = st.recursive(
    SCALARS | st.integers(0, 9) | st.none() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just(Regime.BULL), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), NESTED, max_size=3))
def test_what_passes_is_read_back_unchanged(given_: dict[str, object]) -> None:
    before = repr(given_)
    plain = plain_json(given_)
    assert repr(orjson.loads(orjson.dumps(plain))) == repr(plain)
    assert repr(given_) == before  # the caller's own is not changed
    assert plain_json(plain) is plain


# -- rows of a DataFrame

WAY_OUT = (
    "leave the key out where a DataFrame has no value, for example with row.dropna().to_dict()"
)


@pytest.mark.parametrize(
    "value", [float("nan"), np.float64("nan"), pd.NA, pd.NaT, Decimal("NaN")], ids=type_name
)
@pytest.mark.parametrize("key", ["entry_price", "confidence", "strategy", "timestamp", "rsi"])
def test_a_missing_value_is_refused_with_the_way_out_for_a_dataframe(
    key: str, value: object
) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        validated_item({**PLAIN, key: value})
    assert refusal.value.field == key
    assert refusal.value.do == WAY_OUT
    with pytest.raises(InvalidSignal) as refusal:
        validated_item({"event": "closed", "signal_id": "s", "exit_price": 1, "x": [value]})
    assert refusal.value.do == WAY_OUT


@pytest.mark.parametrize("value", [float("inf"), "nan", np.array([1, 2]), None], ids=repr)
def test_other_refusals_do_not_speak_of_a_dataframe(value: object) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        validated_item({**PLAIN, "entry_price": value})
    assert refusal.value.do == ""


def test_the_way_out_for_a_dataframe_works() -> None:
    frame = pd.DataFrame([dict(PLAIN), {**PLAIN, "signal_id": "other", "rsi": 61.5}])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"])
    rows = [row.dropna().to_dict() for _, row in frame.iterrows()]
    assert "rsi" not in stored(rows[0])
    assert stored(rows[1])["rsi"] == 61.5
    assert stored(rows[0])["timestamp"] == PLAIN["timestamp"]


# -- times

TIMES: Mapping[str, object] = {
    "Timestamp": pd.Timestamp("2025-11-18T02:00:00Z"),
    "Timestamp elsewhere": pd.Timestamp("2025-11-17T21:00:00", tz="America/New_York"),
    "a floored Timestamp": pd.Timestamp("2025-11-18T02:00:00.000000001Z").floor("us"),
    "datetime64[D]": np.datetime64("2025-11-18T02", "h"),
    "datetime64[s]": np.datetime64("2025-11-18T02:00:00", "s"),
    "datetime64[us]": np.datetime64("2025-11-18T02:00:00", "us"),
    "datetime64[ns]": np.datetime64("2025-11-18T02:00:00", "ns"),
}


@pytest.mark.parametrize("value", TIMES.values(), ids=TIMES)
def test_times_of_pandas_and_numpy_are_stored_in_utc(value: object) -> None:
    assert times.timestamp("timestamp", value) == STORED
    assert stored({**PLAIN, "timestamp": value})["timestamp"] == STORED


NOT_TIMES: Mapping[str, tuple[object, str]] = {
    "a naive Timestamp": (pd.Timestamp("2025-11-18"), "has no time zone"),
    "nanoseconds": (
        pd.Timestamp("2025-11-18T02:00:00.000000001Z"),
        "has more than six digits of a second (got Timestamp('2025-11-18 02:00:00.000000001+0000', "
        "tz='UTC')); cut it with timestamp.floor(\"us\")",
    ),
    "datetime64[ns]": (np.datetime64(1, "ns"), "has more than six digits of a second"),
    "datetime64[as]": (np.datetime64(1, "as"), "has more than six digits of a second"),
    "NaT": (np.datetime64("NaT"), "is not a time"),
    "pandas' NaT": (pd.NaT, "is not a time"),
    "year 10000": (np.datetime64("10000-01-01"), "is outside the years 1 to 9999"),
    "far away": (np.datetime64(2**40, "Y"), "is outside the years 1 to 9999"),
    "microseconds that overflow": (np.datetime64(2**62, "W"), "is outside the years 1 to 9999"),
    "a duration": (np.timedelta64(1, "us"), "must be RFC 3339 text or an aware datetime"),
    "a date": (datetime(2025, 11, 18, tzinfo=UTC).date(), "must be RFC 3339 text or an aware"),
    "a number": (np.int64(1763431200), "must be RFC 3339 text or an aware datetime"),
}


@pytest.mark.parametrize(("value", "problem"), NOT_TIMES.values(), ids=NOT_TIMES)
def test_a_time_that_has_no_stored_form_is_refused(value: object, problem: str) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        times.timestamp("timestamp", value)
    assert str(refusal.value).startswith(f"timestamp {problem}")


@given(micros=st.integers(-(62 * 10**15), 253 * 10**15) | st.integers(-(10**7), 10**7))
def test_a_datetime64_is_the_time_that_numpy_prints(micros: int) -> None:
    value = np.datetime64(micros, "us")
    assert times.timestamp("timestamp", value)[:26] == str(value)
    if abs(micros) < 9 * 10**6:  # numpy has attoseconds for nine seconds only
        assert times.timestamp("timestamp", value.astype("datetime64[as]"))[:26] == str(value)


# -- without them


def test_validation_imports_neither_numpy_nor_pandas() -> None:
    program = (
        "import sys; from decimal import Decimal; from eventlog.schema import fields, json_values\n"
        "fields.number('f', Decimal(1)); json_values.plain_json({'a': 1})\n"
        "assert not {'numpy', 'pandas'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_value_whose_comparison_raises_is_refused_as_any_other() -> None:
    class Strange:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]  # not hashable, as a list

        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(InvalidSignal) as refusal:
        validated_item({**PLAIN, "x": Strange()})
    assert type_name(Strange()) in str(refusal.value)


def test_each_way_into_the_log_takes_the_same_numbers() -> None:
    """`each_way` covers a dict, another mapping, a Signal and a line of a pipe."""
    expected = stored({**PLAIN, "entry_price": 150, "n": 5})
    for item in each_way({**PLAIN, "entry_price": 150, "n": 5}):
        assert stored(item) == expected
    numpy_item = {**PLAIN, "entry_price": np.int64(150), "n": np.int64(5)}
    assert stored(numpy_item) == expected
    assert stored(Signal.from_mapping(numpy_item)) == expected
