"""What one commit will write: duplicates answered, conflicts refused, lines stamped and chained.

Pure but for `stored`, which reads a line that the window points to.

Invariant: a group under ALL puts all of its new entries into the plan, or none.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

import orjson

from eventlog.append.dedupe import Key, Place, Window, fact_key
from eventlog.errors import EventLogError, SignalConflict, shown
from eventlog.format.line import decode, encode
from eventlog.format.scan import Tip
from eventlog.schema.signal import content_sha256
from eventlog.schema.validation import Admitted

# One durable write: large enough that its sync costs little per entry, small enough to hold in
# memory and to be scanned again after a crash.
SLICE_ENTRIES_MAX = 8192
SLICE_BYTES_MAX = 8 * 1024 * 1024

ALL = "all"  # a conflict refuses the whole group
PREFIX = "prefix"  # a conflict ends the group: what stands before it is written
EACH = "each"  # a conflict refuses its item alone


class Receipt(NamedTuple):
    """Proof that an entry is durable. A NamedTuple: one is made for each append."""

    seq: int
    signal_id: str | None  # None only for an unknown event that brought none
    sha256: str | None  # of a signal's nine fields; None for a fact
    chain: str  # (seq, chain) names the log up to and including this entry
    recorded_at: str
    duplicate: bool  # the entry was there already; this is the receipt of the first


class Group:
    """Items that one caller appends together, and what came of them."""

    __slots__ = ("error", "items", "left", "policy", "results")

    def __init__(self, items: Sequence[Admitted], policy: str = ALL) -> None:
        self.items = items
        self.policy = policy
        self.results: list[Receipt | EventLogError | None] = [None] * len(items)
        self.left = len(items)  # results still to come
        self.error: EventLogError | None = None  # why some of them never will

    def settle(self, index: int, result: Receipt | EventLogError) -> None:
        """Gives one item its result."""
        self.results[index] = result
        self.left -= 1

    def fail(self, error: EventLogError) -> None:
        """Gives the group an error, unless each item has its result already."""
        if self.left and self.error is None:
            # Its own copy: an exception collects the frames through which it is raised.
            self.error = copy(error)
            durable = len(self.items) - self.left
            if durable:
                self.error.do = (
                    f"the first {durable} of the {len(self.items)} items are durable, the others "
                    "are not in the log: retry all of them with the same signal_ids"
                )

    def receipts(self) -> list[Receipt]:
        """The receipts of all items, or raises what refused the group."""
        if self.error is not None:
            raise self.error
        return [result for result in self.results if isinstance(result, Receipt)]


# The entry that has a key already, planned in this commit or durable: its receipt, and its
# payload's JSON text without braces.
_First = tuple[Receipt, bytes]


class Slice:
    """The entries of one durable write."""

    __slots__ = ("_before", "batch", "bytes", "lines", "planned", "repeats")

    def __init__(self, before: Tip, batch: int) -> None:
        self._before = before
        self.batch = batch  # seq of its first entry
        self.bytes = 0
        self.lines: list[bytes] = []
        self.planned: list[tuple[Key | None, Receipt, Group, int]] = []
        self.repeats: list[tuple[Receipt, Group, int]] = []  # of entries here or before

    @property
    def tip(self) -> Tip:
        """After its last entry."""
        if not self.planned:
            return self._before
        last = self.planned[-1][1]
        return Tip(last.seq, self.batch, last.recorded_at, last.chain)

    def settle(self, window: Window, segment: int, byte_offset: int) -> None:
        """All of it is durable: its keys enter the window, its callers get their receipts."""
        for line, (key, receipt, group, index) in zip(self.lines, self.planned, strict=True):
            if key is not None:
                window.add(key, Place(receipt.seq, segment, byte_offset))
            byte_offset += len(line)
            group.results[index] = receipt
            group.left -= 1
        for receipt, group, index in self.repeats:
            group.settle(index, receipt._replace(duplicate=True))


class Plan:
    """Collects groups into slices that continue the log after `tip`.

    `stored` reads the line at a place in the window.
    """

    def __init__(
        self, tip: Tip, recorded_at: str, window: Window, stored: Callable[[Place], bytes]
    ) -> None:
        self._before = tip
        self._seq, self._chain = tip.seq, tip.chain
        self._recorded_at = recorded_at
        self._window = window
        self._stored = stored
        self._fresh: dict[Key, _First] = {}
        self.slices: list[Slice] = []

    def add(self, group: Group) -> None:
        """Plans a group; what a conflict in it does, its policy says."""
        if group.policy == ALL:
            try:
                if len(group.items) > 1:
                    self._refuse_conflicts(group.items)
                for index, item in enumerate(group.items):
                    self._add(item, group, index)
            except SignalConflict as error:
                group.fail(error)
            return
        for index, item in enumerate(group.items):
            try:
                self._add(item, group, index)
            except SignalConflict as error:
                group.settle(index, error)
                if group.policy == PREFIX:
                    group.left -= len(group.items) - index - 1  # the rest is not tried
                    return

    def _refuse_conflicts(self, items: Sequence[Admitted]) -> None:
        """Raises SignalConflict before the first of `items` is planned, if one would.

        The window moves on with each item that will be new, here as in `_add`.
        """
        seq = self._seq
        seen: dict[Key, tuple[int, Admitted]] = {}
        for item in items:
            key = _key(item)
            if key is not None:
                twin_seq, twin = seen.get(key, (0, item))
                if twin is not item and twin_seq > seq - self._window.entries:
                    if not _same_content(item, twin.sha256, twin.body):
                        raise _conflict(item, "another signal of this call")
                    continue
                first = self._first(key, seq)
                if first is not None:
                    _refuse_other_content(item, first)
                    continue
            seq += 1
            if key is not None:
                seen[key] = (seq, item)

    def _first(self, key: Key, last_seq: int) -> _First | None:
        first = self._fresh.get(key)
        if first is not None and first[0].seq > last_seq - self._window.entries:
            return first
        place = self._window.find(key, last_seq)
        if place is None:
            return None
        entry = decode(self._stored(place))
        signal_id, sha256 = entry.payload.get("signal_id"), entry.payload.get("sha256")
        receipt = Receipt(
            entry.seq,
            signal_id if isinstance(signal_id, str) else None,
            sha256 if isinstance(sha256, str) and entry.event == "signal" else None,
            entry.chain,
            entry.recorded_at,
            False,
        )
        return receipt, orjson.dumps(entry.payload)[1:-1]

    def _add(self, item: Admitted, group: Group, index: int) -> None:
        event, signal_id, body, sha256, _ = item
        key = _key(item)
        first = self._first(key, self._seq) if key is not None else None
        if first is not None:
            _refuse_other_content(item, first)
            self._last_slice().repeats.append((first[0], group, index))
            return
        piece = self._last_slice()
        if len(piece.lines) >= SLICE_ENTRIES_MAX or piece.bytes >= SLICE_BYTES_MAX:
            self.slices.append(piece := Slice(piece.tip, self._seq + 1))
        self._seq = seq = self._seq + 1
        recorded_at = self._recorded_at
        line, self._chain = encode(event, body, seq, piece.batch, recorded_at, self._chain)
        receipt = Receipt(seq, signal_id, sha256, self._chain, recorded_at, False)
        piece.lines.append(line)
        piece.bytes += len(line)
        piece.planned.append((key, receipt, group, index))
        if key is not None:
            self._fresh[key] = (receipt, body)

    def _last_slice(self) -> Slice:
        if not self.slices:
            self.slices.append(Slice(self._before, self._seq + 1))
        return self.slices[-1]


def _key(item: Admitted) -> Key | None:
    """What the item is known by in the window; None for what is never a duplicate."""
    if item.sha256 is None and item.signal_id is not None:
        return fact_key(item.event, item.body)
    return item.signal_id


def _same_content(item: Admitted, sha256: str | None, body: bytes) -> bool:
    """Whether the nine fields are those of the signal with `sha256` and `body`.

    Facts of one key are equal by it. A timestamp that the caller left out matches any.
    """
    if item.sha256 == sha256 or item.timestamp_given:
        return item.sha256 == sha256
    fields = orjson.loads(b"{%b}" % item.body)
    fields["timestamp"] = orjson.loads(b"{%b}" % body)["timestamp"]
    return content_sha256(fields) == sha256


def _refuse_other_content(item: Admitted, first: _First) -> None:
    receipt, body = first
    if not _same_content(item, receipt.sha256, body):
        raise _conflict(item, f"entry {receipt.seq}")


def _conflict(item: Admitted, where: str) -> SignalConflict:
    return SignalConflict(
        f"signal_id {shown(item.signal_id)} is taken by a signal with other content",
        signal_id=item.signal_id or "",
        where=where,
        do="a signal never changes: append a fact about it, or use a new signal_id",
    )
