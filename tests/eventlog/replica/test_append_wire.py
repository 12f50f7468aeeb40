"""Requests to append and their replies: what the server gets is what the caller gave."""

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest

from eventlog import (
    EntryTooLarge,
    EventLogError,
    HashMismatch,
    InvalidSignal,
    LogCorrupt,
    Receipt,
    Signal,
    SignalConflict,
    errors,
)
from eventlog.replica.append_wire import (
    BadReply,
    Reply,
    decode_reply,
    encode_item,
    encode_reply,
)
from eventlog.schema.json_input import parse_json_line
from eventlog.schema.validation import ValidatedItem, validate
from tests.harness.signals import a_signal, closed

NOW = "2026-01-02T03:04:05Z"


def validated(item: Any, new_id: str = "new-1") -> ValidatedItem:
    return validate(item, now=lambda: NOW, new_id=lambda: new_id)


ITEMS: list[Any] = [
    a_signal(),
    a_signal(timestamp=None),
    a_signal(signal_id=None),
    a_signal(timestamp=datetime(2026, 1, 1, tzinfo=UTC), entry_price=Decimal("1.50")),
    a_signal(note="ünïcödé \u2028", nested={"a": [1, None, 2.5]}, big=2**62),
    a_signal(stop_price=900.0),  # a warning
    {"sha256": validated(a_signal()).sha256, **orjson.loads(b"{%b}" % validated(a_signal()).body)},
    Signal(**a_signal()),
    closed(),
    closed(outcome="win", note="x"),
    {"event": "rebalanced"},
    {"event": "rebalanced", "signal_id": "s-1", "items": [1]},
    {**a_signal(), "event": "order"},  # a warning
]


@pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
def test_the_server_validates_what_the_caller_gave(item: Any) -> None:
    sent = validated(item)
    assert validated(parse_json_line(encode_item(sent)), new_id="new-2") == sent


def an_error(kind: type[EventLogError]) -> EventLogError:
    if issubclass(kind, InvalidSignal):
        return kind("is wrong", field="symbol", value="x\n", do="give another one")
    if kind is SignalConflict:
        return kind("is taken", signal_id="s-1", where="entry 1", do="use a new one")
    if kind is LogCorrupt:
        return kind("is damaged", segment="1.jsonl", byte_offset=7, seq=2)
    return kind("what", where="where", do="do")


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EventLogError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_of_each_class_arrives_as_it_was_raised(kind: type[EventLogError]) -> None:
    given = an_error(kind)
    for reply in (Reply(3, (), given), Reply(3, (given,))):
        decoded = decode_reply(encode_reply(reply))
        found = decoded.error or decoded.results[0]
        assert type(found) is kind
        assert str(found) == str(given)
        assert vars(found) == vars(given)
        assert str(pickle.loads(pickle.dumps(found))) == str(given)
        assert decoded.epoch == 3


def test_the_list_of_errors_has_those_with_attributes() -> None:
    assert {HashMismatch, EntryTooLarge, SignalConflict, LogCorrupt} <= set(ERRORS)


def test_a_receipt_arrives_as_it_was_given() -> None:
    warnings = ({"field": "symbol", "warning": "symbol looks wrong"},)
    receipts = (
        Receipt(1, "s-1", "a" * 64, "b" * 64, NOW, False),
        Receipt(2, None, None, "b" * 64, NOW, True, warnings),  # type: ignore[arg-type]
    )
    assert decode_reply(encode_reply(Reply(1, receipts))) == Reply(1, receipts)


def test_an_error_of_an_unknown_class_keeps_its_words() -> None:
    error = {"type": "FromAnotherVersion", "what": "a", "where": "b", "do": "c"}
    found = decode_reply(orjson.dumps({"epoch": 1, "error": error})).error
    assert type(found) is EventLogError
    assert str(found) == "a (b); c"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"epoch":"1","results":[]}',
        b'{"epoch":1,"results":[{}]}',
        b'{"epoch":1,"results":[1]}',
        b'{"epoch":1,"error":"x"}',
        b'{"epoch":1,"error":{"type":"LogCorrupt"}}',
        b'{"epoch":1,"results":[{"seq":"1","signal_id":null,"sha256":null,"chain":"","recorded_at"'
        b':"","duplicate":false}]}',
    ],
)
def test_a_reply_that_cannot_be_understood_is_no_receipt(data: bytes) -> None:
    with pytest.raises(BadReply, match="cannot be understood"):
        decode_reply(data)
