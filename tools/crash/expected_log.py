"""The expected log: every acknowledged entry, and nothing that was not submitted.

Invariant: an entry that was acknowledged once is expected after every later power loss.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import orjson

from eventlog.append.batch import AppendRequest, Receipt
from eventlog.append.writer import Writer
from eventlog.format.durability import decode_watermark
from eventlog.schema.validation import ValidatedItem, validate
from tools.crash.inodes import File, Inodes
from tools.crash.states import files_of

CHAIN_BEFORE_FIRST = "0" * 64
NOTE_CHARS_MAX = 900  # a batch covers a few sectors, and lines end anywhere in them

_SIGNAL = {
    "symbol": "AAPL",
    "action": "BUY",
    "entry_price": 150.5,
    "target_price": 158.25,
    "stop_price": 147.0,
    "confidence": 85.5,
    "strategy": "crash",
    "timestamp": "2025-11-18T02:00:00.000000+00:00",
}
# A payload that looks like a line of a later batch must not be taken for a line.
_LOOKS_LIKE_A_LINE = {
    "v": 1,
    "seq": 10**6,
    "batch": 10**6,
    "recorded_at": "2025-11-18T02:00:00.000000Z",
    "event": "tick",
    "chain": "0" * 64,
}


class Violation(Exception):
    """The log broke its promise."""


class Found(NamedTuple):
    """The log on a disk, read without the code of the packages."""

    chains: tuple[str, ...]  # of seq 1, 2, 3 ...
    keys: tuple[str, ...]  # signal_ids
    data: bytes  # all segments together
    kept: tuple[bytes, ...]  # contents of the .torn files


class ExpectedLog:
    """The submitted items and the acknowledged entries."""

    def __init__(self) -> None:
        self.submitted: set[str] = set()
        self.acknowledged: dict[int, str] = {}  # seq -> chain
        self.watermark_seq = 0  # the durable watermark covers at least this seq
        self.additions = 0  # grows with each acknowledged entry
        self._open: list[AppendRequest] = []  # requests without a result
        # Ids of appends whose outcome is unknown, or that have a receipt. If a retry of one of them
        # fails, the entry may still be in the log.
        self._may_be_in_log: set[str] = set()

    def copy(self) -> "ExpectedLog":
        """Returns a copy, for a copy of the disk that changes independently from here on."""
        twin = ExpectedLog()
        twin.submitted = set(self.submitted)
        twin.acknowledged = dict(self.acknowledged)
        twin.watermark_seq = self.watermark_seq
        return twin

    def submit(self, keys: Sequence[str]) -> AppendRequest:
        """Returns a request for a writer, with one item for each key."""
        self.submitted.update(keys)
        request = AppendRequest([item(key) for key in keys])
        self._open.append(request)
        return request

    def withdraw(self, request: AppendRequest) -> None:
        """Notes that an append failed: of its items only those with a receipt may be in the log."""
        self.collect()
        for one, receipt in zip(request.items, request.results, strict=True):
            if receipt is None and one.signal_id not in self._may_be_in_log:
                self.submitted.discard(one.signal_id or "")

    def mark_uncertain(self, request: AppendRequest) -> None:
        """Notes that the outcome of a request will stay unknown."""
        self.collect()
        self._may_be_in_log.update(one.signal_id or "" for one in request.items)

    def collect(self) -> None:
        """Notes each receipt as soon as it exists: from then on a caller may have it."""
        for request in self._open:
            for index, receipt in enumerate(request.results):
                if isinstance(receipt, Receipt):
                    if receipt.signal_id != request.items[index].signal_id:
                        raise Violation(f"the receipt is of another signal: {receipt}")
                    self._may_be_in_log.add(receipt.signal_id or "")
                    self.acknowledge(receipt.seq, receipt.chain)
        self._open = [g for g in self._open if g.unsettled > 0 and g.error is None]

    def acknowledge(self, seq: int, chain: str) -> None:
        """Notes that entry `seq`, with all entries before it, was reported as durable."""
        if self.acknowledged.get(seq) == chain:
            return
        if seq in self.acknowledged:
            raise Violation(f"two different entries {seq} were acknowledged")
        self.acknowledged[seq] = chain
        self.additions += 1

    def flush_watermark(self, request: AppendRequest, writer: Writer) -> None:
        """Notes that the writer, which committed this request, has flushed its watermark."""
        if not writer.needs_watermark:
            seqs = [result.seq for result in request.results if isinstance(result, Receipt)]
            self.watermark_seq = max(self.watermark_seq, *seqs, 0)

    def check_watermark(self, state: Inodes) -> None:
        """Checks that the watermark covers what it covered before. Raises Violation."""
        data = b""
        for path, inode in files_of(state):
            if path.endswith("/.durable") and isinstance(inode, File):
                data = inode.device
        watermark = decode_watermark(data)
        seq = watermark.end.seq if watermark is not None else 0
        if seq < self.watermark_seq:
            raise Violation(f"the watermark covers {seq} entries, not {self.watermark_seq}")

    def check(self, inodes: Inodes) -> Found:
        """Checks that this disk holds every expected entry and no other. Raises Violation."""
        found = read_segments(inodes)
        for seq, chain in self.acknowledged.items():
            if seq > len(found.chains):
                raise Violation(f"entry {seq} is lost: the log ends at {len(found.chains)}")
            if found.chains[seq - 1] != chain:
                raise Violation(f"entry {seq} is not the one that was acknowledged")
        if len(set(found.keys)) < len(found.keys):
            raise Violation("a signal is in the log twice")
        if strange := sorted(set(found.keys) - self.submitted):
            raise Violation(f"the log holds items that were never submitted: {strange}")
        return found


def read_segments(inodes: Inodes) -> Found:
    """Reads all segments line by line. Raises Violation if they are not a chained log."""
    chains: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    data = []
    kept = []
    for path, inode in files_of(inodes):
        if not isinstance(inode, File):
            continue
        if ".torn" in path:
            kept.append(inode.cache)
        if not path.endswith(".jsonl"):
            continue
        if int(path[-26:-6]) != len(chains) + 1:
            raise Violation(f"{path} follows entry {len(chains)}")
        some = _read_segment(inode.cache, len(chains), chains[-1] if chains else "")
        chains, keys = chains + some[0], keys + some[1]
        data.append(inode.cache)
    return Found(chains, keys, b"".join(data), tuple(kept))


@lru_cache(maxsize=4096)
def _read_segment(data: bytes, seq: int, chain: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    chains: list[str] = []
    keys: list[str] = []
    lines = data.split(b"\n")
    if lines.pop():
        raise Violation(f"an unfinished line follows entry {seq + len(lines)}")
    for line in lines:
        seq += 1
        body, _, end = line.rpartition(b',"chain":"')
        if not body.startswith(b'{"v":1,"seq":%d,"batch":' % seq):
            raise Violation(f"the line of entry {seq} is not at its place")
        chain = sha256((chain or CHAIN_BEFORE_FIRST).encode() + body).hexdigest()
        if end != chain.encode() + b'"}':
            raise Violation(f"the chain breaks at entry {seq}")
        chains.append(chain)
        keys.append(orjson.loads(line)["signal_id"])
    return tuple(chains), tuple(keys)


@lru_cache(maxsize=4096)
def item(key: str) -> ValidatedItem:
    """The item with signal_id `key`: a signal or a fact, small or large, some of them hostile."""
    number = int.from_bytes(sha256(key.encode()).digest()[:4], "big")
    content: dict[str, object] = {"signal_id": key}
    if number % 3 == 0 or key.startswith("tick"):
        content |= {"event": "tick", "n": number}
    else:
        note = "n" * (number // 3 % NOTE_CHARS_MAX)
        content |= _SIGNAL | {"note": note}
    if number % 5 == 0:
        content["x"] = _LOOKS_LIKE_A_LINE
    return validate(content, now=str, new_id=str)
