"""JSON Schema (2020-12) of the items that `append` accepts, generated from the tables of rules.

Invariant: a schema accepts each JSON object that validation accepts, and refuses what validation
refuses as far as JSON Schema can state the rule. `NOT_STATED` lists the rest.
"""

from collections.abc import Iterator, Mapping

from eventlog.format.line import RESERVED_KEYS
from eventlog.schema import fields
from eventlog.schema.facts import (
    ACTION_WORDS,
    EVENT_PATTERN,
    FACTS,
    KNOWN_EVENTS,
    NEAR_MISSES,
    RESERVED_EVENTS,
    SIGNAL,
)
from eventlog.schema.signal import (
    ALIASES,
    ASSET_TYPE_DEFAULT,
    DATA_SOURCE_DEFAULT,
    FIELD_RULES,
    REQUIRED_FIELDS,
)
from eventlog.schema.times import STORED_TIMESTAMP_PATTERN

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOT_STATED = (
    "This schema cannot state that the bytes are UTF-8 without duplicate keys, how deep and how "
    "large an item may be, which integers a float preserves, that integers of further keys are "
    "from -2^63 to 2^63-1, which days a month has, each unprintable character, the length of a "
    "symbol once it is upper-cased, and that a given sha256 is that of the item in stored form."
)

_ALLOWED_LETTERS = r"[a-z0-9_.-]"

Schema = dict[str, object]


def signal_schema() -> Schema:
    """The schema of a signal."""
    properties = _properties(FIELD_RULES)
    for key, default in (("asset_type", ASSET_TYPE_DEFAULT), ("data_source", DATA_SOURCE_DEFAULT)):
        properties[key] = {**properties[key], "default": default}
    for alias, key in ALIASES.items():
        properties[alias] = _rule_schema(FIELD_RULES[key])
    return {
        "$schema": DIALECT,
        "title": "signal",
        "description": f"A trading decision, as `eventlog append` accepts it. {NOT_STATED}",
        "type": "object",
        "properties": {
            "event": {"const": SIGNAL},
            **properties,
            "sha256": _rule_schema(fields.sha256_hex),
            **_reserved(),
        },
        **_required_of_signal(),
        # A signal that brings its own hash is in stored form.
        "dependentSchemas": {
            "sha256": {
                "properties": {
                    **dict.fromkeys(ALIASES, False),
                    "action": {"enum": list(fields.ACTIONS)},
                    "timestamp": {"pattern": STORED_TIMESTAMP_PATTERN},
                },
                "required": ["signal_id", "timestamp"],
            }
        },
    }


def fact_schema() -> Schema:
    """The schema of a fact, and of any other event."""
    near = "|".join(near for known in KNOWN_EVENTS for near in _patterns_one_letter_away(known))
    refused = sorted({SIGNAL, *NEAR_MISSES, *RESERVED_EVENTS})
    return {
        "$schema": DIALECT,
        "title": "fact",
        "description": f"An event of a signal, as `eventlog append` accepts it. {NOT_STATED}",
        "type": "object",
        "properties": {
            "event": {
                "type": "string",
                "pattern": f"^{EVENT_PATTERN}{fields.END}",
                "anyOf": [
                    {"enum": list(FACTS)},
                    {
                        "not": {
                            "anyOf": [
                                {"enum": refused},
                                {"pattern": f"^({near}){fields.END}"},
                            ]
                        }
                    },
                ],
            },
            "signal_id": _rule_schema(fields.signal_id),
            **_reserved(),
        },
        "required": ["event"],
        "allOf": [_fact_rules(event) for event in FACTS],
        # An action as the event of a complete signal.
        "not": {
            "properties": {"event": {"enum": sorted(ACTION_WORDS)}},
            **_required_of_signal(either_name=True),
        },
    }


def _rule_schema(rule: fields.FieldRule) -> Schema:
    return dict(fields.RULE_TEXTS[rule].json_schema)


def _properties(rules: Mapping[str, fields.FieldRule]) -> dict[str, Schema]:
    return {key: _rule_schema(rule) for key, rule in rules.items()}


def _reserved() -> Schema:
    """Keys that belong to the log: none of them may be given."""
    return dict.fromkeys(sorted(RESERVED_KEYS - {"event"}), False)


def _required_of_signal(*, either_name: bool = False) -> Schema:
    """The required fields, some of which have two names: one of them, or with `either_name` any."""
    named_once = [key for key in REQUIRED_FIELDS if key not in ALIASES.values()]
    names = [(key, alias) for alias, key in ALIASES.items()]
    choice = "anyOf" if either_name else "oneOf"
    return {
        "required": named_once,
        "allOf": [{choice: [{"required": [name]} for name in pair]} for pair in names],
    }


def _fact_rules(event: str) -> Schema:
    keys = FACTS[event].keys
    return {
        "if": {"properties": {"event": {"const": event}}, "required": ["event"]},
        "then": {
            "properties": {key: _rule_schema(rule) for key, (rule, _) in keys.items()},
            "required": ["signal_id", *(key for key, (_, required) in keys.items() if required)],
        },
    }


def _patterns_one_letter_away(name: str) -> Iterator[str]:
    """Patterns of all names with one letter more, less or other, or with two swapped.

    They match `name` itself too.
    """
    for at in range(len(name) + 1):
        yield name[:at] + _ALLOWED_LETTERS + name[at:]
    for at in range(len(name)):
        yield f"{name[:at]}{_ALLOWED_LETTERS}?{name[at + 1 :]}"
    for at in range(len(name) - 1):
        yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]
