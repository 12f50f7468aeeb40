"""The JSON Schema of `eventlog schema`: it agrees with validation as far as JSON Schema can."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types

from eventlog.errors import InvalidSignal
from eventlog.schema import facts, fields
from eventlog.schema.json_input import parse_json_line
from eventlog.schema.json_schema import fact_schema, signal_schema
from eventlog.schema.signal import FIELD_RULES, content_sha256
from eventlog.schema.validation import validate
from tests.eventlog.schema.test_near_misses import LEGITIMATE, LISTED, NEAR
from tests.eventlog.schema.test_validation import PLAIN
from tests.harness.command import eventlog
from tests.harness.requirements import TEST_DATA

SIGNAL, FACT = Draft202012Validator(signal_schema()), Draft202012Validator(fact_schema())

# What the description of each schema says that it cannot state.
NOT_STATED = re.compile(
    r"cannot be stored exactly|^timestamp does not exist|is outside the years|must be from -2\^63"
    r"|_at does not exist|^symbol must have 1 to 20 characters|printable characters"
    r"|is not that of the nine fields|is not in stored form|must be a finite number \(got -?inf"
)


def problem_of(item: Mapping[str, Any]) -> str | None:
    """What validation says of a line with this item; None if it passes."""
    try:
        validate(parse_json_line(json.dumps(item).encode()), now=now, new_id=str)
    except InvalidSignal as error:
        return str(error)
    return None


def now() -> str:
    return "2025-11-18T02:00:00.000000+00:00"


def assert_agree(validator: Draft202012Validator, item: Mapping[str, Any]) -> None:
    problem = problem_of(item)
    accepted = validator.is_valid(item)
    if problem is None:
        assert accepted, next(validator.iter_errors(item)).message
    elif accepted:
        assert NOT_STATED.search(problem), problem


NUMBERS = (
    st.sampled_from([0, 1, -1, 2, 5, 100, 101, 0.0, -0.0, 0.5, 1.0, 1.5, 100.0, 100.5, 2.0, 1e300])
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)
CONTROLS = "\x00\x09\x0a\x0d\x1f\x7f\x85\x9f"
SPACES = " \xa0\u1680\u2003\u2028\u3000\x1c\ufeff\u200b\u00ad"
TEXTS = (
    st.sampled_from(["", " ", "a", "AAPL", " brk.b\n", "a b", "x" * 20, "x" * 21, "x" * 101, "BUY"])
    | st.sampled_from(["sell", "SELL\n", " BUY", "win", "breakeven", "draw", "0" * 64, "\xdf" * 20])
    | st.sampled_from(["x" * 128, "x" * 129, "x" * 1000, "x" * 1001, "two\nlines", "signal"])
    | st.sampled_from(["2025-11-18T02:00:00Z", "2025-02-30T02:00:00Z", "2025-11-18T02:00:00"])
    | st.sampled_from(["2025-11-18 02:00:00.123456-23:59", "2025-11-18T02:00:00.1234567Z"])
    | st.sampled_from(["2025-11-18T23:59:60Z", "0000-01-01T00:00:00Z", "2025-11-18T24:00:00Z"])
    | st.sampled_from(["2025-11-18T02:00:00Z\n", "2025-11-18T02:00:00+24:00", "2025-11-18"])
    | st.text(alphabet="aA\u65e5\U0001f680" + CONTROLS + SPACES, max_size=22)
)
ANY: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | NUMBERS | TEXTS | st.just([]) | st.just({"a": [1]})
)
# Each is tried in each field, beside valid values in the others.
EACH: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        [],
        {},
        [1],
        0,
        1,
        -1,
        2,
        100,
        101,
        2**53 + 1,
        2**63,
        -(2**63) - 1,
        10**400,
    ),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 2.0, 100.5, 1e300, -1e308, 5e-324, 2.0**63),
    *(
        "",
        " ",
        "a",
        "AAPL",
        "a b",
        "BUY",
        "BUY\n",
        " BUY",
        "sElL",
        "win",
        "win\n",
        "draw",
        "\xdf" * 11,
    ),
    *("x" * 20, "x" * 21, " " * 30 + "x", "x" * 100, "x" * 101, "x" * 128, "x" * 129, "x" * 1000),
    *("x" * 1001, "\U0001f680" * 20, "\U0001f680" * 21, "a\u2003b", "a\u200bb", "a\x85", "a\x00b"),
    *("0" * 64, "A" * 64, "0" * 63, "0" * 64 + "\n", "signal", "closed"),
    *("2025-11-18T02:00:00Z", "2025-11-18t02:00:00z", "2025-11-18 02:00:00.123456-23:59"),
    *("2025-11-18T02:00:00", "2025-11-18T02:00Z", "2025-11-18T02:00:00.1234567Z", "2025-11-18"),
    *("2025-11-18T02:00:00.Z", "2025-11-18T23:59:60Z", "2025-11-18T24:00:00Z"),
    *("2025-13-18T02:00:00Z", "2025-11-32T02:00:00Z", "2025-11-18T02:00:00+24:00"),
    *("2025-02-30T02:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"),
    *("2025-11-18T02:00:00Z\n", "\u0662025-11-18T02:00:00Z", "2025-11-18T02:00:00.000000+00:00"),
)
GOOD: Mapping[str, st.SearchStrategy[Any]] = {
    "signal_id": st.sampled_from(["s-1", "\u65e5", "x" * 128]),
    "symbol": st.sampled_from(["AAPL", " brk.b\n", "x" * 20, "A\u200b", "\x1cA\x85"]),
    "action": st.sampled_from(["BUY", "sell", "bUy"]),
    "entry_price": st.sampled_from([150, 150.5, 5e-324]),
    "target_price": st.sampled_from([160, 158.25]),
    "stop_price": st.sampled_from([140, 147.0]),
    "confidence": st.sampled_from([0, 2, 85.5, 100, 1.01]),
    "strategy": st.sampled_from(["s", "x" * 100]),
    "asset_type": st.sampled_from(["", "stock"]),
    "data_source": st.sampled_from(["", "x" * 100]),
    "timestamp": st.sampled_from(["2025-11-18T02:00:00Z", "2025-11-18 02:00:00.5-05:00"]),
}
MORE = (
    *("take_profit", "stop_loss", "sha256", "event", "v", "seq", "batch", "recorded_at", "chain"),
    *("rsi", "x"),
)


@st.composite
def signal_items(draw: st.DrawFn) -> dict[str, Any]:
    item = {key: draw(good) for key, good in GOOD.items()}
    for key in draw(st.lists(st.sampled_from(list(GOOD)), max_size=2)):
        item.pop(key, None)
    for key in draw(st.lists(st.sampled_from([*GOOD, *MORE]), max_size=2)):
        item[key] = draw(ANY)
    for alias, key in (("take_profit", "target_price"), ("stop_loss", "stop_price")):
        if key in item and draw(st.integers(0, 4)) == 0:
            item[alias] = item.pop(key)
    if draw(st.integers(0, 4)) == 0:
        item["sha256"] = draw(st.sampled_from(["0" * 64, "A" * 64, "0" * 64 + "\n"]))
    return item


@pytest.mark.parametrize("key", [*FIELD_RULES, *MORE])
def test_each_value_in_each_field_of_a_signal(key: str) -> None:
    hashed = {**PLAIN, "sha256": content_sha256(PLAIN)}
    for item in (dict(PLAIN), hashed):
        assert problem_of(item) is None
        for value in EACH:
            if key != "event" or value == "signal":
                assert_agree(SIGNAL, {**item, key: value})
        assert_agree(SIGNAL, {other: item[other] for other in item if other != key})


@pytest.mark.slow
@settings(max_examples=500)
@given(signal_items())
@example({**PLAIN, "sha256": content_sha256(PLAIN)})
@example({**PLAIN, "sha256": content_sha256(PLAIN), "timestamp": "2025-11-18T02:00:00Z"})
def test_the_schema_of_a_signal_agrees_with_validation(item: dict[str, Any]) -> None:
    if "event" in item and item["event"] != "signal":
        assert not SIGNAL.is_valid(item)
    else:
        assert_agree(SIGNAL, item)


EVENTS = (
    st.sampled_from([*facts.FACTS, *LISTED, *NEAR, *LEGITIMATE, "promoted", "buy", "a" * 64])
    | st.sampled_from(["", "A", "a" * 65, "closed\n", "1a", ".a", None, 5, "\u017fkipped"])
    | st.text(alphabet="abcdefgilnoprstuvx.-_0", max_size=9)
)
FACT_VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "signal_id": st.sampled_from(["s-1", "\u65e5"]),
    "order_id": st.sampled_from(["o", "x" * 128]),
    "fill_price": st.sampled_from([0, -1.5, 150]),
    "executed_at": st.just("2025-11-18T02:00:00Z"),
    "reason": st.sampled_from(["r", "two\nlines"]),
    "part": st.sampled_from([1, 2, 3.0]),
    "exit_price": st.sampled_from([0, -37.63, 161]),
    "fraction": st.sampled_from([0.1, 0.999]),
    "closed_at": st.just("2025-11-18T02:00:00Z"),
    "outcome": st.sampled_from(["win", "breakeven"]),
    "profit_loss_pct": st.sampled_from([0, -100, 3.5]),
    "voids": st.sampled_from([1, 2**53 + 1]),
}


@st.composite
def fact_items(draw: st.DrawFn) -> dict[str, Any]:
    item: dict[str, Any] = {"event": draw(EVENTS)}
    item |= {key: draw(good) for key, good in FACT_VALUES.items() if draw(st.integers(0, 5))}
    for key in draw(st.lists(st.sampled_from([*FACT_VALUES, *MORE]), max_size=1)):
        item[key] = draw(ANY)
    return item


@pytest.mark.parametrize("event", [*facts.FACTS, "heartbeat"])
def test_each_value_in_each_key_of_a_fact(event: str) -> None:
    fact = {"event": event, "signal_id": "s", "order_id": "o", "reason": "r", "part": 1}
    fact |= {"exit_price": 1, "fraction": 0.5, "voids": 1}
    assert problem_of(fact) is None
    for key in (*FACT_VALUES, *MORE):
        for value in EACH:
            if key != "event" or value != "signal":
                assert_agree(FACT, {**fact, key: value})
        assert_agree(FACT, {other: fact[other] for other in fact if other != key})


@pytest.mark.slow
@settings(max_examples=500)
@given(fact_items())
def test_the_schema_of_a_fact_agrees_with_validation(item: dict[str, Any]) -> None:
    if item["event"] == "signal":
        assert not FACT.is_valid(item)
    else:
        assert_agree(FACT, item)


@pytest.mark.parametrize("event", [*facts.FACTS, *NEAR, *LEGITIMATE, "promoted"])
def test_the_schema_of_a_fact_knows_near_misses(event: str) -> None:
    usual = {"signal_id": "s", "order_id": "o", "reason": "r", "part": 1, "exit_price": 1}
    for item in (
        {"event": event, **usual, "fraction": 0.5, "voids": 1},
        {**PLAIN, "event": event, **usual, "fraction": 0.5, "voids": 1},
    ):
        assert FACT.is_valid(item) == (problem_of(item) is None)


@pytest.mark.parametrize("aliases", [(), ("take_profit",), ("take_profit", "stop_loss")])
def test_an_action_is_no_event_of_a_complete_signal(aliases: tuple[str, ...]) -> None:
    names = {"take_profit": "target_price", "stop_loss": "stop_price"}
    item = {**PLAIN, "event": "buy"} | {alias: PLAIN[names[alias]] for alias in aliases}
    for complete in (item, {key: item[key] for key in item if key not in map(names.get, aliases)}):
        assert not FACT.is_valid(complete)
        assert problem_of(complete) is not None
    assert FACT.is_valid({"event": "buy", "symbol": "AAPL"})


@pytest.mark.parametrize("name", ["target_price", "stop_price", "signal_id", "timestamp"])
def test_a_signal_with_its_own_hash_has_the_stored_names(name: str) -> None:
    alias = {"target_price": "take_profit", "stop_price": "stop_loss"}.get(name)
    item = {key: PLAIN[key] for key in PLAIN if key != name}
    item |= {alias: PLAIN[name]} if alias else {}
    assert_agree(SIGNAL, item)
    assert SIGNAL.is_valid(item)
    assert not SIGNAL.is_valid({**item, "sha256": content_sha256(PLAIN)})
    assert problem_of({**item, "sha256": content_sha256(PLAIN)}) is not None


def test_every_vector_that_alpine_accepted_is_valid() -> None:
    for vector in json.loads((TEST_DATA / "hash_vectors.json").read_text()):
        for item in (vector["signal"], vector.get("given", vector["signal"])):
            assert SIGNAL.is_valid(item), vector["name"]


def test_the_schemas_are_valid_json_schema() -> None:
    for schema in (signal_schema(), fact_schema()):
        Draft202012Validator.check_schema(schema)


def test_every_rule_of_a_field_has_its_text() -> None:
    rules = {*FIELD_RULES.values(), fields.sha256_hex}
    rules |= {key.rule for fact in facts.FACTS.values() for key in fact.keys.values()}
    assert rules == set(fields.RULE_TEXTS)


@pytest.mark.parametrize(("kind", "schema"), [("signal", signal_schema()), ("fact", fact_schema())])
def test_the_command_prints_the_schema(kind: str, schema: dict[str, Any], tmp_path: Path) -> None:
    done = eventlog("schema", kind, home=tmp_path / "none")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == schema
    assert list(tmp_path.iterdir()) == []


def test_the_command_knows_two_schemas(tmp_path: Path) -> None:
    done = eventlog("schema", "trade", home=tmp_path)
    assert (done.code, done.out) == (2, b"")
