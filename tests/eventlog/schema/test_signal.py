import copy
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import HashMismatch, InvalidSignal
from eventlog.schema.signal import HASHED_FIELDS, Signal, canonical, content_sha256
from tests.harness.requirements import TEST_DATA

PLAIN: Mapping[str, object] = {
    "signal_id": "sig-0001",
    "symbol": "AAPL",
    "action": "BUY",
    "entry_price": 150.5,
    "target_price": 158.25,
    "stop_price": 147.0,
    "confidence": 85.5,
    "strategy": "weighted_consensus_v6",
    "timestamp": "2025-11-18T02:00:00.000000+00:00",
}
PLAIN_SHA256 = "aedce4b3e3d0b709acfd8345ad1019aba305d2416f2ceae4238d86d88e4ae431"


def made(**changes: object) -> Signal:
    """The plain signal with some fields changed; `...` takes one out."""
    fields = {**PLAIN, **changes}
    return Signal.from_mapping({key: value for key, value in fields.items() if value is not ...})


# The hash.


def test_every_vector_that_alpine_accepted_is_met_to_the_byte() -> None:
    vectors = json.loads((TEST_DATA / "hash_vectors.json").read_text())
    assert len(vectors) >= 12
    for vector in vectors:
        signal = Signal.from_mapping(vector.get("given", vector["signal"]))
        assert {key: getattr(signal, key) for key in HASHED_FIELDS} == vector["signal"], vector[
            "name"
        ]
        assert canonical(signal.payload()) == vector["canonical"], vector["name"]
        assert signal.sha256 == content_sha256(vector["signal"]) == vector["sha256"], vector["name"]
        assert Signal.from_mapping({**vector["signal"], "sha256": vector["sha256"]}) == signal


ANY_JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=10)
    | st.text(alphabet='"\\/\x00\n\x7f\u2028\ud800\udfffé🚀', max_size=10)
    | st.lists(st.integers(), max_size=2)
)


@given(st.fixed_dictionaries(dict.fromkeys(HASHED_FIELDS, ANY_JSON)))
def test_the_canonical_form_is_what_json_dumps_writes_for_any_value(
    fields: dict[str, object],
) -> None:
    assert canonical(fields) == json.dumps(fields, sort_keys=True)


@given(
    texts=st.lists(st.text(alphabet=st.characters(), max_size=20), min_size=5, max_size=5),
    numbers=st.lists(st.floats(), min_size=4, max_size=4),
)
def test_the_canonical_form_is_what_json_dumps_writes_for_texts_and_floats(
    texts: list[str], numbers: list[float]
) -> None:
    fields = {**PLAIN}
    keys = ("entry_price", "target_price", "stop_price", "confidence")
    fields |= dict(zip(keys, numbers, strict=True))
    fields |= dict(zip(sorted(fields.keys() - set(keys)), texts, strict=True))
    text = json.dumps(fields, sort_keys=True)
    assert canonical({**fields, "reasoning": "is not hashed"}) == text
    assert content_sha256(fields) == sha256(text.encode()).hexdigest()


# The rules, one by one as contract.md 4 has them.


@pytest.mark.parametrize(
    ("changes", "field", "stored"),
    [
        ({"symbol": " brk.a\t"}, "symbol", "BRK.A"),
        ({"action": "sell"}, "action", "SELL"),
        ({"entry_price": 150}, "entry_price", 150.0),
        ({"target_price": ..., "take_profit": 160}, "target_price", 160.0),
        ({"stop_price": ..., "stop_loss": 1e-6}, "stop_price", 1e-6),
        ({"confidence": 0}, "confidence", 0.0),
        ({"confidence": 100}, "confidence", 100.0),
        ({"strategy": "dérivé-模型-🚀"}, "strategy", "dérivé-模型-🚀"),
        ({}, "asset_type", "unknown"),
        ({"asset_type": "stock"}, "asset_type", "stock"),
        ({}, "data_source", "weighted_consensus"),
        ({"timestamp": "2025-11-17T21:00:00-05:00"}, "timestamp", PLAIN["timestamp"]),
        ({"timestamp": datetime(2025, 11, 18, 2, tzinfo=UTC)}, "timestamp", PLAIN["timestamp"]),
        ({"timestamp": ...}, "timestamp", None),
        ({"signal_id": ...}, "signal_id", None),
        ({"signal_id": ...}, "sha256", None),
        ({}, "sha256", PLAIN_SHA256),
        ({"sha256": PLAIN_SHA256}, "sha256", PLAIN_SHA256),
        ({"event": "signal"}, "extra", {}),
        (
            {"reasoning": "two\nlines", "n": 2**63 - 1},
            "extra",
            {"reasoning": "two\nlines", "n": 2**63 - 1},
        ),
        ({"sources": ("a", {"b": None})}, "extra", {"sources": ["a", {"b": None}]}),
    ],
)
def test_a_signal_is_stored_in_one_form(
    changes: dict[str, object], field: str, stored: object
) -> None:
    found = getattr(made(**changes), field)
    assert (type(found), found) == (type(stored), stored)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"symbol": ...}, "symbol is missing"),
        ({"stop_price": ...}, "stop_price is missing"),
        ({"symbol": None}, "symbol must not be null"),
        ({"timestamp": None}, "timestamp may be left out, but not null"),
        ({"sha256": None}, "sha256 may be left out, but not null"),
        ({"symbol": "A B"}, "symbol may not hold white space (got A B)"),
        ({"action": "HOLD"}, "action must be BUY or SELL (got HOLD)"),
        ({"target_price": -1}, "target_price must be > 0 (got -1)"),
        ({"entry_price": "150"}, "entry_price must be a number, not text (got 150)"),
        ({"entry_price": True}, "entry_price must be a number (got True)"),
        ({"confidence": 0.85}, "confidence looks like a fraction; did you mean 85.0? (got 0.85)"),
        ({"strategy": ""}, "strategy must have 1 to 100 characters"),
        ({"data_source": "a\x1b[2J"}, "data_source holds the control character U+001B"),
        ({"timestamp": "2025-11-18T02:00:00"}, "timestamp has no offset"),
        ({"signal_id": ""}, "signal_id must have 1 to 128 characters"),
        ({"take_profit": 158.25}, "target_price is given under both of its names"),
        ({"stop_loss": 1.0}, "stop_price is given under both of its names"),
        ({"reasoning": float("nan")}, "reasoning must be a finite number (got nan)"),
        ({"n": 2**63}, "n must be from -2^63 to 2^63-1"),
        ({"seq": 1}, "seq is reserved for the log (got 1)"),
        ({"chain": "x"}, "chain is reserved for the log (got x)"),
        ({"event": "executed"}, "event is reserved for the log (got executed)"),
        ({"sha256": "x"}, "sha256 must be 64 lower-case hex digits (got x)"),
    ],
)
def test_an_invalid_signal_is_refused_with_field_problem_and_value(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        made(**changes)
    assert str(refusal.value).startswith(problem)
    assert refusal.value.field == problem.split()[0]


@pytest.mark.parametrize(
    ("changes", "field", "stored"),
    [
        ({"symbol": "aapl"}, "symbol", "AAPL"),
        ({"action": "buy"}, "action", "BUY"),
        ({"entry_price": 150}, "entry_price", "150.0"),
        ({"confidence": -0.0}, "confidence", "0.0"),
        ({"timestamp": "2025-11-18T02:00:00Z"}, "timestamp", PLAIN["timestamp"]),
        ({"timestamp": datetime(2025, 11, 18, tzinfo=UTC)}, "timestamp", "2025-11-18T00:00"),
    ],
)
def test_a_signal_with_its_own_sha256_must_be_in_stored_form_already(
    changes: dict[str, object], field: str, stored: str
) -> None:
    with pytest.raises(
        InvalidSignal, match=re.escape(f"{field} is not in stored form, which is {stored}")
    ):
        made(sha256=PLAIN_SHA256, **changes)


@pytest.mark.parametrize("field", ["signal_id", "timestamp"])
def test_a_signal_with_its_own_sha256_must_contain_every_hashed_field(field: str) -> None:
    with pytest.raises(InvalidSignal, match=f"^{field} is missing"):
        made(sha256=PLAIN_SHA256, **{field: ...})


def test_a_signal_with_its_own_sha256_must_contain_target_price() -> None:
    with pytest.raises(InvalidSignal, match=r"^take_profit is stored as target_price"):
        made(sha256=PLAIN_SHA256, target_price=..., take_profit=158.25)


def test_a_hash_of_other_fields_is_a_mismatch() -> None:
    with pytest.raises(HashMismatch, match=f"^sha256 is not that of the nine fields, {'.' * 64}"):
        made(sha256=PLAIN_SHA256, confidence=85.0)


@pytest.mark.parametrize("key", [1, None, ("a",)])
def test_a_key_that_is_not_text_is_refused(key: object) -> None:
    with pytest.raises(InvalidSignal, match=r"^key must be text \(got "):
        Signal.from_mapping({**PLAIN, key: 1})  # type: ignore[dict-item]


# The class.

TEXT = st.text(min_size=1, max_size=20).filter(str.isprintable)
PRICE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SIGNALS = st.fixed_dictionaries(
    {
        "symbol": st.from_regex(r"[A-Za-z0-9.^=-]{1,20}", fullmatch=True),
        "action": st.sampled_from(["BUY", "sell"]),
        "entry_price": PRICE,
        "target_price": PRICE,
        "stop_price": PRICE,
        "confidence": st.just(0.0) | st.floats(1, 100, exclude_min=True) | st.integers(2, 100),
        "strategy": TEXT,
    },
    optional={
        "signal_id": TEXT,
        "timestamp": st.datetimes(timezones=st.just(UTC)),
        "asset_type": TEXT,
        "reasoning": st.text(),
        "nested": st.lists(
            st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False))
        ),
    },
).map(Signal.from_mapping)


@given(SIGNALS)
def test_the_payload_of_a_signal_makes_the_same_signal(signal: Signal) -> None:
    again = Signal.from_mapping(signal.payload())
    assert again == signal
    assert list(again.payload()) == list(signal.payload())


@given(SIGNALS)
def test_a_signal_survives_pickle_deepcopy_and_replace(signal: Signal) -> None:
    assert pickle.loads(pickle.dumps(signal)) == signal
    assert copy.deepcopy(signal) == signal
    assert replace(signal) == signal
    assert asdict(signal)["symbol"] == signal.symbol
    assert hash(replace(signal)) == hash(signal)


def test_the_payload_is_in_the_order_of_the_disk_whatever_the_callers() -> None:
    fields = dict(reversed({**PLAIN, "zulu": 1, "alpha": 2, "data_source": "x"}.items()))
    expected = "signal_id symbol action entry_price target_price stop_price confidence strategy"
    expected += " asset_type data_source timestamp alpha zulu sha256"
    assert list(Signal.from_mapping(fields).payload()) == expected.split()


def test_fields_that_the_log_fills_in_are_not_in_the_payload_yet() -> None:
    payload = made(signal_id=..., timestamp=...).payload()
    assert payload.keys() & {"signal_id", "timestamp", "sha256"} == set()


def test_a_signal_does_not_change_with_its_source_mapping() -> None:
    inner = [1]
    signal = made(nested={"list": inner})
    inner.append(2)
    nested = signal.payload()["nested"]
    assert isinstance(nested, dict)
    nested["list"].append(3)
    assert signal.extra == {"nested": {"list": [1]}}
    with pytest.raises(FrozenInstanceError):
        signal.symbol = "MSFT"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"symbol": "AAPL"}, "symbol is a field, not an extra (got AAPL)"),
        ({"take_profit": 5}, "take_profit is another name of target_price (got 5)"),
        ({"batch": 5}, "batch is reserved for the log (got 5)"),
        ({"sha256": "x"}, "sha256 is a field, not an extra (got x)"),
        ({"a": {1: 2}}, "a has a key that is not text (got 1)"),
        ({1: 2}, "item has a key that is not text (got 1)"),
        ([], "extra must be a mapping (got [])"),
    ],
)
def test_extras_are_free_keys_with_json_values(extra: object, problem: str) -> None:
    signal = made()
    with pytest.raises(InvalidSignal) as refusal:
        replace(signal, extra=extra)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(problem)


def test_the_class_itself_applies_the_same_rules() -> None:
    signal = Signal(
        symbol=" aapl",
        action="buy",
        entry_price=150.5,
        target_price=158.25,
        stop_price=147,
        confidence=85.5,
        strategy="weighted_consensus_v6",
        signal_id="sig-0001",
        timestamp=datetime(2025, 11, 18, 2, tzinfo=UTC),
        extra=MappingProxyType({"regime": "bull"}),
    )
    assert signal == made(regime="bull")
    assert signal.sha256 == PLAIN_SHA256


def test_the_docstring_names_signals_that_cannot_be_retried() -> None:
    assert "cannot be retried\n    idempotently" in (Signal.__doc__ or "")
