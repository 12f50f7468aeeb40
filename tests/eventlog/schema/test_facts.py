from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import InvalidSignal
from eventlog.schema import facts

MOMENT = "2025-11-18T02:00:00.000000+00:00"


def body(event: str, **keys: object) -> bytes:
    return facts.body(facts.payload(event, {"event": event, **keys}))


@pytest.mark.parametrize(
    ("event", "given", "stored"),
    [
        ("executed", {"order_id": "o-1"}, b'"order_id":"o-1"'),
        (
            "executed",
            {"order_id": "o-1", "fill_price": 150, "executed_at": "2025-11-18T02:00:00Z"},
            b'"executed_at":"%b","fill_price":150.0,"order_id":"o-1"' % MOMENT.encode(),
        ),
        ("skipped", {"reason": "no\ncash"}, b'"reason":"no\\ncash"'),
        ("expired", {}, b""),
        ("expired", {"reason": "r"}, b'"reason":"r"'),
        ("cancelled", {}, b""),
        ("cancelled", {"reason": "r"}, b'"reason":"r"'),
        ("closed", {"exit_price": 1}, b'"exit_price":1.0'),
        ("closed", {"exit_price": 0}, b'"exit_price":0.0'),
        ("closed", {"exit_price": -37.63}, b'"exit_price":-37.63'),
        (
            "closed",
            {"exit_price": 1, "outcome": "breakeven"},
            b'"exit_price":1.0,"outcome":"breakeven"',
        ),
        ("executed", {"order_id": "o", "fill_price": -0.25}, b'"fill_price":-0.25,"order_id":"o"'),
        (
            "reduced",
            {"part": 1.0, "fraction": 0.25, "exit_price": 0, "closed_at": MOMENT},
            b'"closed_at":"%b","exit_price":0.0,"fraction":0.25,"part":1' % MOMENT.encode(),
        ),
        ("voided", {"voids": 17}, b'"voids":17'),
        ("voided", {"voids": 2**53 + 1, "reason": "r"}, b'"reason":"r","voids":9007199254740993'),
        (
            "closed",
            {"profit_loss_pct": -0.0, "outcome": "loss", "exit_price": 1.5, "closed_at": MOMENT},
            b'"closed_at":"%b","exit_price":1.5,"outcome":"loss","profit_loss_pct":0.0'
            % MOMENT.encode(),
        ),
    ],
)
def test_a_fact_is_stored_with_its_signal_id_first_and_the_rest_sorted(
    event: str, given: dict[str, object], stored: bytes
) -> None:
    rest = b"," + stored if stored else b""
    assert body(event, **given, signal_id="s") == b'"signal_id":"s"' + rest


@pytest.mark.parametrize(
    ("event", "given", "problem"),
    [
        ("executed", {}, "order_id is missing"),
        ("executed", {"order_id": ""}, "order_id must have 1 to 128 characters"),
        ("executed", {"order_id": 17}, "order_id must be text (got 17)"),
        ("executed", {"order_id": "a\nb"}, "order_id holds the control character U+000A"),
        ("executed", {"order_id": None}, "order_id must be text (got None)"),
        ("executed", {"order_id": "o", "fill_price": float("inf")}, "fill_price must be a finite"),
        ("executed", {"order_id": "o", "fill_price": None}, "fill_price must be a number"),
        ("executed", {"order_id": "o", "executed_at": "now"}, "executed_at is not an RFC 3339"),
        ("skipped", {}, "reason is missing"),
        ("skipped", {"reason": "x" * 1001}, "reason must have 1 to 1000 characters (got xxx"),
        ("expired", {"reason": ""}, "reason must have 1 to 1000 characters"),
        ("cancelled", {"reason": 5}, "reason must be text (got 5)"),
        ("closed", {}, "exit_price is missing"),
        ("closed", {"exit_price": "1"}, "exit_price must be a number, not text (got 1)"),
        ("closed", {"exit_price": float("-inf")}, "exit_price must be a finite number (got -inf)"),
        ("reduced", {}, "part is missing"),
        ("reduced", {"part": 1}, "exit_price is missing"),
        ("reduced", {"part": 1, "exit_price": 1}, "fraction is missing"),
        ("reduced", {"part": 0, "exit_price": 1, "fraction": 0.5}, "part must be a whole number"),
        (
            "reduced",
            {"part": 1, "exit_price": 1, "fraction": 1},
            "fraction must be a number above 0",
        ),
        ("reduced", {"part": True, "exit_price": 1, "fraction": 0.5}, "part must be a number"),
        ("voided", {}, "voids is missing"),
        ("voided", {"voids": 0}, "voids must be a whole number, 1 or more (got 0)"),
        ("voided", {"voids": "17"}, "voids must be a number, not text (got 17)"),
        ("voided", {"voids": 1, "reason": ""}, "reason must have 1 to 1000 characters"),
        (
            "closed",
            {"exit_price": 1, "outcome": "draw"},
            "outcome must be win, loss, breakeven or expired",
        ),
        (
            "closed",
            {"exit_price": 1, "outcome": ["win"]},
            "outcome must be win, loss, breakeven or expired",
        ),
        ("closed", {"exit_price": 1, "profit_loss_pct": float("nan")}, "profit_loss_pct must be"),
        (
            "closed",
            {"exit_price": 1, "closed_at": "2025-11-18T02:00:00"},
            "closed_at has no offset",
        ),
        ("expired", {"note": float("inf")}, "note must be a finite number (got inf)"),
        ("expired", {"chain": "x"}, "chain is reserved for the log (got x)"),
        ("expired", {"seq": 5}, "seq is reserved for the log (got 5)"),
        ("position.opened", {"batch": 5}, "batch is reserved for the log (got 5)"),
        ("position.opened", {"signal_id": ""}, "signal_id must have 1 to 128 characters"),
        ("position.opened", {"signal_id": None}, "signal_id must be text (got None)"),
    ],
)
def test_an_invalid_fact_is_refused_with_field_problem_and_value(
    event: str, given: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        body(event, **{"signal_id": "s", **given})
    assert str(refusal.value).startswith(problem)
    assert refusal.value.field == problem.split()[0]


@pytest.mark.parametrize("event", facts.FACTS)
def test_each_known_fact_needs_a_signal_id(event: str) -> None:
    with pytest.raises(InvalidSignal, match=r"^signal_id is missing"):
        body(event, order_id="o", reason="r", exit_price=1, part=1, fraction=0.5, voids=1)


def test_an_unknown_event_needs_only_a_name() -> None:
    assert body("position.opened") == b""
    assert body("position.opened", b=1, a={"d": 1, "c": [2]}) == b'"a":{"c":[2],"d":1},"b":1'
    assert body("position.opened", b=1, signal_id="s") == b'"signal_id":"s","b":1'


@pytest.mark.parametrize("name", ["a", "closed", "x-y_z.0", "a" * 64])
def test_an_event_is_named_by_small_letters_digits_and_three_signs(name: str) -> None:
    assert facts.event_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "Signal", "1a", ".a", "a b", "a" * 65, "é", "a\n", "a/b", 'a"', None, 1, b"a"]
)
def test_any_other_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidSignal, match=r"^event must be "):
        facts.event_name(name)


def test_a_key_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidSignal, match=r"^key must be text \(got 1\)"):
        facts.payload("expired", {"signal_id": "s", 1: 2})  # type: ignore[dict-item]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def shuffled(value: object) -> object:
    """The same value, with the keys of each object the other way round and tuples for lists."""
    if isinstance(value, Mapping):
        return {key: shuffled(inner) for key, inner in reversed([*value.items()])}
    if isinstance(value, list):
        return tuple(shuffled(inner) for inner in value)
    return value


@given(keys=st.dictionaries(st.text(max_size=3), JSON), price=st.integers(1, 1000))
def test_equal_facts_have_equal_bytes_whatever_the_order_of_their_keys(
    keys: dict[str, object], price: int
) -> None:
    """A retry of a fact is known by its bytes."""
    keys = {f"x{key}": value for key, value in keys.items()}
    one = body("closed", signal_id="s", exit_price=price, closed_at=MOMENT, **keys)
    other = {"closed_at": MOMENT[:19] + "Z", "exit_price": float(price), "signal_id": "s"}
    again = shuffled(keys)
    assert isinstance(again, dict)
    assert body("closed", **again, **other) == one
    stored = orjson.loads(b"{" + one + b"}")
    assert {key: stored[key] for key in keys} == keys
    assert list(stored) == ["signal_id", *sorted(stored.keys() - {"signal_id"})]


@given(order=st.permutations(["order_id", "signal_id", "fill_price", "note", "event"]))
def test_a_fact_is_the_same_in_any_order(order: list[str]) -> None:
    fields: dict[str, object] = {"order_id": "o", "signal_id": "s", "fill_price": 2, "note": "n"}
    fields["event"] = "executed"
    payload = facts.payload("executed", {key: fields[key] for key in order})
    assert facts.body(payload) == b'"signal_id":"s","fill_price":2.0,"note":"n","order_id":"o"'
