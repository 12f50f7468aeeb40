"""The line format: encodes an entry as bytes and decodes it. Defines the keys and the version.

    {"v":1,"seq":42,"batch":42,"recorded_at":"2025-11-18T02:00:00.123456Z","event":"signal",
     <the payload's keys>,"chain":"<64 hex digits>"}\\n

`chain` is the SHA-256 of the previous line's chain (64 ASCII bytes, 64 zeros before seq 1) and
this line's bytes before `,"chain":`. It is computed over stored bytes, never over JSON that was
written again: libraries differ, and change, in how they write floats.

Invariant: `decode(encode(...))` gives the same entry, and a line that `decode` accepts with the
chain before it is, byte for byte, what was appended.
"""

import re
from hashlib import sha256
from typing import NamedTuple

import orjson

FORMAT_VERSION = 1
LINE_BYTES_MAX = 65_535  # with the newline; a reader can hold any line in a 64 KiB buffer
PAYLOAD_BYTES_MAX = 65_000  # so that the digits of seq never decide whether a payload fits
CHAIN_START = "0" * 64  # the chain "before seq 1"
RESERVED_KEYS = frozenset({"v", "seq", "batch", "recorded_at", "event", "chain"})

_CHAIN_KEY = b',"chain":"'
_LINE_END = b'"}\n'
CHAIN_BYTES = len(_CHAIN_KEY) + 64 + len(_LINE_END)  # what follows the body of each line
LINE_BYTES_MIN = len(b'{"v":1,"seq":1,"batch":1,"recorded_at":"') + 27 + CHAIN_BYTES

# Starts the lines that stand for damaged parts of a compressed segment. No writer makes a NUL, and
# no write that a crash cut off leaves these bytes.
LOST_PREFIX = b"\x00lost: "

HEADER_PATTERN = re.compile(
    rb'\{"v":1,"seq":([1-9][0-9]{0,19}),"batch":([1-9][0-9]{0,19}),"recorded_at":"'
    rb'([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)",'
    rb'"event":"([a-z][a-z0-9_.-]{0,63})"'
)
HASH_PATTERN = re.compile(r"[0-9a-f]{64}")  # a chain or a sha256, as text
_CHAIN_PATTERN = re.compile(rb',"chain":"([0-9a-f]{64})"\}\n')
_VERSION_PATTERN = re.compile(rb'\{"v":([0-9]{1,9}),')


class Entry(NamedTuple):
    """One fact in the log. A NamedTuple: one is made for each line that is read."""

    seq: int  # 1, 2, 3, no gaps
    batch: int  # seq of the first entry of the same durable write
    recorded_at: str  # the log's own clock, UTC, never less than the entry before
    event: str  # "signal", "executed", ...
    payload: dict[str, object]  # the keys that the caller gave, normalised
    chain: str  # binds this line to all lines before it
    line: bytes = b""  # as it is stored, newline included: encoding an entry again may differ


class LineHeader(NamedTuple):
    """The keys before the payload of a line."""

    seq: int
    batch: int
    recorded_at: str
    event: str


class BadLine(Exception):
    """The bytes are not the line that should follow. The text gives the reason, without place."""


def encode(
    event: str, body: bytes, seq: int, batch: int, recorded_at: str, prev_chain: str
) -> tuple[bytes, str]:
    """The line of an entry, newline included, and its chain.

    `body` is the payload's JSON object text without its braces.
    """
    text = b'{"v":1,"seq":%d,"batch":%d,"recorded_at":"%b","event":"%b"%b%b' % (
        seq,
        batch,
        recorded_at.encode(),
        event.encode(),
        b"," if body else b"",
        body,
    )
    chain = sha256(prev_chain.encode() + text).hexdigest()
    return b"%b%b%b%b" % (text, _CHAIN_KEY, chain.encode(), _LINE_END), chain


def stored_chain(line: bytes) -> str:
    """The chain that a line carries in its last bytes. Raises BadLine where there is none."""
    found = _CHAIN_PATTERN.fullmatch(line, max(0, len(line) - CHAIN_BYTES))
    if found is None:
        raise BadLine('does not end in `,"chain":"<64 hex digits>"}`')
    return found[1].decode()


def parse_header(line: bytes) -> LineHeader:
    """The keys before the payload. Raises BadLine."""
    found = HEADER_PATTERN.match(line)
    if found is None:
        if line.startswith(LOST_PREFIX):
            raise BadLine("cannot be decompressed: its part of the compressed segment is damaged")
        other = _VERSION_PATTERN.match(line)
        if other is not None and int(other[1]) != FORMAT_VERSION:
            raise BadLine(f"is of format version {int(other[1])}; this program reads version 1")
        raise BadLine("does not start like an entry")
    seq, batch, recorded_at, event = found.groups()
    return LineHeader(int(seq), int(batch), recorded_at.decode(), event.decode())


def next_chain(prev_chain: str, line: bytes) -> str:
    """The chain that `line` must carry when it follows a line with `prev_chain`."""
    return sha256(prev_chain.encode() + line[:-CHAIN_BYTES]).hexdigest()


def decode(line: bytes) -> Entry:
    """The entry of a line that `scan` accepted. Raises BadLine where it is no such JSON object."""
    try:
        fields = orjson.loads(line)
        pop = fields.pop
        pop("v")
        seq, batch, recorded_at = pop("seq"), pop("batch"), pop("recorded_at")
        event, chain = pop("event"), pop("chain")
        # A duplicate key from another writer would replace a value of the header.
        if line.startswith(
            b'{"v":1,"seq":%d,"batch":%d,"recorded_at":"%b","event":"%b"'
            % (seq, batch, recorded_at.encode(), event.encode())
        ):
            return Entry(seq, batch, recorded_at, event, fields, chain, line)
        raise BadLine("gives a key of its head twice")
    except orjson.JSONDecodeError as error:
        raise BadLine(f"is not JSON: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise BadLine(f"is not an entry: {error}") from None
