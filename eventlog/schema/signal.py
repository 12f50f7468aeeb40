"""Signal: the caller's trading decision, validated and frozen, and its content hash.

`sha256` is the SHA-256 of nine fields as Python's standard json writes them with sorted keys.
Alpine recomputes it. It is not the log's chain.

Invariant: a Signal is in stored form. `Signal.from_mapping(signal.payload()) == signal`, and
`sha256`, where there is one, is that of its nine fields.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256 as _sha256
from json.encoder import encode_basestring_ascii as _json_string
from math import isfinite
from typing import Any, Self

import orjson

from eventlog.errors import HashMismatch, InvalidSignal, printable_value
from eventlog.format.line import RESERVED_KEYS
from eventlog.schema import fields, times
from eventlog.schema.json_values import plain_json

# The fields in their order on disk, each with its rule.
FIELD_RULES: Mapping[str, fields.FieldRule] = {
    "signal_id": fields.signal_id,
    "symbol": fields.symbol,
    "action": fields.action,
    "entry_price": fields.price,
    "target_price": fields.price,
    "stop_price": fields.price,
    "confidence": fields.confidence,
    "strategy": fields.name,
    "asset_type": fields.label,
    "data_source": fields.label,
    "timestamp": times.timestamp,
}
ASSET_TYPE_DEFAULT = "unknown"
DATA_SOURCE_DEFAULT = "weighted_consensus"
ALIASES = {"take_profit": "target_price", "stop_loss": "stop_price"}
PRICE_FIELDS = ("entry_price", "target_price", "stop_price")
REQUIRED_FIELDS = ("symbol", "action", *PRICE_FIELDS, "confidence", "strategy")
HASHED_FIELDS = (*REQUIRED_FIELDS, "signal_id", "timestamp")  # the nine of the content hash
# What a field that may be left out becomes, in words.
DEFAULTS: Mapping[str, str] = {
    "signal_id": "a UUIDv7",
    "asset_type": f"`{ASSET_TYPE_DEFAULT}`",
    "data_source": f"`{DATA_SOURCE_DEFAULT}`",
    "timestamp": "the time of the append",
}
RESERVED_FIELDS = RESERVED_KEYS.union(FIELD_RULES, ALIASES, {"sha256"})

_DEFAULTED_FIELDS = ("signal_id", "timestamp")  # the log fills these in where the caller gives none


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One trading decision, normalised and validated.

    A signal without a `signal_id` gets one when it is appended, and then it cannot be retried
    idempotently: after a timeout, a retry cannot be distinguished from a second, equal decision.
    Prices are in the currency of the symbol, `confidence` is in percent. `timestamp`, the time of
    the decision, is UTC text once stored; it defaults to the time of the append. A caller that has
    the stored form may give `sha256`, which is then checked.

    Raises InvalidSignal, naming field, problem and value; HashMismatch.
    """

    symbol: str
    action: str
    entry_price: float
    target_price: float
    stop_price: float
    confidence: float
    strategy: str
    signal_id: str | None = None
    asset_type: str = ASSET_TYPE_DEFAULT
    data_source: str = DATA_SOURCE_DEFAULT
    timestamp: str | datetime | None = None
    sha256: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)  # any further JSON keys

    def __post_init__(self) -> None:
        given = {key: getattr(self, key) for key in FIELD_RULES}
        stored = {
            key: rule(key, given[key])
            for key, rule in FIELD_RULES.items()
            if given[key] is not None or key not in _DEFAULTED_FIELDS
        }
        extra = _plain_extra(self.extra)
        sha256 = None
        if self.sha256 is not None:
            sha256 = fields.sha256_hex("sha256", self.sha256)
            _check_sha256(sha256, given, stored)
        elif len(stored) == len(FIELD_RULES):
            sha256 = content_sha256(stored)
        for key, value in (*stored.items(), ("sha256", sha256), ("extra", extra)):
            object.__setattr__(self, key, value)

    @classmethod
    def from_mapping(cls, fields: Mapping[str, object]) -> Self:
        """The signal in a dict of fields, aliases and further keys. Raises InvalidSignal."""
        named: dict[str, object] = {}
        extra: dict[str, object] = {}
        for key, value in fields.items():
            text = text_key(key)
            stored_name = ALIASES.get(text, text)
            if stored_name not in FIELD_RULES and stored_name != "sha256":
                extra[text] = value
            elif stored_name in named:
                raise InvalidSignal(
                    "is given under both of its names", field=stored_name, value=value
                )
            elif value is None:
                problem = (
                    "must not be" if stored_name in REQUIRED_FIELDS else "may be left out, but not"
                )
                raise InvalidSignal(f"{problem} null", field=text)
            else:
                named[stored_name] = value
        event = extra.get("event")
        if isinstance(event, str) and event == "signal":
            del extra["event"]
        for key in REQUIRED_FIELDS:
            if key not in named:
                raise InvalidSignal("is missing", field=key)
        if "sha256" in named:
            _refuse_aliases(fields)
        return cls(**named, extra=extra)  # type: ignore[arg-type]  # __post_init__ checks each

    def payload(self) -> dict[str, object]:
        """The payload as the log stores it, in the order on disk, without keys not known yet.

        Raises InvalidSignal if `extra`, a mutable dict, was changed to hold what breaks a line.
        """
        payload = {key: getattr(self, key) for key in FIELD_RULES}
        for key in _DEFAULTED_FIELDS:
            if payload[key] is None:
                del payload[key]
        payload.update(_plain_extra(self.extra))
        if self.sha256 is not None:
            payload["sha256"] = self.sha256
        return payload


def canonical(stored: Mapping[str, object]) -> str:
    """The text that is hashed: `json.dumps` of the nine fields with sorted keys, to the byte.

    Raises KeyError where one of the nine is not there.
    """
    nine: dict[str, Any] = {key: stored[key] for key in HASHED_FIELDS}
    symbol, action, entry, target, stop, confidence, strategy, signal_id, timestamp = nine.values()
    if (
        type(entry) is type(target) is type(stop) is type(confidence) is float
        and type(symbol) is type(action) is type(strategy) is str
        and type(signal_id) is type(timestamp) is str
        # A sum is finite only where each part is; `repr` and json differ on infinity.
        and isfinite(entry + target + stop + confidence)
    ):
        return canonical_form(
            signal_id, symbol, action, entry, target, stop, confidence, strategy, timestamp
        )
    return json.dumps(nine, sort_keys=True)


def canonical_form(
    signal_id: str,
    symbol: str,
    action: str,
    entry_price: float,
    target_price: float,
    stop_price: float,
    confidence: float,
    strategy: str,
    timestamp: str,
) -> str:
    """The canonical form for exact types and finite numbers, three times as fast as json.dumps."""
    return (
        f'{{"action": {_json_string(action)}, "confidence": {confidence!r}'
        f', "entry_price": {entry_price!r}, "signal_id": {_json_string(signal_id)}'
        f', "stop_price": {stop_price!r}, "strategy": {_json_string(strategy)}'
        f', "symbol": {_json_string(symbol)}, "target_price": {target_price!r}'
        f', "timestamp": {_json_string(timestamp)}}}'
    )


def content_sha256(stored: Mapping[str, object]) -> str:
    """SHA-256, in hex, of the canonical form. Raises KeyError where one of the nine is missing."""
    return _sha256(canonical(stored).encode()).hexdigest()


def is_complete_signal(item: Mapping[str, object]) -> bool:
    """Whether an item has every required field of a signal, under either of its names."""
    names = {ALIASES.get(key, key) for key in item}
    return names.issuperset(REQUIRED_FIELDS)


def text_key(key: object) -> str:
    """A key of an item as plain text. Raises InvalidSignal where it is not text."""
    if not isinstance(key, str):
        raise InvalidSignal("must be text", field="key", value=key)
    return str.__str__(key)


def _plain_extra(extra: object) -> dict[str, object]:
    """A deep copy of the extra keys of a signal, in which values are JSON and tuples are lists.

    Refuses keys that are reserved, and values that JSON does not have.
    """
    if not isinstance(extra, Mapping):
        raise InvalidSignal("must be a mapping", field="extra", value=extra)
    for key in extra:
        if key in ALIASES:
            raise InvalidSignal(f"is another name of {ALIASES[key]}", field=key, value=extra[key])
        if key in RESERVED_KEYS:
            raise InvalidSignal("is reserved for the log", field=key, value=extra[key])
        if key in RESERVED_FIELDS:
            raise InvalidSignal("is a field, not an extra", field=key, value=extra[key])
    if not extra:
        return {}
    copy: dict[str, object] = orjson.loads(orjson.dumps(dict(plain_json(extra))))
    return copy


def _check_sha256(
    sha256: str, given: Mapping[str, object], stored: Mapping[str, str | float]
) -> None:
    """Refuses a hash that is not that of the fields in stored form."""
    for key in _DEFAULTED_FIELDS:
        if key not in stored:
            raise InvalidSignal(
                "is missing: a signal with its own sha256 must include it", field=key
            )
    for key, value in stored.items():
        if not _is_stored_form(given[key], value):
            raise _not_stored_form(key, given[key], value)
    computed = content_sha256(stored)
    if computed != sha256:
        raise HashMismatch(
            f"is not that of the nine fields, {computed}",
            field="sha256",
            value=sha256,
            do="leave sha256 out, or give the fields that were hashed",
        )


def _is_stored_form(given: object, stored: str | float) -> bool:
    # 150 == 150.0 and -0.0 == 0.0, but their texts, and so their hashes, differ.
    if isinstance(stored, float):
        return isinstance(given, float) and repr(float(given)) == repr(stored)
    return given == stored


def _not_stored_form(key: str, given: object, stored: object) -> InvalidSignal:
    return InvalidSignal(
        f"is not in stored form, which is {printable_value(stored)}",
        field=key,
        value=given,
        do="give the stored form, or leave sha256 out",
    )


def _refuse_aliases(given: Mapping[str, object]) -> None:
    """Refuses aliases beside a sha256, which is computed over the stored names."""
    for alias, key in ALIASES.items():
        if alias in given:
            raise InvalidSignal(
                f"is stored as {key}; a signal with its own sha256 must use that name",
                field=alias,
                value=given[alias],
            )
