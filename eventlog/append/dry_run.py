"""Dry run of appends: what they would return, without a write, a lock or a new file.

Invariant: as long as no other process appends, the receipts are those of a real append, apart from
times, generated ids and the hashes that follow from them.
"""

from collections.abc import Callable, Sequence
from contextlib import closing

from eventlog.append.batch import EACH, AppendRequest, BatchBuilder, Receipt
from eventlog.append.writer_state import WriterState
from eventlog.errors import EventLogError
from eventlog.format.durability import LogEnd
from eventlog.format.scan import Tip
from eventlog.format.segment import LinePosition
from eventlog.read.near_end import reader_near_end
from eventlog.schema.validation import ValidatedItem
from eventlog.storage.disk import Disk
from eventlog.storage.fence_file import refuse_fenced
from eventlog.storage.home import Home
from eventlog.storage.replica_file import refuse_replica


class DryRun:
    """Appends to the log as it is when this object is made, in memory only. Not thread-safe.

    Raises LogCorrupt, and LogFenced or LogIsReplica where an append would.
    """

    def __init__(
        self, disk: Disk, home: Home, clock: Callable[[], str], dedupe_entries: int
    ) -> None:
        refuse_fenced(disk, home)
        refuse_replica(disk, home)
        self._clock = clock
        self._dedupe_entries = dedupe_entries
        self._state = WriterState(disk, home, dedupe_entries)
        with closing(reader_near_end(disk, home)) as reader:
            while reader.read():
                pass
            end = LogEnd(*reader.position, reader.tip.seq, reader.tip.chain)
        if end.seq:
            self._state.catch_up(end)
        self._durable_seq = end.seq
        self._tip: Tip = self._state.tip
        self._lines: dict[int, bytes] = {}  # those that this dry run added, as far as a retry finds

    def append_each(self, items: Sequence[ValidatedItem]) -> list[Receipt | EventLogError]:
        """The receipt or the error of each item, as if all items before it were in the log."""
        window = self._state.dedupe_window
        now = max(self._clock(), self._tip.recorded_at)
        builder = BatchBuilder(self._tip, now, window, self._read_stored)
        request = AppendRequest(items, EACH)
        builder.add(request)
        for write_batch in builder.batches:
            for line, (_, receipt, _, _) in zip(
                write_batch.lines, write_batch.new_entries, strict=True
            ):
                self._lines[receipt.seq] = line
            write_batch.settle(window, 0, 0)
            self._tip = write_batch.tip
        for seq in list(self._lines):
            if seq > self._tip.seq - self._dedupe_entries:
                break
            del self._lines[seq]
        return [result for result in request.results if result is not None]

    def _read_stored(self, line_position: LinePosition) -> bytes:
        if line_position.seq > self._durable_seq:
            return self._lines[line_position.seq]
        return self._state.read_stored(line_position)
