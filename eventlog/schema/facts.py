"""Facts about a signal: executed, skipped, expired, cancelled, closed, and other events.

Validation checks the required keys and the types of these five. Another event needs only a name;
further keys are kept unchanged.

Invariant: equal facts have equal bodies. Known numbers are floats, times are in stored form and
keys are sorted, because a retry is recognised by the bytes of the body.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from eventlog.errors import InvalidSignal
from eventlog.format.line import RESERVED_KEYS
from eventlog.schema import fields, times
from eventlog.schema.json_values import plain_json
from eventlog.schema.signal import text_key


class FactKey(NamedTuple):
    """The rule for a key of a fact."""

    rule: fields.FieldRule
    required: bool = False


FACT_KEYS: Mapping[str, Mapping[str, FactKey]] = {
    "executed": {
        "order_id": FactKey(fields.order_id, required=True),
        "fill_price": FactKey(fields.price),
        "executed_at": FactKey(times.timestamp),
    },
    "skipped": {"reason": FactKey(fields.reason, required=True)},
    "expired": {"reason": FactKey(fields.reason)},
    "cancelled": {"reason": FactKey(fields.reason)},
    "closed": {
        "exit_price": FactKey(fields.price, required=True),
        "outcome": FactKey(fields.outcome),
        "profit_loss_pct": FactKey(fields.number),
        "closed_at": FactKey(times.timestamp),
    },
}

_EVENT_PATTERN = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_SIGNAL_ID = FactKey(fields.signal_id, required=True)
_SIGNAL_ID_OPTIONAL = FactKey(fields.signal_id)


def event_name(event: object) -> str:
    """The validated name of an event. Raises InvalidSignal."""
    if not isinstance(event, str):
        raise InvalidSignal("must be text", field="event", value=event)
    if _EVENT_PATTERN.fullmatch(event) is None:
        raise InvalidSignal(
            "must be 1 to 64 of a-z 0-9 _ . - and start with a letter", field="event", value=event
        )
    return str.__str__(event)


def payload(event: str, item: Mapping[str, object]) -> dict[str, object]:
    """The payload of a fact, normalised, without "event". Raises InvalidSignal."""
    given = {text_key(key): value for key, value in item.items()}
    given.pop("event", None)
    for key, value in given.items():
        if key in RESERVED_KEYS:
            raise InvalidSignal("is reserved for the log", field=key, value=value)
    stored: dict[str, object] = {}
    for key, (rule, required) in _key_rules(event).items():
        if key in given:
            stored[key] = rule(key, given.pop(key))
        elif required:
            raise InvalidSignal("is missing", field=key)
    return {**stored, **plain_json(given)}


def body(payload: Mapping[str, object]) -> bytes:
    """The JSON text of a payload without its braces: signal_id first, the other keys sorted."""
    rest = dict(payload)
    first = {"signal_id": rest.pop("signal_id")} if "signal_id" in rest else {}
    parts = (orjson.dumps(first), orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))
    return b",".join(part[1:-1] for part in parts if part != b"{}")


def _key_rules(event: str) -> dict[str, FactKey]:
    keys = FACT_KEYS.get(event)
    if keys is None:
        return {"signal_id": _SIGNAL_ID_OPTIONAL}
    return {"signal_id": _SIGNAL_ID, **keys}
