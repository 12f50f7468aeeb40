"""The dedupe window: the keys of the last entries, by which a retry is recognised.

The key of a signal is its signal_id; the key of a fact is its event and payload, without `salt`. A
`voided` clears the keys of all facts of its signal, so that the right fact can follow, even with
the same payload. It clears no key of another `voided`, so a retry of a void is a duplicate, nor of
an event that is no fact.

Keys are kept in two generations, each as long as the window, so old ones are dropped at no cost.
Nothing is removed where a void clears keys: the window keeps the seq of the last void of a signal,
and facts before it are not found.

Invariant: the window has each key of the last `entries` durable entries, with its first position
after the last void that clears it.
"""

import re
from collections.abc import Mapping, MutableMapping
from hashlib import sha256

import orjson

from eventlog.format.line import HEADER_PATTERN, decode
from eventlog.format.segment import LinePosition
from eventlog.schema import facts
from eventlog.schema.salt import SALT

DEDUPE_ENTRIES_DEFAULT = 10_000  # a generator that retries does so within minutes
_SALT_KEY = b'"%b":' % SALT.encode()
_SIGNAL_ID = re.compile(rb'"signal_id":"([^"\\]*)"')


# A signal's key is its signal_id. The key of another event is a digest of event and payload, its
# kind, and its signal_id: plain bytes, because the window holds thousands.
Key = str | bytes
_DIGEST_BYTES = 32
_FACT, _VOID, _OTHER = b"f", b"v", b"o"  # the kinds; a void clears the keys of facts only


def fact_key(event: str, signal_id: str, body: bytes) -> bytes:
    """The key of a fact. `body` is the text of its payload, which includes signal_id."""
    if _SALT_KEY in body:
        payload = orjson.loads(b"{%b}" % body)
        payload.pop(SALT, None)
        body = facts.body(payload)
    digest = sha256(event.encode() + b"\0" + body).digest()
    kind = _VOID if event == "voided" else _FACT if event in facts.FACTS else _OTHER
    return digest + kind + signal_id.encode()


def void_seq(key: Key, voids: Mapping[bytes, int]) -> int:
    """The seq of the void in `voids` that clears `key`; 0 where none does."""
    if not voids or isinstance(key, str) or key[_DIGEST_BYTES] != _FACT[0]:
        return 0
    return voids.get(key[_DIGEST_BYTES + 1 :], 0)


def note_void(key: Key, seq: int, voids: MutableMapping[bytes, int]) -> None:
    """Adds to `voids` the entry `seq`, which has `key`, if it is a void."""
    if isinstance(key, bytes) and key[_DIGEST_BYTES] == _VOID[0]:
        voids[key[_DIGEST_BYTES + 1 :]] = seq


def key_of_line(line: bytes) -> Key | None:
    """The key of a line that `scan` passed; None for an entry that is never a duplicate."""
    head = HEADER_PATTERN.match(line)
    assert head is not None, "scan accepts no line without a head"
    is_signal = head[4] == b"signal"
    found = _SIGNAL_ID.match(line, head.end() + 1) if is_signal else None
    if found is not None:
        return found[1].decode()
    payload = decode(line).payload
    signal_id = payload.get("signal_id")
    if is_signal or not isinstance(signal_id, str):
        return signal_id if isinstance(signal_id, str) else None
    # Serialised again: another release of orjson may write the same floats differently.
    return fact_key(head[4].decode(), signal_id, facts.body(payload))


class DedupeWindow:
    """Keys of the last entries. Not thread-safe: used under the writer's lock."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._recent: dict[Key, LinePosition] = {}
        self._previous: dict[Key, LinePosition] = {}
        self._recent_voids: dict[bytes, int] = {}  # seq of the last void of a signal
        self._previous_voids: dict[bytes, int] = {}
        self._recent_from_seq = 0

    def find(self, key: Key, last_seq: int) -> LinePosition | None:
        """The first position of `key` among the entries with seq > last_seq - entries.

        That of a fact is after the last void of its signal.
        """
        after = last_seq - self.entries
        if self._recent_voids or self._previous_voids:
            voids = void_seq(key, self._recent_voids), void_seq(key, self._previous_voids)
            after = max(after, *voids)
        line_position = self._previous.get(key)
        if line_position is None or line_position.seq <= after:
            line_position = self._recent.get(key)
            if line_position is None or line_position.seq <= after:
                return None
        return line_position

    def add(self, key: Key, line_position: LinePosition) -> None:
        """Adds the key of a durable entry. Entries are added in the order of seq."""
        if line_position.seq - self._recent_from_seq >= self.entries:
            self._previous, self._recent = self._recent, {}
            self._previous_voids, self._recent_voids = self._recent_voids, {}
            self._recent_from_seq = line_position.seq
        self._recent[key] = line_position
        note_void(key, line_position.seq, self._recent_voids)
