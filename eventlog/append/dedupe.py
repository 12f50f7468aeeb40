"""The dedupe window: which of the last entries said what, so that a retry writes nothing.

Only `signal` entries compete for a signal_id; another event is known by its name and payload.
Entries are kept in two generations, each as long as the window, so forgetting costs nothing.

Invariant: each key of the last `entries` durable entries is in it, with its first place.
"""

import re
from hashlib import sha256
from typing import NamedTuple

from eventlog.format.line import HEAD, decode
from eventlog.schema import facts

DEDUPE_ENTRIES_DEFAULT = 10_000  # a generator that retries does so within minutes
_SIGNAL_ID = re.compile(rb'"signal_id":"([^"\\]*)"')

Key = str | bytes  # a signal's signal_id, or the digest of a fact


class Place(NamedTuple):
    """Where a line stands."""

    seq: int
    segment: int
    byte_offset: int


def fact_key(event: str, body: bytes) -> bytes:
    """What makes two facts the same: event and payload, of which signal_id is a part."""
    return sha256(event.encode() + b"\0" + body).digest()


def key_of_line(line: bytes) -> Key | None:
    """The key of a line that `scan` passed; None for an entry that is never a duplicate."""
    head = HEAD.match(line)
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


class Window:
    """Keys of the last entries. Not thread-safe: used under the writer's lock."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._young: dict[Key, Place] = {}
        self._old: dict[Key, Place] = {}
        self._young_from_seq = 0

    def find(self, key: Key, last_seq: int) -> Place | None:
        """The first place of `key` among the entries with seq > last_seq - entries."""
        place = self._old.get(key)
        if place is None or place.seq <= last_seq - self.entries:
            place = self._young.get(key)
            if place is None or place.seq <= last_seq - self.entries:
                return None
        return place

    def add(self, key: Key, place: Place) -> None:
        """Remembers an entry that is durable. Places come in the order of their seq."""
        if place.seq - self._young_from_seq >= self.entries:
            self._old, self._young = self._young, {}
            self._young_from_seq = place.seq
        self._young[key] = place
