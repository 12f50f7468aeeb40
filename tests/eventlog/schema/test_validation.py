import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import partial
from math import inf, nan
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventlog.errors import EntryTooLarge, HashMismatch, InvalidSignal
from eventlog.format import line
from eventlog.format.line import RESERVED_KEYS
from eventlog.schema import json_input, validation
from eventlog.schema.facts import FACTS, fast_body
from eventlog.schema.json_input import parse_json_line
from eventlog.schema.signal import ALIASES, FIELD_RULES, Signal, content_sha256
from eventlog.schema.validation import ValidatedItem, validate
from tests.harness.requirements import TEST_DATA

NOW = "2025-11-18T09:30:00.000001+00:00"
NEW_ID = "0199f4a2-0000-7000-8000-000000000001"
PLAIN: Mapping[str, object] = {
    "signal_id": "sig-0001",
    "symbol": "AAPL",
    "action": "BUY",
    "entry_price": 150.5,
    "target_price": 158.25,
    "stop_price": 147.0,
    "confidence": 85.5,
    "strategy": "weighted_consensus_v6",
    "asset_type": "stock",
    "data_source": "weighted_consensus",
    "timestamp": "2025-11-18T02:00:00.000000+00:00",
    "regime": "bull",
    "reasoning": "x" * 80,
}


def never() -> NoReturn:
    raise AssertionError("no id was needed")


def validated_item(item: Mapping[str, object] | Signal) -> ValidatedItem:
    return validate(item, now=lambda: NOW, new_id=lambda: NEW_ID)


def stored(item: Mapping[str, object] | Signal) -> dict[str, object]:
    payload: dict[str, object] = orjson.loads(b"{" + validated_item(item).body + b"}")
    return payload


def each_way(fields: dict[str, object]) -> Iterator[Mapping[str, object] | Signal]:
    """The same item, on the fast way, by the full rules, as a Signal, and out of a pipe."""
    yield from (fields, OrderedDict(fields), Signal.from_mapping(fields))
    yield parse_json_line(json.dumps(fields).encode())


class Refused(NamedTuple):
    kind: type[InvalidSignal]
    message: str


def outcome(act: Callable[[], object]) -> object:
    """What comes back, or what is said instead."""
    try:
        return act()
    except InvalidSignal as refusal:
        return Refused(type(refusal), str(refusal))


# A signal.


def test_the_body_is_the_payload_in_the_order_of_the_disk_without_braces() -> None:
    sha256 = content_sha256(PLAIN)
    start = (
        b'"signal_id":"sig-0001","symbol":"AAPL","action":"BUY","entry_price":150.5,'
        b'"target_price":158.25,"stop_price":147.0,"confidence":85.5,'
        b'"strategy":"weighted_consensus_v6","asset_type":"stock",'
        b'"data_source":"weighted_consensus","timestamp":"2025-11-18T02:00:00.000000+00:00",'
    )
    regime, reasoning = b'"regime":"bull",', b'"reasoning":"%b",' % (b"x" * 80)
    end = b'"sha256":"%b"' % sha256.encode()
    backwards = {key: PLAIN[key] for key in reversed(list(PLAIN))}
    for item, body in (
        (dict(PLAIN), start + regime + reasoning + end),
        (backwards, start + reasoning + regime + end),
    ):
        found = validate(item, now=never, new_id=never)
        timestamp = str(PLAIN["timestamp"])
        assert found == ValidatedItem("signal", "sig-0001", body, sha256, True, timestamp)


def test_omitted_fields_are_filled_in_and_returned_to_the_caller() -> None:
    item = {key: PLAIN[key] for key in PLAIN if key not in ("signal_id", "timestamp")}
    for each in (item, OrderedDict(item), Signal.from_mapping(item)):
        found = validated_item(each)
        assert found.signal_id == NEW_ID
        assert not found.timestamp_given
        assert stored(each) == {
            **PLAIN,
            "signal_id": NEW_ID,
            "timestamp": NOW,
            "sha256": found.sha256,
        }
        assert list(stored(each)) == [*PLAIN, "sha256"]
        assert found.sha256 == content_sha256(stored(each))


def test_defaults_are_stored() -> None:
    item = {key: PLAIN[key] for key in PLAIN if key not in ("asset_type", "data_source")}
    assert stored(item)["asset_type"] == "unknown"
    assert stored(item)["data_source"] == "weighted_consensus"


def test_every_vector_that_alpine_accepted_passes_validation() -> None:
    for vector in json.loads((TEST_DATA / "hash_vectors.json").read_text()):
        for fields in (vector["signal"], vector.get("given", vector["signal"])):
            for item in each_way(fields):
                assert validated_item(item).sha256 == vector["sha256"], vector["name"]
                assert stored(item).items() >= vector["signal"].items(), vector["name"]


class Field(StrEnum):
    symbol = "symbol"
    regime = "regime"


class Text(StrEnum):
    AAPL = "AAPL"
    BUY = "buy"


class Number(IntEnum):
    FIVE = 5


class Wide(float):
    pass


HOSTILE: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400])
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=30)
    | st.text(alphabet=" \t\n\x00\x7f\x85\ud800aZ\u017f\u00df\u200b", max_size=25)
    | st.sampled_from(
        [Text.AAPL, Text.BUY, Number.FIVE, Wide(50.0), Decimal(5), b"AAPL", "x" * 130]
    )
    | st.lists(st.text(max_size=3) | st.floats(), max_size=3)
    | st.dictionaries(st.text(max_size=3) | st.integers(), st.floats(), max_size=3)
    | st.tuples(st.text(max_size=3), st.floats(allow_nan=False))
)
GOOD: Mapping[str, st.SearchStrategy[object]] = {
    "signal_id": st.sampled_from(["a", "é 模型", "x" * 128]),
    "symbol": st.sampled_from(["AAPL", "brk.a", " SHIB-USD "]),
    "action": st.sampled_from(["BUY", "SELL", "sell"]),
    "entry_price": st.floats(1e-9, 1e17) | st.integers(1, 10**6),
    "target_price": st.floats(1e-9, 1e17) | st.integers(1, 10**6),
    "stop_price": st.floats(1e-9, 1e17) | st.integers(1, 10**6),
    "confidence": st.floats(1.1, 100) | st.integers(2, 100) | st.sampled_from([0.0, -0.0, 0]),
    "strategy": st.text(alphabet='aé模🚀"\\/ ', min_size=1, max_size=10),
    "asset_type": st.sampled_from(["stock", ""]),
    "data_source": st.text(alphabet="ab", max_size=3),
    "timestamp": st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat(" "))
    | st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat(timespec="microseconds"))
    | st.datetimes(timezones=st.just(UTC)),
}
EXTRA = (
    st.text(max_size=5)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none()
    | st.booleans()
    | st.lists(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2), max_size=2)
)
SPECIAL = st.sampled_from(
    [
        *FIELD_RULES,
        *sorted(RESERVED_KEYS),
        *ALIASES,
        "sha256",
        "event",
        Field.symbol,
        Field.regime,
        1,
        None,
    ]
)


@st.composite
def items(draw: st.DrawFn, hostile: bool) -> dict[str, object]:
    """A signal as a caller may send it: keys in any order, some left out, extras among them."""
    fields: dict[object, object] = {
        key: draw(good)
        for key, good in GOOD.items()
        if key not in ("signal_id", "timestamp", "asset_type", "data_source") or draw(st.booleans())
    }
    fields |= draw(
        st.dictionaries(st.text(alphabet="xyé", min_size=1, max_size=3), EXTRA, max_size=3)
    )
    if hostile:
        fields |= draw(st.dictionaries(SPECIAL | st.text(max_size=3), HOSTILE, max_size=2))
        for key in draw(st.lists(st.sampled_from(list(FIELD_RULES)), max_size=1)):
            fields.pop(key, None)
        if draw(st.booleans()):
            fields["event"] = draw(st.sampled_from(["signal", Text.AAPL, "executed", "Signal", 5]))
    order = draw(st.permutations(list(fields)))
    return {key: fields[key] for key in order}  # type: ignore[misc]  # hostile keys are no text


STRANGE: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 5, 100, 101, 2**53 + 1, 2**63, 10**400, Number.FIVE, Decimal(5)),
    *(0.0, -0.0, 1.0, 1.5, 100.5, -5.0, 5e-324, 1e308, inf, -inf, nan, Wide(50.0)),
    *(
        "",
        " ",
        "a",
        "BUY",
        "sell ",
        " aapl",
        "a b",
        "signal",
        "x" * 200,
        "é",
        "\ud800",
        "a\nb",
        "0" * 64,
    ),
    *(Text.AAPL, Text.BUY, b"AAPL", {"AAPL"}, [], ["a"], ("a", 1), [nan], ["\ud800"], [[2**63]]),
    *({}, {"a": {"b": [1.5, None]}}, {1: 2}, {"\ud800": 1}, {"a": b"b"}, {"z": 1, "a": (1, 2)}),
    *("2025-11-18T02:00:00Z", "2025-11-18T02:00:00", "2025-02-30T00:00:00.000000+00:00"),
    *(datetime(2025, 11, 18, tzinfo=UTC), datetime(2025, 11, 18)),  # noqa: DTZ001
)


@pytest.mark.parametrize(
    "key",
    [*FIELD_RULES, *ALIASES, *sorted(RESERVED_KEYS), "sha256", "x", "é", "\ud800", *Field, 1, None],
    ids=repr,
)
def test_the_fast_path_and_the_full_rules_agree_on_each_field(key: str) -> None:
    """Only a plain dict takes the fast way."""
    for value in STRANGE:
        item = {other: PLAIN[other] for other in PLAIN if other != key} | {key: value}
        assert outcome(partial(validated_item, item)) == outcome(
            partial(validated_item, MappingProxyType(item))
        )


@pytest.mark.slow
@settings(max_examples=400)
@given(items(hostile=True) | items(hostile=False))
def test_the_fast_path_and_the_full_rules_agree_to_the_byte(item: dict[str, object]) -> None:
    assert outcome(lambda: validated_item(item)) == outcome(
        lambda: validated_item(MappingProxyType(item))
    )


FACT_ITEMS: Mapping[str, dict[str, object]] = {
    "executed": {"order_id": "o-1", "fill_price": 150, "executed_at": PLAIN["timestamp"]},
    "skipped": {"reason": "a limit\nwas reached"},
    "expired": {},
    "cancelled": {"reason": "late", "note": "by hand"},
    "reduced": {"part": 1, "exit_price": 158.25, "fraction": 0.5},
    "closed": {"exit_price": -0.0, "outcome": "win", "closed_at": "2025-11-18T02:00:00Z"},
    "voided": {"voids": 7, "salt": "0" * 32, "n": 2, "z": None, "a": True},
}


@pytest.mark.parametrize("event", FACT_ITEMS)
def test_the_fast_path_and_the_full_rules_agree_on_each_key_of_a_fact(event: str) -> None:
    """Only a plain dict takes the fast way."""
    plain = {**FACT_ITEMS[event], "event": event, "signal_id": "sig-0001"}
    assert set(FACT_ITEMS) == set(FACTS)
    keys = (*plain, *FACTS[event].keys, *sorted(RESERVED_KEYS), "x", "é", "\ud800", *Field, 1, None)
    for key in keys:
        without = {other: plain[other] for other in plain if other != key}
        for value in STRANGE:
            item = {**without, key: value}
            full = outcome(partial(validated_item, MappingProxyType(item)))
            assert outcome(partial(validated_item, item)) == full
            backwards = {other: item[other] for other in reversed(list(item))}
            assert outcome(partial(validated_item, backwards)) == full or isinstance(full, Refused)
        full = outcome(partial(validated_item, MappingProxyType(without)))
        assert outcome(partial(validated_item, without)) == full


def test_a_fact_whose_line_is_too_long_is_refused_alike_on_the_fast_path() -> None:
    fact = {"event": "expired", "signal_id": "s", "b": "x" * 40_000, "a": "y" * 40_000}
    refused = outcome(partial(validated_item, fact))
    assert isinstance(refused, Refused)
    assert refused.kind is EntryTooLarge
    assert refused == outcome(partial(validated_item, MappingProxyType(fact)))


@pytest.mark.parametrize("event", FACT_ITEMS)
def test_a_common_fact_is_validated_by_the_fast_path(event: str) -> None:
    item = {**FACT_ITEMS[event], "event": event, "signal_id": "sig-0001"}
    assert fast_body(event, item) == validated_item(MappingProxyType(item)).body


@given(items(hostile=False))
def test_a_dict_and_the_signal_made_of_it_are_stored_alike(item: dict[str, object]) -> None:
    assert validated_item(Signal.from_mapping(item)) == validated_item(item)


@given(items(hostile=False))
def test_a_stored_item_passes_validation_again_unchanged(item: dict[str, object]) -> None:
    first = validated_item(item)
    again = validate(parse_json_line(b"{" + first.body + b"}"), now=never, new_id=never)
    assert again == first._replace(timestamp_given=True)


@given(items(hostile=False))
def test_further_keys_are_stored_exactly_and_in_the_callers_order(item: dict[str, object]) -> None:
    extra = {key: value for key, value in item.items() if key not in FIELD_RULES}
    found = stored(item)
    assert repr({key: found[key] for key in extra}) == repr(extra)
    assert [key for key in found if key not in FIELD_RULES] == [*extra, "sha256"]


def test_a_later_line_with_other_texts_is_not_confused_with_the_first() -> None:
    """Texts that were seen before are looked up: something else may equal one."""
    assert stored({**PLAIN, "symbol": "AAPL"})["symbol"] == "AAPL"

    class LooksLikeApple:
        def __eq__(self, other: object) -> bool:
            return other == "AAPL"

        def __hash__(self) -> int:
            return hash("AAPL")

    with pytest.raises(InvalidSignal, match=r"^symbol must be text"):
        validated_item({**PLAIN, "symbol": LooksLikeApple()})


def test_a_signal_whose_extras_were_tampered_with_is_refused() -> None:
    """Frozen says nothing of the dict within."""
    signal = Signal.from_mapping(PLAIN)
    assert isinstance(signal.extra, dict)
    signal.extra["chain"] = "x"
    with pytest.raises(InvalidSignal, match=r"^chain is reserved for the log"):
        validated_item(signal)


def test_a_signal_that_brings_its_sha256_is_checked() -> None:
    sha256 = content_sha256(PLAIN)
    assert validate({**PLAIN, "sha256": sha256}, now=never, new_id=never).sha256 == sha256
    with pytest.raises(HashMismatch, match=r"^sha256 is not that of the nine fields"):
        validated_item({**PLAIN, "sha256": "0" * 64})
    with pytest.raises(InvalidSignal, match=r"^entry_price is not in stored form, which is 150\.0"):
        validated_item({**PLAIN, "entry_price": 150, "sha256": sha256})


# A fact.


def test_a_fact_has_no_sha256_and_its_signal_id_comes_first() -> None:
    item = {
        "exit_price": 158,
        "event": "closed",
        "signal_id": "s",
        "closed_at": "2025-11-18 02:00:00Z",
    }
    body = b'"signal_id":"s","closed_at":"2025-11-18T02:00:00.000000+00:00","exit_price":158.0'
    found = validate(item, now=never, new_id=never)
    assert found == ValidatedItem("closed", "s", body, None, True)


def test_an_unknown_event_needs_only_its_name() -> None:
    assert validate({"event": "heartbeat"}, now=never, new_id=never) == ValidatedItem(
        "heartbeat", None, b"", None, True
    )


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"event": None}, "event must be text (got None)"),
        ({"event": "Closed"}, "event must be 1 to 64 of"),
        ({"event": "closed", "signal_id": "s"}, "exit_price is missing"),
        ({"event": "heartbeat", "recorded_at": "x"}, "recorded_at is reserved for the log"),
        ({}, "symbol is missing"),
        ([], "item must be a mapping or a Signal (got [])"),
        ("{}", "item must be a mapping or a Signal (got {})"),
    ],
)
def test_an_item_that_is_neither_signal_nor_fact_is_refused(item: object, problem: str) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        validated_item(item)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(problem)


# Limits.


def padded(item: dict[str, object], payload_bytes: int) -> dict[str, object]:
    """`item` with a `padding` that makes its payload so long."""
    body = validated_item({**item, "padding": ""}).body
    return {**item, "padding": "p" * (payload_bytes - len(body) - 2)}


@pytest.mark.parametrize("item", [dict(PLAIN), {"event": "e" * 64}])
def test_the_longest_payload_fits_into_a_line_whatever_its_seq(item: dict[str, object]) -> None:
    found = validated_item(padded(item, 65_000))
    text, _ = line.encode(
        "e" * 64,
        found.body,
        2**63,
        2**63,
        "2025-11-18T02:00:00.123456Z",
        line.CHAIN_START,
    )
    assert len(text) <= line.LINE_BYTES_MAX


@pytest.mark.parametrize("item", [dict(PLAIN), OrderedDict(PLAIN), {"event": "heartbeat"}])
def test_a_longer_payload_is_refused_by_the_name_of_its_longest_field(
    item: dict[str, object],
) -> None:
    with pytest.raises(EntryTooLarge) as refusal:
        validated_item(type(item)(padded(item, 65_001)))
    assert str(refusal.value) == (
        f"padding makes the payload 65,001 bytes of JSON, more than 65,000 (got {'p' * 77}...)"
    )


def test_only_short_texts_are_cached() -> None:
    """Else four thousand of them, padded with white space, would fill the memory."""
    remembered = validation._stored_texts.cache_info().currsize
    assert stored({**PLAIN, "symbol": " " * 100_000 + "PADDED"})["symbol"] == "PADDED"
    assert validation._stored_texts.cache_info().currsize == remembered


# A line of input.

WHITE = st.sampled_from(["", "", "", " ", "\t", "\r\n "])
STRINGS = st.sampled_from(
    [
        *('"a"', '"b"', '"c"', '"\\u0061"', '""', '" a"', '"a "', '"a\\":1"', '"\\" :"', '"é"'),
        *('"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"\\x"', '"a\\\\"', '"{["', '"\\u0000"'),
        *('"\x00"', '"\n"', '"0123456789012345678901234567890"', '"open', '"\x7f"', "'a'"),
    ]
)
SCALARS = (
    st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
    | st.sampled_from(
        [
            *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "1e400"),
            *("-9223372036854775809", "18446744073709551616", "-0", "-0.0", "01", "1.", "+1"),
            *("NaN", "Infinity", "-Infinity", "true", "false", "null", "nul", "", "1e-400"),
        ]
    )
    | STRINGS
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(STRINGS, WHITE, WHITE, inner, WHITE), max_size=4))
    text = ",".join(f"{white}{key}{w1}:{w2}{value}" for key, w1, w2, value, white in pairs)
    return f"{{{text}}}"


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")


VALUES = st.recursive(SCALARS, lambda inner: objects(inner) | arrays(inner), max_leaves=6)
LINES = (
    objects(SCALARS)
    | objects(VALUES)
    | st.tuples(WHITE, VALUES, WHITE | st.just("x")).map("".join)
    | st.tuples(st.integers(1, 40), VALUES).map(
        lambda t: '{"a":' + "[" * t[0] + t[1] + "]" * t[0] + "}"
    )
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.mark.slow
@settings(max_examples=300)
@given(LINES)
@example(b'{"a" :1,"a":2}')
@example(b'{"a":{"b":1,"b":2}}')
@example(b'{"a":1,"\\u0061":2}')
@example(b'{"a":"\\":","b":1,"b":2}')
def test_the_fast_parser_and_the_strict_parser_agree(text: bytes) -> None:
    fast = outcome(lambda: repr(parse_json_line(text)))
    assert fast == outcome(lambda: repr(json_input._parse_strictly(text)))


@given(st.binary(max_size=60) | LINES.map(lambda text: text[: len(text) // 2]))
def test_any_bytes_are_parsed_or_refused_and_nothing_else_is_raised(text: bytes) -> None:
    outcome(lambda: parse_json_line(text))


@given(text=LINES, at=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_parsed_line_is_what_every_strict_reader_sees(text: bytes, at: int, byte: int) -> None:
    text = text[:at] + bytes([byte]) + text[at:]
    found = outcome(lambda: parse_json_line(text))
    if isinstance(found, dict):
        assert repr(json.loads(text)) == repr(found)
        assert repr(orjson.loads(text)) == repr(found)


def object_of(text: str) -> bytes:
    return json.dumps(dict(PLAIN))[:-1].encode() + f', "x": {text}}}'.encode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (object_of("NaN"), "x must be a finite number (got nan)"),
        (object_of("-Infinity"), "x must be a finite number (got -inf)"),
        (object_of("1e400"), "x must be a finite number (got inf)"),
        (object_of("[1, -1e400]"), "x[1] must be a finite number (got -inf)"),
        (
            object_of("18446744073709551616"),
            "x must be from -2^63 to 2^63-1 (got 18446744073709551616)",
        ),
        (object_of("9223372036854775808"), "x must be from -2^63 to 2^63-1"),
        (object_of("-9223372036854775809"), "x must be from -2^63 to 2^63-1"),
        (object_of("9" * 100_000), f"x must be from -2^63 to 2^63-1 (got {'9' * 77}...)"),
        (object_of('"\\ud800"'), "x holds half a character, U+D800 alone (got \\ud800)"),
        (object_of('{"\\udfff": 1}'), "x has a key with half a character"),
        (object_of('1, "symbol": "MSFT"'), "symbol is given twice in one object (got MSFT)"),
        (
            object_of('{"a": 1, "b": {"c": 1, "\\u0063": 2}}'),
            "c is given twice in one object (got 2)",
        ),
        (object_of('[{"a" : 1, "a" : 1}]'), "a is given twice in one object (got 1)"),
        (object_of("[" * 32 + "]" * 32), "x is nested deeper than 32"),
        (object_of("[" * 999 + "]" * 999), "x is nested deeper than 32"),
        (object_of("[" * 100_000 + "]" * 100_000), "x is nested deeper than 32"),
        (object_of('{"a":' * 30_000 + "1" + "}" * 30_000), "x is nested deeper than 32"),
        (b"[" * 100_000, "line is nested deeper than 32"),
        (b'{"a":"' + b'\\"' * 100_000 + b"[{" * 40, "line is not JSON: Unterminated string"),
        (object_of('"a\x00b"'), "line is not JSON: Invalid control character at"),
        (b"\x00", "line is not JSON: Expecting value at character 1 (got \\x00)"),
        (b'{"symbol": "\xff"}', "line is not UTF-8 at byte 13 (got {"),
        (b'{"symbol": "\xed\xa0\x80"}', "line is not UTF-8 at byte 13"),
        (b"\xef\xbb\xbf{}", "line is not JSON: Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "line is not UTF-8 at byte 1"),
        (b"", "line is not JSON: Expecting value at character 1"),
        (b"\n", "line is not JSON: Expecting value"),
        (b"{} {}", "line is not JSON: Extra data"),
        (b"{'a': 1}", "line is not JSON: Expecting property name enclosed in double quotes"),
        (b'{"a": 1,}', "line is not JSON: "),
        (b"[]", "line must be a JSON object (got [])"),
        (b"null\n", "line must be a JSON object (got null\\n)"),
        (b'"signal"', 'line must be a JSON object (got "signal")'),
        (b"17", "line must be a JSON object (got 17)"),
        (b" " * 390_001, "line is longer than 390,000 bytes"),
        (object_of("[" + "0," * 70_000 + "0]"), "x brings the payload over 65,000 values"),
    ],
)
def test_a_hostile_line_is_refused_with_the_reason(text: bytes, problem: str) -> None:
    with pytest.raises(InvalidSignal) as refusal:
        parse_json_line(text)
    assert str(refusal.value).startswith(problem)
    assert len(str(refusal.value)) < 300
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        object_of("[" * 31 + "]" * 31),
        object_of('"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["'),
        object_of("-9223372036854775808"),
        object_of('"\\ud83d\\ude80\\u0000"'),
        object_of('{"a": 1, "b": {"a": 1}}'),
        object_of("1.7976931348623157e308"),
        b'\t{ "a" :\r1 }\r\n',
    ],
)
def test_an_unusual_but_valid_json_line_is_read(text: bytes) -> None:
    assert repr(parse_json_line(text)) == repr(json.loads(text))


# Hostile text stays text (S1).


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE signals; --",
        "<script>alert(1)</script>",
        '=HYPERLINK("http://example.org")',
        "../../etc/passwd",
        '","chain":"0","sha256":"0',
        '{"v":1,"seq":9,"batch":9,',
        "\u202eevil\u2066",
    ],
)
def test_hostile_text_is_stored_as_it_is(text: str) -> None:
    item = {**PLAIN, "strategy": text, "reasoning": text + "\x1b[2J\x00\n", text: {text: text}}
    for each in each_way(item):
        found = stored(each)
        assert (found["strategy"], found["reasoning"]) == (text, text + "\x1b[2J\x00\n")
        assert found[text] == {text: text}
        assert b"\n" not in validated_item(each).body


@given(
    name=st.text(alphabet=st.characters(), min_size=1),
    value=st.text(alphabet="\x1b\x00\r\n[2J\u202e"),
)
def test_a_refusal_shows_no_control_characters(name: str, value: str) -> None:
    """A message is printed on a terminal."""
    for item in ({**PLAIN, "symbol": value}, {**PLAIN, name: float("nan")}, {"event": value}):
        found = outcome(partial(validated_item, item))
        if isinstance(found, Refused):
            assert found.message.isprintable()


def test_a_datetime_is_a_timestamp_and_nothing_else() -> None:
    moment = datetime(2025, 11, 18, 2, tzinfo=UTC)
    assert stored({**PLAIN, "timestamp": moment})["timestamp"] == PLAIN["timestamp"]
    with pytest.raises(
        InvalidSignal, match=r"^when is of type datetime\.datetime, which is not JSON"
    ):
        validated_item({**PLAIN, "when": moment})
