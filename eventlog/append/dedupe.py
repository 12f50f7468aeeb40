"""The dedupe window: which of the last entries said what, so that a retry writes nothing.

Only `signal` entries compete for a signal_id; another event is known by its name and payload.
Entries are kept in two generations, each as long as the window, so forgetting costs nothing.

Invariant: each key of the last `entries` durable entries is in it, with its first place.
"""

import re
from hashlib import sha256
from typing import NamedTuple

from eventlog.format.line import HEADER_PATTERN, decode
from eventlog.schema import facts

DEDUPE_ENTRIES_DEFAULT = 10_000  # a generator that retries does so within minutes
_SIGNAL_ID = re.compile(rb'"signal_id":"([^"\\]*)"')

Key = str | bytes  # a signal's signal_id, or the digest of a fact


class LinePosition(NamedTuple):
    """Where a line stands."""

    seq: int
    segment: int
    byte_offset: int


def fact_key(event: str, body: bytes) -> bytes:
    """What makes two facts the same: event and payload, of which signal_id is a part."""
    return sha256(event.encode() + b"\0" + body).digest()


def key_of_line(line: bytes) -> Key | None:
    """The key of a line that `scan` passed; None for an entry that is never a duplicate."""
    head = HEADER_PATTERN.match(line)
    assert head is not None, "scan passes no line without a head"
    start = head.end() + 1
    found = _SIGNAL_ID.match(line, start)
    if head[4] != b"signal":
        # Written anew: another release of orjson may have stored the same floats as other text.
        payload = decode(line).payload
        return fact_key(head[4].decode(), facts.body(payload)) if "signal_id" in payload else None
    if found is not None:
        return found[1].decode()
    signal_id = decode(line).payload.get("signal_id")
    return signal_id if isinstance(signal_id, str) else None


class DedupeWindow:
    """Keys of the last entries. Not thread-safe: used under the writer's lock."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._recent: dict[Key, LinePosition] = {}
        self._previous: dict[Key, LinePosition] = {}
        self._recent_from_seq = 0

    def find(self, key: Key, last_seq: int) -> LinePosition | None:
        """The first place of `key` among the entries with seq > last_seq - entries."""
        line_position = self._previous.get(key)
        if line_position is None or line_position.seq <= last_seq - self.entries:
            line_position = self._recent.get(key)
            if line_position is None or line_position.seq <= last_seq - self.entries:
                return None
        return line_position

    def add(self, key: Key, line_position: LinePosition) -> None:
        """Remembers an entry that is durable. Places come in the order of their seq."""
        if line_position.seq - self._recent_from_seq >= self.entries:
            self._previous, self._recent = self._recent, {}
            self._recent_from_seq = line_position.seq
        self._recent[key] = line_position
