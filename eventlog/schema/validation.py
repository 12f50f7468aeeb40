"""Validation: turns each item to append into the body of a line, or refuses it.

`validate` takes a mapping or a Signal. Fast paths handle common, well-formed signals and facts; the
full rules handle everything else.

Invariant: the fast path accepts only what the full rules accept, and gives the same bytes. A
refusal is an InvalidSignal that names field, problem and value, raised before anything is written.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256 as _sha256
from math import inf
from typing import NamedTuple

import orjson

from eventlog.errors import EntryTooLarge, InvalidSignal
from eventlog.format.line import PAYLOAD_BYTES_MAX
from eventlog.schema import facts, fields, times
from eventlog.schema.fields import FRACTION_MAX, PERCENT_MAX
from eventlog.schema.item_warnings import NO_WARNINGS, ItemWarning, signal_warnings, warning
from eventlog.schema.json_values import plain_json
from eventlog.schema.signal import (
    ASSET_TYPE_DEFAULT,
    DATA_SOURCE_DEFAULT,
    FIELD_RULES,
    RESERVED_FIELDS,
    Signal,
    canonical_form,
    content_sha256,
    is_complete_signal,
)

TEXTS_CACHED_MAX = (
    4_096  # a generator repeats its symbols and names; bounded, as some make new ones
)


class ValidatedItem(NamedTuple):
    """An item that may be written. A NamedTuple: one is made for each append."""

    event: str
    signal_id: str | None  # None only for an unknown event that has none
    body: bytes  # the payload's JSON text without its braces, keys in the order on disk
    sha256: str | None  # None for a fact
    timestamp_given: bool  # False: a retry may bring any timestamp. True for a fact
    timestamp: str = ""  # of a signal, in stored form; it is compared with the clock
    warnings: tuple[ItemWarning, ...] = NO_WARNINGS


def validate(
    item: Mapping[str, object] | Signal,
    *,
    now: Callable[[], str],
    new_id: Callable[[], str],
) -> ValidatedItem:
    """The body of the entry that `item` becomes. Raises InvalidSignal.

    `now` gives a timestamp in stored form and `new_id` a signal_id; each is called only where the
    item has none.
    """
    if type(item) is dict:
        event = item.get("event", facts.SIGNAL)
        if type(event) is str:
            validated = None
            if event == facts.SIGNAL:
                validated = _validate_fast(item, now, new_id)
            elif event in facts.FACTS:
                validated = _validate_fact_fast(event, item)
            if validated is not None:
                return validated
    return _validate_fully(item, now, new_id)


def _validate_fully(
    item: object, now: Callable[[], str], new_id: Callable[[], str]
) -> ValidatedItem:
    """Validates by the full rules."""
    if isinstance(item, Signal):
        return _validate_signal(item, now, new_id)
    if not isinstance(item, Mapping):
        raise InvalidSignal("must be a mapping or a Signal", field="item", value=item)
    event = facts.event_name(item.get("event", "signal"))
    if event == "signal":
        return _validate_signal(Signal.from_mapping(item), now, new_id)
    payload = facts.payload(event, item)
    signal_id = payload.get("signal_id")
    assert signal_id is None or isinstance(signal_id, str)  # its rule gives text
    warnings = NO_WARNINGS
    if event not in facts.FACTS and is_complete_signal(item):
        problem = "is no known event: the item is stored as it is, and is no signal"
        warnings = (warning("event", problem, event),)
    body = _check_size(facts.body(payload), payload)
    return ValidatedItem(event, signal_id, body, None, True, "", warnings)


def _validate_signal(
    signal: Signal, now: Callable[[], str], new_id: Callable[[], str]
) -> ValidatedItem:
    payload = signal.payload()
    signal_id, sha256 = signal.signal_id, signal.sha256
    timestamp_given = signal.timestamp is not None
    if sha256 is None:
        payload["signal_id"] = signal_id = signal_id or new_id()
        payload["timestamp"] = signal.timestamp or now()
        payload = {key: payload[key] for key in (*FIELD_RULES, *signal.extra)}
        payload["sha256"] = sha256 = content_sha256(payload)
    body = _check_size(orjson.dumps(payload)[1:-1], payload)
    warnings = signal_warnings(
        signal.symbol, signal.action, signal.entry_price, signal.target_price, signal.stop_price
    )
    timestamp = str(payload["timestamp"])
    return ValidatedItem("signal", signal_id, body, sha256, timestamp_given, timestamp, warnings)


def _validate_fast(
    item: dict[str, object], now: Callable[[], str], new_id: Callable[[], str]
) -> ValidatedItem | None:
    """The fast path, for a signal without its own sha256. None where the full rules must decide."""
    try:
        symbol, action, strategy, asset_type, data_source = _stored_texts(
            item.get("symbol"),
            item.get("action"),
            item.get("strategy"),
            item.get("asset_type", ASSET_TYPE_DEFAULT),
            item.get("data_source", DATA_SOURCE_DEFAULT),
        )
        entry, target, stop, confidence = _stored_numbers(item)
        signal_id, timestamp, extra = (
            item.get("signal_id"),
            item.get("timestamp"),
            _extra_fields(item),
        )
        if type(timestamp) is not str or not times.is_stored_timestamp(timestamp):
            timestamp = times.timestamp("timestamp", timestamp) if "timestamp" in item else None
        if type(signal_id) is not str or not fields.is_signal_id(signal_id):
            signal_id = fields.signal_id("signal_id", signal_id) if "signal_id" in item else None
    except (InvalidSignal, TypeError):  # TypeError: a list as a symbol cannot be looked up
        return None
    if extra is None:
        return None
    timestamp_given = timestamp is not None
    if timestamp is None:
        timestamp = now()
    if signal_id is None:
        signal_id = new_id()
    text = canonical_form(
        signal_id, symbol, action, entry, target, stop, confidence, strategy, timestamp
    )
    sha256 = _sha256(text.encode()).hexdigest()
    payload = {
        "signal_id": signal_id,
        "symbol": symbol,
        "action": action,
        "entry_price": entry,
        "target_price": target,
        "stop_price": stop,
        "confidence": confidence,
        "strategy": strategy,
        "asset_type": asset_type,
        "data_source": data_source,
        "timestamp": timestamp,
        **extra,
        "sha256": sha256,
    }
    body = _check_size(orjson.dumps(payload)[1:-1], payload)
    warnings = NO_WARNINGS
    if not symbol.isascii() or not (
        stop <= entry <= target if action == "BUY" else target <= entry <= stop
    ):
        warnings = signal_warnings(symbol, action, entry, target, stop)
    return ValidatedItem("signal", signal_id, body, sha256, timestamp_given, timestamp, warnings)


def _validate_fact_fast(event: str, item: dict[str, object]) -> ValidatedItem | None:
    """The fast path for a fact. None where the full rules must decide."""
    body = facts.fast_body(event, item)
    if body is None or len(body) + 2 > PAYLOAD_BYTES_MAX:
        return None
    return ValidatedItem(event, str(item["signal_id"]), body, None, True)


def _stored_numbers(item: dict[str, object]) -> tuple[float, float, float, float]:
    """Entry, target and stop price and the confidence, in stored form. Raises InvalidSignal."""
    get = item.get
    entry, target, stop = get("entry_price"), get("target_price"), get("stop_price")
    confidence = get("confidence")
    if not (
        type(entry) is type(target) is type(stop) is float
        and 0.0 < entry < inf
        and 0.0 < target < inf
        and 0.0 < stop < inf
    ):
        entry = fields.price("entry_price", entry)
        target = fields.price("target_price", target)
        stop = fields.price("stop_price", stop)
    if type(confidence) is not float or not FRACTION_MAX < confidence <= PERCENT_MAX:
        confidence = fields.confidence("confidence", confidence)
    return entry, target, stop, confidence


@lru_cache(maxsize=TEXTS_CACHED_MAX, typed=True)  # typed: a value of another type may equal a text
def _stored_texts(
    symbol: object, action: object, strategy: object, asset_type: object, data_source: object
) -> tuple[str, str, str, str, str]:
    """The five texts that generators repeat, in stored form. Raises InvalidSignal."""
    if isinstance(symbol, str) and len(symbol) > fields.NAME_CHARS_MAX:
        raise InvalidSignal("is too long for the cache", field="symbol")
    return (
        fields.symbol("symbol", symbol),
        fields.action("action", action),
        fields.name("strategy", strategy),
        fields.label("asset_type", asset_type),
        fields.label("data_source", data_source),
    )


def _extra_fields(item: dict[str, object]) -> dict[str, object] | None:
    """The keys of a signal that have no rule. None where the full rules must check one."""
    extra: dict[str, object] = {}
    for key, value in item.items():
        if key in FIELD_RULES:
            continue
        if key in RESERVED_FIELDS or type(key) is not str:
            if key == "event" and type(value) is str and value == "signal":
                continue
            return None
        if type(value) is str and value.isascii() and key.isascii():
            extra[key] = value
        else:
            extra[key] = plain_json({key: value})[key]
    return extra


def _check_size(body: bytes, payload: Mapping[str, object]) -> bytes:
    """Returns `body`. Raises EntryTooLarge where its line would be too long."""
    if len(body) + 2 <= PAYLOAD_BYTES_MAX:
        return body
    sizes = {key: len(orjson.dumps(value)) for key, value in payload.items()}
    longest = max(sizes, key=sizes.__getitem__)
    raise EntryTooLarge(
        f"makes the payload {len(body) + 2:,} bytes of JSON, more than {PAYLOAD_BYTES_MAX:,}",
        field=longest,
        value=payload[longest],
    )
