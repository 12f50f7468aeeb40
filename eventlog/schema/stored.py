"""Stored lines: the layout that our writer gives them, and the check of JSON and signal hash.

The chain proves that a line has not changed since it was chained. Lines may also have been edited
and chained again, so each line is parsed strictly and each signal is hashed.

The patterns here serve the fast paths of verify and of read.columns. These build the canonical
form from the raw bytes of a line: if that gives the stored sha256, numbers and texts need no
parsing. `problem_in_line` is the full check.

Invariant: a line that matches the patterns and whose hashes fit also passes the full check.
"""

import re
from collections.abc import Mapping

import orjson

from eventlog.errors import InvalidSignal, printable_value
from eventlog.format.line import RESERVED_KEYS
from eventlog.schema.json_values import DEPTH_MAX

# A string without escapes. Callers check the characters of many strings at once.
_STRING_PATTERN = rb'"[^"]*"'
# A string whose characters the pattern itself checks.
_PLAIN_STRING_PATTERN = rb'"[ !#-\[\]-~]*"'
# A number that Python formats in the same way: at most 15 digits, which a float always preserves,
# no trailing zero, and not so small that it would be formatted with an exponent.
NUMBER_PATTERN = rb"(?:[1-9][0-9]{0,6}+|0(?!\.0000))\.[0-9]{1,8}+(?<![0-9]0)"
SIGNAL_LINE_PATTERN = re.compile(
    rb'\{"v":1,"seq":([1-9][0-9]{0,19}),"batch":([1-9][0-9]{0,19}),"recorded_at":"([^"]*)",'
    rb'"event":"signal","signal_id":(%(text)b),"symbol":(%(text)b),"action":(%(text)b),'
    rb'"entry_price":(%(number)b),"target_price":(%(number)b),"stop_price":(%(number)b),'
    rb'"confidence":(%(number)b),"strategy":(%(text)b),"asset_type":%(plain)b,'
    rb'"data_source":%(plain)b,"timestamp":(%(text)b)'
    % {b"text": _STRING_PATTERN, b"plain": _PLAIN_STRING_PATTERN, b"number": NUMBER_PATTERN}
)
CANONICAL_FORMAT = (
    b'{"action": %b, "confidence": %b, "entry_price": %b, "signal_id": %b, "stop_price": %b, '
    b'"strategy": %b, "symbol": %b, "target_price": %b, "timestamp": %b}'
)

RECORDED_AT_PATTERN = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
)
# Characters that Python's json writes as they are.
PLAIN_ASCII = bytes(code for code in range(0x20, 0x7F) if code != ord("\\"))
_KNOWN_KEYS = RESERVED_KEYS.union(
    re.findall(r'"(\w+)":', SIGNAL_LINE_PATTERN.pattern.decode()), {"sha256"}
)


def problem_in_line(line: bytes) -> str | None:
    """The problem within a line, in words that continue "entry 42 ..."; None if there is none.

    `line` starts with the header of an entry and ends in a chain. Its position is not checked.
    """
    fields = _round_trip(line[:-1])
    if fields is None:
        from eventlog.schema.json_input import parse_json_line  # rarely needed, and slow to import

        try:
            fields = parse_json_line(line)
        except InvalidSignal as error:
            return f"was not written by this program: {error.what}"
    return None if fields.get("event") != "signal" else _problem_of_signal(fields)


def _problem_of_signal(fields: Mapping[str, object]) -> str | None:
    from eventlog.schema.signal import FIELD_RULES, PRICE_FIELDS, content_sha256  # as above

    for key in (*FIELD_RULES, "sha256"):
        if key not in fields:
            return f"is a signal without {key}"
        # Nested values must not reach the hash: they could be deeper than json can follow.
        kinds = (int, float) if key in PRICE_FIELDS or key == "confidence" else (str,)
        if type(fields[key]) not in kinds:
            return (
                f"is a signal whose {key} is of the wrong type (got {printable_value(fields[key])})"
            )
    computed = content_sha256(fields)
    if fields["sha256"] != computed:
        return f"does not match its sha256: its nine fields give {computed}"
    return None


def are_extra_members(members: bytes) -> bool:
    """Whether `members`, each after a comma, are valid beside the known keys of a signal."""
    if not members:
        return True
    fields = _round_trip(b"{%b}" % members[1:])
    return fields is not None and members[:1] == b"," and _KNOWN_KEYS.isdisjoint(fields)


def _round_trip(text: bytes) -> dict[str, object] | None:
    """The JSON object in `text`, if our writer would encode it as exactly this text; else None.

    Encoding it again shows what parsing lost: a duplicate key, a space, a rounded number.
    OPT_STRICT_INTEGER also refuses numbers beyond 53 bits.
    """
    try:
        fields = orjson.loads(text)
        if type(fields) is dict and orjson.dumps(fields, option=orjson.OPT_STRICT_INTEGER) == text:
            return fields if text.count(b"{") + text.count(b"[") <= DEPTH_MAX else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    return None
