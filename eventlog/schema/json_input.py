"""Strict parser for input lines: one JSON object, no duplicate keys, bounded depth and numbers.

Invariant: an object that is accepted is read back from the log unchanged.
"""

import json
import re
from contextlib import suppress

import orjson

from eventlog.errors import EntryTooLarge, InvalidSignal
from eventlog.format.line import PAYLOAD_BYTES_MAX
from eventlog.schema.json_values import DEPTH_MAX, INT_MAX, INT_MIN, plain_json

# A byte of payload takes at most six in a line of ASCII escapes; a longer line would be refused.
INPUT_BYTES_MAX = 6 * PAYLOAD_BYTES_MAX

EXCERPT_BYTES = 200  # of a line, for an error, which shows less
_SPACED_COLON_PATTERN = re.compile(rb'"[ \t\r\n]+:')
# A string without an end extends to the end of the line, so each byte is scanned once.
_STRING_OR_BRACKET_PATTERN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_json_line(line: bytes) -> dict[str, object]:
    """The JSON object in one line of input, parsed strictly. Raises InvalidSignal only.

    It refuses duplicate keys at any depth, values that JSON does not have (NaN, lone surrogates),
    and numbers that a float would alter. orjson accepts some of these without an error.
    """
    if len(line) > INPUT_BYTES_MAX:
        raise EntryTooLarge(
            f"is longer than {INPUT_BYTES_MAX:,} bytes", field="line", value=_excerpt(line)
        )
    try:
        item = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_strictly(line)
    if (
        type(item) is dict
        # Each key appears as `":`, so if there are as many as keys, none is duplicate.
        and line.count(b'":') == len(item)
        and _SPACED_COLON_PATTERN.search(line) is None
        and _is_flat(item)
    ):
        return item
    return _parse_strictly(line)


def _is_flat(item: dict[str, object]) -> bool:
    """Whether no value is nested, and no number so large that parsing may have altered it."""
    for value in item.values():
        if type(value) is str:
            continue
        if type(value) is float or type(value) is int:
            if not INT_MIN < value < INT_MAX:
                return False
        elif value is not None and type(value) is not bool:
            return False
    return True


def _parse_strictly(line: bytes) -> dict[str, object]:
    """Parses by the full rules."""
    if line.count(b"[") + line.count(b"{") > DEPTH_MAX:
        _refuse_depth(line)  # before json, whose recursion it bounds
    try:
        text = line.decode()
        item = json.loads(text, object_pairs_hook=_refuse_duplicate_keys, parse_int=_bounded_int)
    except UnicodeDecodeError as error:
        raise InvalidSignal(
            f"is not UTF-8 at byte {error.start + 1}", field="line", value=_excerpt(line)
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidSignal(
            f"is not JSON: {error.msg} at character {error.pos + 1}",
            field="line",
            value=error.doc[max(0, error.pos - 40) :][:80],
        ) from None
    if type(item) is not dict:
        raise InvalidSignal("must be a JSON object", field="line", value=_excerpt(line))
    plain_json(item)
    return item


def _refuse_depth(line: bytes) -> None:
    depth = 0
    key, value_at = b"", 0  # the last string of the outermost object, and where a value opens
    for token in _STRING_OR_BRACKET_PATTERN.finditer(line):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == 2:  # the string before it is its key
                value_at = token.start()
        elif token[0] in (b"]", b"}"):
            depth -= 1
        elif depth == 1:
            key = token[0]
        if depth > DEPTH_MAX:
            raise InvalidSignal(
                f"is nested deeper than {DEPTH_MAX}",
                field=_key_text(key),
                value=_excerpt(line[value_at : value_at + EXCERPT_BYTES]),
            )


def _key_text(key: bytes) -> str:
    """A key as text; `line` where there is none, or none that is valid."""
    with suppress(ValueError):
        found = json.loads(key)
        if isinstance(found, str):
            return found
    return "line"


def _refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen:
                raise InvalidSignal("is given twice in one object", field=key, value=value)
            seen.add(key)
    return found


def _bounded_int(digits: str) -> int:
    # Python refuses, and is slow at, thousands of digits. A hundred are out of range as well, and
    # an error shows no more of them.
    return int(digits[:100])


def _excerpt(line: bytes) -> str:
    return line[:EXCERPT_BYTES].decode(errors="backslashreplace")
