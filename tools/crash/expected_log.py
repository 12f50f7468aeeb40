"""What the log owes: every entry that somebody was told is durable, and nothing nobody submitted.

Invariant: what is owed once is owed after every later power loss; a ledger only grows.
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
NOTE_CHARS_MAX = 900  # so that a batch covers a few sectors, and lines end anywhere in them

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
# A line of a later batch inside a line must never pass for one.
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
    """The log on a disk, read without any code of the log's own."""

    chains: tuple[str, ...]  # of seq 1, 2, 3 ...
    keys: tuple[str, ...]  # signal_ids
    data: bytes  # all segments together
    kept: tuple[bytes, ...]  # contents of the .torn files


class ExpectedLog:
    """What was submitted, and what was promised."""

    def __init__(self) -> None:
        self.submitted: set[str] = set()
        self.acknowledged: dict[int, str] = {}  # seq -> chain
        self.watermark_seq = 0  # the watermark on the device covers at least this
        self.additions = 0  # how often anything was added
        self._open: list[AppendRequest] = []  # groups under way
        # Of appends whose outcome is unknown, or that have their receipt: a later failure to append
        # them once more says nothing of what stands in the log.
        self._may_be_in_log: set[str] = set()

    def copy(self) -> "ExpectedLog":
        """The same promises, for a disk that goes its own way from here."""
        twin = ExpectedLog()
        twin.submitted = set(self.submitted)
        twin.acknowledged = dict(self.acknowledged)
        twin.watermark_seq = self.watermark_seq
        return twin

    def submit(self, keys: Sequence[str]) -> AppendRequest:
        """A group that may be given to a writer."""
        self.submitted.update(keys)
        group = AppendRequest([item(key) for key in keys])
        self._open.append(group)
        return group

    def withdraw(self, group: AppendRequest) -> None:
        """The group's append failed, and nothing of it stays but what has a receipt."""
        self.collect()
        for one, receipt in zip(group.items, group.results, strict=True):
            if receipt is None and one.signal_id not in self._may_be_in_log:
                self.submitted.discard(one.signal_id or "")

    def mark_uncertain(self, group: AppendRequest) -> None:
        """The group's outcome is unknown, and stays so."""
        self.collect()
        self._may_be_in_log.update(one.signal_id or "" for one in group.items)

    def collect(self) -> None:
        """Notes each receipt the moment it is made: from then on a caller may be told."""
        for group in self._open:
            for index, receipt in enumerate(group.results):
                if isinstance(receipt, Receipt):
                    if receipt.signal_id != group.items[index].signal_id:
                        raise Violation(f"the receipt of another signal: {receipt}")
                    self._may_be_in_log.add(receipt.signal_id or "")
                    self.acknowledge(receipt.seq, receipt.chain)
        self._open = [g for g in self._open if g.unsettled > 0 and g.error is None]

    def acknowledge(self, seq: int, chain: str) -> None:
        """Somebody was told that entry `seq`, with all before it, is durable."""
        if self.acknowledged.get(seq) == chain:
            return
        if seq in self.acknowledged:
            raise Violation(f"two entries {seq} were given out")
        self.acknowledged[seq] = chain
        self.additions += 1

    def flush_watermark(self, group: AppendRequest, writer: Writer) -> None:
        """The writer, which committed this group before, was asked to write the watermark."""
        if not writer.needs_watermark:
            seqs = [result.seq for result in group.results if isinstance(result, Receipt)]
            self.watermark_seq = max(self.watermark_seq, *seqs, 0)

    def check_watermark(self, state: Inodes) -> None:
        """What was marked is marked. Violation."""
        data = b""
        for path, inode in files_of(state):
            if path.endswith("/.durable") and isinstance(inode, File):
                data = inode.device
        watermark = decode_watermark(data)
        seq = watermark.end.seq if watermark is not None else 0
        if seq < self.watermark_seq:
            raise Violation(f"the watermark covers {seq} entries, not {self.watermark_seq}")

    def check(self, inodes: Inodes) -> Found:
        """The log on this disk, which must hold what is owed and nothing else. Violation."""
        found = read_plainly(inodes)
        for seq, chain in self.acknowledged.items():
            if seq > len(found.chains):
                raise Violation(f"entry {seq} is lost: the log ends at {len(found.chains)}")
            if found.chains[seq - 1] != chain:
                raise Violation(f"entry {seq} is not the one that was acknowledged")
        if len(set(found.keys)) < len(found.keys):
            raise Violation("a signal is there twice")
        if strange := sorted(set(found.keys) - self.submitted):
            raise Violation(f"the log holds what nobody submitted: {strange}")
        return found


def read_plainly(inodes: Inodes) -> Found:
    """Reads all segments as a shell script would. Violation where they are no chained log."""
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
        raise Violation(f"half a line stands after entry {seq + len(lines)}")
    for line in lines:
        seq += 1
        body, _, end = line.rpartition(b',"chain":"')
        if not body.startswith(b'{"v":1,"seq":%d,"batch":' % seq):
            raise Violation(f"no line of entry {seq} where it should be")
        chain = sha256((chain or CHAIN_BEFORE_FIRST).encode() + body).hexdigest()
        if end != chain.encode() + b'"}':
            raise Violation(f"the chain breaks at entry {seq}")
        chains.append(chain)
        keys.append(orjson.loads(line)["signal_id"])
    return tuple(chains), tuple(keys)


@lru_cache(maxsize=4096)
def item(key: str) -> ValidatedItem:
    """The item with signal_id `key`: small or large, a signal or a fact, some of them hostile."""
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
