"""Builds the write batches of one commit from append requests.

Duplicates get the receipt of the first entry, conflicts are refused, and new entries are stamped
and chained. Pure except for `read_stored`, which reads a line that the dedupe window points to.

Invariant: a request with the policy ALL adds all of its new entries, or none.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import NamedTuple, cast

import orjson

from eventlog.append.dedupe import DedupeWindow, Key, fact_key, note_void, void_seq
from eventlog.errors import EventLogError, SignalConflict, printable_value
from eventlog.format.line import decode, encode
from eventlog.format.scan import Tip
from eventlog.format.segment import LinePosition
from eventlog.schema.item_warnings import NO_WARNINGS, ItemWarning, warning
from eventlog.schema.signal import content_sha256
from eventlog.schema.validation import ValidatedItem

# Large enough that the sync costs little per entry, small enough to hold in memory and to scan
# again after a crash.
WRITE_BATCH_ENTRIES_MAX = 8192
WRITE_BATCH_BYTES_MAX = 8 * 1024 * 1024

AHEAD_OF_CLOCK_MAX = timedelta(days=1)  # a decision for the next day is usual; more is a mistake

ALL = "all"  # a conflict refuses the whole request
PREFIX = "prefix"  # a conflict ends the request: the items before it are written
EACH = "each"  # a conflict refuses only its item


class Receipt(NamedTuple):
    """Proof that an entry is durable. A NamedTuple: one is made for each append."""

    seq: int
    signal_id: str | None  # None only for an unknown event that brought none
    sha256: str | None  # of a signal's nine fields; None for a fact
    chain: str  # (seq, chain) names the log up to and including this entry
    recorded_at: str
    duplicate: bool  # the entry existed already, and this is its first receipt
    warnings: tuple[ItemWarning, ...] = NO_WARNINGS  # about the item of this call


class AppendRequest:
    """Items that one caller appends together, and their results."""

    __slots__ = ("error", "items", "policy", "results", "unsettled")

    def __init__(self, items: Sequence[ValidatedItem], policy: str = ALL) -> None:
        self.items = items
        self.policy = policy
        self.results: list[Receipt | EventLogError | None] = [None] * len(items)
        self.unsettled = len(items)  # items without a result
        self.error: EventLogError | None = None  # why the unsettled items were not written

    @property
    def is_settled(self) -> bool:
        """Whether each item has a result, or the request its error."""
        return not self.unsettled or self.error is not None

    def settle(self, index: int, result: Receipt | EventLogError) -> None:
        """Sets the result of one item."""
        self.results[index] = result
        self.unsettled -= 1

    def fail(self, error: EventLogError) -> None:
        """Sets the error of the request, unless each item has its result already."""
        if self.unsettled and self.error is None:
            # A copy for each request: an exception collects the frames through which it is raised.
            self.error = copy(error)
            durable = len(self.items) - self.unsettled
            if durable:
                self.error.do = (
                    f"durable: {durable:,} of {len(self.items):,} items, from the first one on; the"
                    " log has none of the others: retry all of them with the same signal_ids"
                )

    def receipts(self) -> list[Receipt]:
        """The receipts of all items of a request with the policy ALL. Raises its error."""
        if self.error is not None:
            raise self.error
        return cast("list[Receipt]", self.results)


# The entry that has a key already, in this commit or durable: its receipt, and the JSON text of
# its payload without braces.
_ExistingEntry = tuple[Receipt, bytes]


class WriteBatch:
    """The entries of one durable write."""

    __slots__ = ("_tip_before", "batch", "bytes", "duplicates", "lines", "new_entries")

    def __init__(self, before: Tip, batch: int) -> None:
        self._tip_before = before
        self.batch = batch  # seq of its first entry
        self.bytes = 0
        self.lines: list[bytes] = []
        self.new_entries: list[tuple[Key | None, Receipt, AppendRequest, int]] = []
        self.duplicates: list[tuple[Receipt, AppendRequest, int]] = []  # of entries here or before

    @property
    def tip(self) -> Tip:
        """The tip of the log after the last entry of the batch."""
        if not self.new_entries:
            return self._tip_before
        last = self.new_entries[-1][1]
        return Tip(last.seq, self.batch, last.recorded_at, last.chain)

    def settle(self, dedupe_window: DedupeWindow, segment: int, byte_offset: int) -> None:
        """Adds the keys of the durable batch to the window, and sets the receipts."""
        for line, (key, receipt, request, index) in zip(self.lines, self.new_entries, strict=True):
            if key is not None:
                dedupe_window.add(key, LinePosition(receipt.seq, segment, byte_offset))
            byte_offset += len(line)
            request.results[index] = receipt
            request.unsettled -= 1
        for receipt, request, index in self.duplicates:
            request.settle(index, receipt)


class BatchBuilder:
    """Builds write batches that continue the log after `tip`.

    `read_stored` reads the line at a position in the dedupe window.
    """

    def __init__(
        self,
        tip: Tip,
        recorded_at: str,
        dedupe_window: DedupeWindow,
        read_stored: Callable[[LinePosition], bytes],
    ) -> None:
        self._tip_before = tip
        self._seq, self._chain = tip.seq, tip.chain
        self._recorded_at = recorded_at
        self._dedupe_window = dedupe_window
        self._read_stored = read_stored
        self._new_by_key: dict[Key, _ExistingEntry] = {}
        self._new_voids: dict[bytes, int] = {}  # seq of the last void of a signal in this commit
        self.batches: list[WriteBatch] = []
        self.warned: list[tuple[int, ItemWarning]] = []  # each with the seq of its entry

    def add(self, request: AppendRequest) -> None:
        """Adds a request. Its policy decides what a conflict does."""
        keys = [_key(item) for item in request.items]
        if request.policy == ALL:
            try:
                if len(request.items) > 1:
                    self._check_conflicts(request.items, keys)
                for index, key in enumerate(keys):
                    self._add(key, request, index)
            except SignalConflict as error:
                request.fail(error)
            return
        for index, key in enumerate(keys):
            try:
                self._add(key, request, index)
            except SignalConflict as error:
                request.settle(index, error)
                if request.policy == PREFIX:
                    request.unsettled -= len(request.items) - index - 1  # the others are not tried
                    return

    def _check_conflicts(self, items: Sequence[ValidatedItem], keys: Sequence[Key | None]) -> None:
        """Raises SignalConflict if one of `items` would, before the first of them is added.

        The dedupe window advances with each new item, here as in `_add`.
        """
        seq = self._seq
        seen: dict[Key, tuple[int, ValidatedItem]] = {}
        voids = self._new_voids.copy()
        for item, key in zip(items, keys, strict=True):
            if key is not None:
                earlier_seq, earlier = seen.get(key, (0, item))
                if earlier is not item and earlier_seq > self._after(key, seq, voids):
                    if not _same_content(item, earlier.sha256, earlier.body):
                        raise _conflict_error(item, "another signal of this call")
                    continue
                existing = self._find_existing(key, seq, voids)
                if existing is not None:
                    _check_same_content(item, existing)
                    continue
            seq += 1
            if key is not None:
                seen[key] = (seq, item)
                note_void(key, seq, voids)

    def _after(self, key: Key, last_seq: int, voids: Mapping[bytes, int]) -> int:
        """The seq after which an entry of this commit makes one with `key` a duplicate."""
        return max(last_seq - self._dedupe_window.entries, void_seq(key, voids))

    def _find_existing(
        self, key: Key, last_seq: int, voids: Mapping[bytes, int]
    ) -> _ExistingEntry | None:
        """The entry with `key`; `voids` are those of this commit, which the window lacks."""
        existing = self._new_by_key.get(key)
        if existing is not None and existing[0].seq > self._after(key, last_seq, voids):
            return existing
        if void_seq(key, voids):
            return None  # what the window has is before that void
        line_position = self._dedupe_window.find(key, last_seq)
        if line_position is None:
            return None
        entry = decode(self._read_stored(line_position))
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

    def _add(self, key: Key | None, request: AppendRequest, index: int) -> None:
        item = request.items[index]
        event, signal_id, body, sha256, _, timestamp, warnings = item
        if timestamp > self._recorded_at:  # both are UTC text, and differ after the microseconds
            warnings += self._ahead_warning(timestamp)
        existing = self._find_existing(key, self._seq, self._new_voids) if key is not None else None
        if existing is not None:
            _check_same_content(item, existing)
            receipt = existing[0]._replace(duplicate=True, warnings=warnings)
            self._current_batch().duplicates.append((receipt, request, index))
            if warnings:
                self._note_warnings(receipt)
            return
        write_batch = self._current_batch()
        if (
            len(write_batch.lines) >= WRITE_BATCH_ENTRIES_MAX
            or write_batch.bytes >= WRITE_BATCH_BYTES_MAX
        ):
            self.batches.append(write_batch := WriteBatch(write_batch.tip, self._seq + 1))
        self._seq = seq = self._seq + 1
        recorded_at = self._recorded_at
        line, self._chain = encode(event, body, seq, write_batch.batch, recorded_at, self._chain)
        receipt = Receipt(seq, signal_id, sha256, self._chain, recorded_at, False, warnings)
        if warnings:
            self._note_warnings(receipt)
        write_batch.lines.append(line)
        write_batch.bytes += len(line)
        write_batch.new_entries.append((key, receipt, request, index))
        if key is not None:
            self._new_by_key[key] = (receipt, body)
            note_void(key, seq, self._new_voids)

    def _ahead_warning(self, timestamp: str) -> tuple[ItemWarning, ...]:
        ahead = datetime.fromisoformat(timestamp) - datetime.fromisoformat(self._recorded_at)
        if ahead <= AHEAD_OF_CLOCK_MAX:
            return NO_WARNINGS
        return (warning("timestamp", "is more than a day ahead of the clock", timestamp),)

    def _note_warnings(self, receipt: Receipt) -> None:
        self.warned.extend((receipt.seq, warning) for warning in receipt.warnings)

    def _current_batch(self) -> WriteBatch:
        if not self.batches:
            self.batches.append(WriteBatch(self._tip_before, self._seq + 1))
        return self.batches[-1]


def _key(item: ValidatedItem) -> Key | None:
    """The key of an item in the dedupe window; None for an item that is never a duplicate."""
    if item.sha256 is None and item.signal_id is not None:
        return fact_key(item.event, item.signal_id, item.body)
    return item.signal_id


def _same_content(item: ValidatedItem, sha256: str | None, body: bytes) -> bool:
    """Whether `item` has the nine fields of the signal with `sha256` and `body`.

    Facts with the same key are equal. A timestamp that the caller left out matches any.
    """
    if item.sha256 == sha256 or item.timestamp_given:
        return item.sha256 == sha256
    fields = orjson.loads(b"{%b}" % item.body)
    fields["timestamp"] = orjson.loads(b"{%b}" % body)["timestamp"]
    return content_sha256(fields) == sha256


def _check_same_content(item: ValidatedItem, existing: _ExistingEntry) -> None:
    receipt, body = existing
    if not _same_content(item, receipt.sha256, body):
        raise _conflict_error(item, f"entry {receipt.seq}")


def _conflict_error(item: ValidatedItem, where: str) -> SignalConflict:
    return SignalConflict(
        f"signal_id {printable_value(item.signal_id)} belongs to a signal with other content",
        signal_id=item.signal_id or "",
        where=where,
        do="a signal never changes: append a fact about it, or use a new signal_id",
    )
