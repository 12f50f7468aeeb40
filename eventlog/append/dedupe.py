"""The dedupe window: the keys of the last entries, by which a retry is recognised.

The key of a signal is its signal_id; the key of a fact is its event and payload. Keys are kept in
two generations, each as long as the window, so old ones are dropped at no cost.

Invariant: the window has each key of the last `entries` durable entries, with its first position.
"""

import re
from hashlib import sha256

from eventlog.format.line import HEADER_PATTERN, decode
from eventlog.format.segment import LinePosition
from eventlog.schema import facts

DEDUPE_ENTRIES_DEFAULT = 10_000  # a generator that retries does so within minutes
_SIGNAL_ID = re.compile(rb'"signal_id":"([^"\\]*)"')

Key = str | bytes  # a signal's signal_id, or the digest of a fact


def fact_key(event: str, body: bytes) -> bytes:
    """The key of a fact: a digest of event and payload, which includes signal_id."""
    return sha256(event.encode() + b"\0" + body).digest()


def key_of_line(line: bytes) -> Key | None:
    """The key of a line that `scan` passed; None for an entry that is never a duplicate."""
    head = HEADER_PATTERN.match(line)
    assert head is not None, "scan accepts no line without a head"
    start = head.end() + 1
    found = _SIGNAL_ID.match(line, start)
    if head[4] != b"signal":
        # Serialised again: another release of orjson may write the same floats differently.
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
        """The first position of `key` among the entries with seq > last_seq - entries."""
        line_position = self._previous.get(key)
        if line_position is None or line_position.seq <= last_seq - self.entries:
            line_position = self._recent.get(key)
            if line_position is None or line_position.seq <= last_seq - self.entries:
                return None
        return line_position

    def add(self, key: Key, line_position: LinePosition) -> None:
        """Adds the key of a durable entry. Entries are added in the order of seq."""
        if line_position.seq - self._recent_from_seq >= self.entries:
            self._previous, self._recent = self._recent, {}
            self._recent_from_seq = line_position.seq
        self._recent[key] = line_position
