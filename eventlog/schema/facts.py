"""Facts about a signal: what happened to it, and corrections of that; and other events.

Validation checks the required keys and the types of the facts in FACTS. Another event needs
only a name, which must not look like a known one; further keys are kept unchanged.

Invariant: equal facts have equal bodies. Known numbers are floats, times are in stored form and
keys are sorted, because a retry is recognised by the bytes of the body.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import orjson

from eventlog.errors import InvalidSignal
from eventlog.format.line import RESERVED_KEYS
from eventlog.format.promotion import PROMOTED
from eventlog.schema import fields, times
from eventlog.schema.json_values import plain_json
from eventlog.schema.signal import is_complete_signal, text_key


class FactKey(NamedTuple):
    """The rule for a key of a fact."""

    rule: fields.FieldRule
    required: bool = False


SIGNAL = "signal"  # the event of a signal


class Fact(NamedTuple):
    """A fact: what it means, which columns of the table `signals` it changes, and its keys."""

    meaning: str
    changes: tuple[str, ...]
    keys: Mapping[str, FactKey]


FACTS: Mapping[str, Fact] = {
    "executed": Fact(
        "an order was sent",
        ("order_id",),
        {
            "order_id": FactKey(fields.order_id, required=True),
            "fill_price": FactKey(fields.number),
            "executed_at": FactKey(times.timestamp),
        },
    ),
    "skipped": Fact("decided not to trade it", (), {"reason": FactKey(fields.reason, True)}),
    "expired": Fact("its time ran out unused", (), {"reason": FactKey(fields.reason)}),
    "cancelled": Fact("withdrawn", (), {"reason": FactKey(fields.reason)}),
    "reduced": Fact(
        "a part of the position was closed",
        ("exit_price", "profit_loss_pct"),
        {
            "part": FactKey(fields.ordinal, required=True),
            "exit_price": FactKey(fields.number, required=True),
            # That the fractions of a signal stay below 1 is not known here: the projection decides.
            "fraction": FactKey(fields.fraction, required=True),
            "closed_at": FactKey(times.timestamp),
        },
    ),
    "closed": Fact(
        "the position, or the rest of it, was closed",
        ("outcome", "exit_price", "profit_loss_pct"),
        {
            "exit_price": FactKey(fields.number, required=True),
            "outcome": FactKey(fields.outcome),
            "profit_loss_pct": FactKey(fields.number),
            "closed_at": FactKey(times.timestamp),
        },
    ),
    "voided": Fact(
        "the last fact, whose seq is `voids`, was wrong",
        ("order_id", "outcome", "exit_price", "profit_loss_pct"),
        {
            "voids": FactKey(fields.ordinal, required=True),
            "reason": FactKey(fields.reason),
        },
    ),
}
KNOWN_EVENTS = (SIGNAL, *FACTS)
# Names that are more than one letter away from the event that they mean, or would pass as words.
NEAR_MISSES: Mapping[str, str] = {
    "close": "closed",
    "cancel": "cancelled",
    "canceled": "cancelled",
    "skip": "skipped",
    "expire": "expired",
    "execute": "executed",
    "void": "voided",
    "reduce": "reduced",
}
ACTION_WORDS = frozenset({"buy", "sell", "long", "short"})  # no event of a complete signal
RESERVED_EVENTS = frozenset({PROMOTED})  # the log itself writes it

_EVENTS_CACHED_MAX = 1_024  # a program uses few names; bounded, as some make new ones
EVENT_PATTERN = r"[a-z][a-z0-9_.-]{0,63}"
_REQUIRED_KEYS: Mapping[str, frozenset[str]] = {
    event: frozenset(key for key, (_, required) in fact.keys.items() if required)
    for event, fact in FACTS.items()
}
_SCALARS = (int, float, bool, str, type(None))
_SIGNAL_ID = FactKey(fields.signal_id, required=True)
_SIGNAL_ID_OPTIONAL = FactKey(fields.signal_id)


def event_name(event: object) -> str:
    """The validated name of an event. Raises InvalidSignal."""
    if type(event) is str and event in KNOWN_EVENTS:
        return event
    if not isinstance(event, str):
        raise InvalidSignal("must be text", field="event", value=event)
    if re.fullmatch(EVENT_PATTERN, event) is None:
        lower = event.strip().lower()
        raise InvalidSignal(
            "must be 1 to 64 of a-z 0-9 _ . - and start with a letter",
            field="event",
            value=event,
            do=f"did you mean {lower}?" if lower in KNOWN_EVENTS else "",
        )
    plain = str.__str__(event)
    if plain in RESERVED_EVENTS:
        raise InvalidSignal("is reserved for the log", field="event", value=event)
    meant = _meant_event(plain)
    if meant is not None:
        raise InvalidSignal(
            f"is no known event; did you mean {meant}?",
            field="event",
            value=event,
            do="use that name, or one that is not so close to it",
        )
    return plain


def payload(event: str, item: Mapping[str, object]) -> dict[str, object]:
    """The payload of a fact, normalised, without "event". Raises InvalidSignal."""
    if event in ACTION_WORDS and is_complete_signal(item):
        raise InvalidSignal(
            "is no event of a signal; leave it out",
            field="event",
            value=event,
            do="a complete signal has its action in `action`, and needs no event",
        )
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


def fast_body(event: str, item: dict[str, object]) -> bytes | None:
    """The body of a common, well-formed fact; None where the full rules must decide.

    Accepts only what `payload` accepts, and returns what `body` returns for it.
    """
    rules = FACTS[event].keys
    signal_id = item.get("signal_id")
    if type(signal_id) is not str or not fields.is_signal_id(signal_id):
        return None
    stored: dict[str, object] = {"signal_id": signal_id}
    try:
        for key in sorted(item):
            if key == "signal_id" or key == "event":
                continue
            value, rule = item[key], rules.get(key)
            if type(key) is not str or not key.isascii() or key in RESERVED_KEYS:
                return None
            if rule is None:
                if type(value) is not str or not value.isascii():
                    if type(value) not in _SCALARS:
                        return None
                    plain_json({key: value})
                stored[key] = value
            elif (
                type(value) is str
                and rule.rule is times.timestamp
                and times.is_stored_timestamp(value)
            ):
                stored[key] = value
            else:
                stored[key] = rule.rule(key, value)
    except (InvalidSignal, TypeError):  # TypeError: keys that cannot be compared
        return None
    if not stored.keys() >= _REQUIRED_KEYS[event]:
        return None
    return orjson.dumps(stored)[1:-1]


def body(payload: Mapping[str, object]) -> bytes:
    """The JSON text of a payload without its braces: signal_id first, the other keys sorted."""
    rest = dict(payload)
    first = {"signal_id": rest.pop("signal_id")} if "signal_id" in rest else {}
    parts = (orjson.dumps(first), orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))
    return b",".join(part[1:-1] for part in parts if part != b"{}")


@lru_cache(maxsize=_EVENTS_CACHED_MAX)
def _meant_event(event: str) -> str | None:
    """The known event that an unknown name is nearly; None for a known one or another name."""
    if event in KNOWN_EVENTS:
        return None
    near = (known for known in KNOWN_EVENTS if _is_one_letter_away(event, known))
    return NEAR_MISSES.get(event) or next(near, None)


def _is_one_letter_away(one: str, other: str) -> bool:
    """Whether the two differ by one letter more, less or other, or by two that are swapped."""
    if abs(len(one) - len(other)) > 1:
        return False
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])


def _key_rules(event: str) -> dict[str, FactKey]:
    fact = FACTS.get(event)
    if fact is None:
        return {"signal_id": _SIGNAL_ID_OPTIONAL}
    return {"signal_id": _SIGNAL_ID, **fact.keys}
