"""LogReader: reads the lines after a seq, in bounded chunks, up to the durable end.

A power loss may still roll back what the page cache holds beyond the durable end, so a reader stops
at the end in the lock record. Small segments before that end are read several at a time. Without a
valid lock record it syncs the names once and each segment before it returns a line of it: it takes
the file's size, syncs, reads, and keeps what it read only if there is still no valid record. At a
bad line the recovery rule decides: torn means wait, corrupt means halt. At an accepted gap the
reader continues after it.

Invariant: each line returned continues the chain of the line before it, or the accepted gap between
them.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import NamedTuple

from eventlog.errors import LogCorrupt, LogDiverged
from eventlog.format.durability import CLEAN, LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import LINE_BYTES_MAX, BadLine
from eventlog.format.scan import TIP_START, is_misplaced, scan, tip_of
from eventlog.format.segment import Position, segment_index, segment_name
from eventlog.read.ahead import SMALL_SEGMENT_BYTES, SmallSegment, read_small_segments
from eventlog.read.lines import CHUNK_BYTES, ReadLines, corrupt_error, evidence_after
from eventlog.read.problems import beyond_end_problem
from eventlog.read.seek import find_line
from eventlog.storage.device_sync import sync_earlier_segments, sync_for_reading, sync_names
from eventlog.storage.disk import Disk
from eventlog.storage.durable_state import DurableState, read_durable_state
from eventlog.storage.gap_file import AcceptedGaps
from eventlog.storage.home import Home, list_segments


class _ReadLimit(NamedTuple):
    """The end up to which the current segment may be read."""

    byte_offset: int
    is_durable: bool  # by the lock record: any bad line before it is damage
    has_next: bool  # a later segment exists
    state: DurableState  # from which it was taken


class LogReader:
    """Reads one log forward from after a seq. Not thread-safe; holds one descriptor.

    It follows the durable end, so after an empty result a later read may return more. With
    `until`, a durable end that the caller knows, it stops there. With `holds_lock` the caller is a
    recovering writer: the lock record is no limit, and only proves what was durable.
    `accepted_gaps` replaces the content of `.accepted`; the caller may add to it between two reads.
    """

    chunk_bytes = CHUNK_BYTES
    scan = staticmethod(scan)  # overridden by a stricter reader

    def __init__(
        self,
        disk: Disk,
        home: Home,
        *,
        after: int = 0,
        hint: Position | None = None,
        until: LogEnd | None = None,
        holds_lock: bool = False,
        accepted_gaps: Sequence[AcceptedGap] | None = None,
    ) -> None:
        self._disk = disk
        self._home = home
        self._until = until
        self._holds_lock = holds_lock
        self._gaps = AcceptedGaps(disk, home, accepted_gaps)
        self._fd = -1
        # First seq of the segment that is read; 0 before the first. It is open, unless all of it
        # was read ahead.
        self._segment = 0
        self._byte_offset = 0
        self._synced_bytes = -1  # of the open segment, where this reader has synced it
        self._are_names_synced = self._are_earlier_synced = holds_lock  # by the writer that reads
        self._segments: list[int] = []  # as they were last listed
        self._ahead: deque[SmallSegment] = deque()  # the next segments, where they were read ahead
        self.tip = TIP_START
        # Beyond the position, where no lock record shows whether they are durable.
        self.unread_bytes = 0
        if after > 0:
            self._start_after(after, hint)

    @property
    def position(self) -> Position:
        """The start of the next line."""
        return Position(self._segment, self._byte_offset)

    def close(self) -> None:
        """Closes the descriptor; reading again is an error."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def read(self) -> list[bytes]:
        """The next durable lines, at most about CHUNK_BYTES; empty at the durable end.

        Raises LogCorrupt at damage to acknowledged data, after the lines before it, and LogDiverged
        where the log was shortened to before this reader's position.
        """
        while self._segment or self._open_first():
            if self._fd >= 0:
                limit = self._limit()
                self.unread_bytes = 0
                if self._byte_offset < limit.byte_offset:
                    return self._read_lines(limit)
                if not limit.has_next:
                    self._check_file()
                    return []
                self._read_ahead(limit)
            if lines := self._take_ahead():
                return lines
            if self._fd >= 0:
                self._open_next()
            else:
                self._reopen()
        return []

    def read_joined(self) -> ReadLines:
        """The next durable lines as `read` gives them, of small segments several at a time."""
        lines = self.read()
        start = Position(self._segment, self._byte_offset - sum(map(len, lines)))
        segments = [self._segment]
        while more := self._take_ahead():
            lines += more
            segments.append(self._segment)
        return ReadLines(lines, start, self.position, segments)

    def _read_ahead(self, limit: _ReadLimit) -> None:
        """Reads the small segments that follow, as far as a durable end lies beyond them."""
        end = limit.state.limit if self._until is None else self._until
        if end is None or self._byte_offset > SMALL_SEGMENT_BYTES:
            return
        start = bisect_right(self._segments, self._segment)
        closed = takewhile(
            lambda segment: segment < end.segment, islice(self._segments, start, None)
        )
        found = read_small_segments(self._disk, self._home, closed, self.chunk_bytes)
        if self._until is None and found:
            after = self._durable_state().limit
            if after is None or after.segment <= found[-1].segment:
                return  # the log was replaced meanwhile: what was read may not be durable
        self._ahead = deque(found)

    def _take_ahead(self) -> list[bytes]:
        """The lines of the next segment, where it was read ahead and nothing is wrong with it."""
        if self._ahead:
            segment, data = self._ahead.popleft()
            try:
                scanned = self.scan(data, self.tip)
            except LogCorrupt:  # the usual way finds it again, and names the place
                scanned = None
            if scanned and segment == self.tip.seq + 1 and scanned.bytes_good == len(data):
                self.close()
                self._segment, self._byte_offset, self.tip = segment, len(data), scanned.tip
                return scanned.lines
            self._ahead.clear()
        return []

    def _read_lines(self, limit: _ReadLimit) -> list[bytes]:
        length = min(limit.byte_offset - self._byte_offset, self.chunk_bytes)
        data = self._disk.pread(self._fd, length, self._byte_offset)
        if self._has_writer_passed(limit.state):
            return self.read()  # what was read may not be durable
        scanned = self.scan(data, self.tip)
        if scanned.lines:
            self._byte_offset += scanned.bytes_good
            self.tip = scanned.tip
            return scanned.lines
        if self._skip_gap(self._segment, self._byte_offset):
            return self.read()
        seq = self.tip.seq + 1
        is_damage = (
            limit.is_durable
            or limit.has_next
            or self._durable_seq() >= seq
            or (self._byte_offset == 0 and is_misplaced(data, seq))
            or evidence_after(
                self._disk, self._home, self._fd, self._byte_offset, limit.byte_offset, seq
            )
        )
        if self._has_writer_passed(limit.state):
            return self.read()  # it may have cut the torn tail
        if is_damage:
            raise corrupt_error(
                scanned.problem or "is cut off", self._segment, self._byte_offset, seq
            )
        self.unread_bytes = limit.byte_offset - self._byte_offset
        return []  # torn: the next writer cuts it

    def _has_writer_passed(self, before: DurableState) -> bool:
        """Whether a writer has started since `before`, in which no lock record gave a limit."""
        if before.limit is not None or self._until is not None or self._holds_lock:
            return False
        state = read_durable_state(self._disk, self._home)
        return state.limit is not None or state.lock_data != before.lock_data

    def _durable_seq(self) -> int:
        """The last seq that was durable by the watermark or by the lock record."""
        return read_durable_state(self._disk, self._home).end.seq

    def _limit(self) -> _ReadLimit:
        state = self._durable_state()
        end = state.limit if self._until is None else self._until
        size = self._disk.size(self._fd)
        if size < self._byte_offset:
            raise self._shortened_error(f"{segment_name(self._segment)} now ends at byte {size}")
        if end is None:
            limit = _ReadLimit(size, False, self._has_later_segment(), state)
            if limit.has_next and self._has_writer_passed(state):
                return self._limit()  # the segment may have grown
            self._sync(size, limit.has_next, state)
            if not limit.has_next and size == self._byte_offset:
                self._check_durable(state)
            return limit
        if end.segment > self._segment:
            return _ReadLimit(size, True, True, state)
        # A record that says `writing` may be an older one that was put back: what lies beyond its
        # end looks like a write under way.
        is_clean = state.lock_record is None or state.lock_record.state == CLEAN
        if end.seq < self.tip.seq and is_clean:
            raise self._shortened_error(f"its durable end is now seq {end.seq}")
        if end.seq < self.tip.seq or end.segment < self._segment:
            # This segment was just created and is empty, or a writer died before this reader's
            # position was durable by its record; the next writer starts from the device.
            return _ReadLimit(self._byte_offset, True, False, state)
        if end.byte_offset < self._byte_offset:
            raise self._shortened_error(f"its durable end is now seq {end.seq}")
        if size < end.byte_offset and size == self._byte_offset:
            self._check_file()
            if self._disk.size(self._fd) > size:
                return self._limit()  # the segment was replaced by a copy that has grown
            raise corrupt_error("is gone: the file is cut", self._segment, size, self.tip.seq + 1)
        return _ReadLimit(end.byte_offset, True, False, state)

    def _durable_state(self) -> DurableState:
        """The durable state; an empty one where the caller gave the end, or holds the lock."""
        if self._until is not None or self._holds_lock:
            return DurableState(None, None)
        return read_durable_state(self._disk, self._home)

    def _has_later_segment(self) -> bool:
        """Whether a later segment exists. Lists the directory only at the last known one."""
        if not self._segments or self._segments[-1] <= self._segment:
            self._segments = list_segments(self._disk, self._home)
        return bool(self._segments) and self._segments[-1] > self._segment

    def _sync(self, size: int, is_closed: bool, state: DurableState) -> None:
        """Makes `size` bytes of the open segment durable, and first the names. Raises OSError.

        Without a valid lock record it also syncs all segments before: another program may have
        copied the log together with the checkpoint from which this reader goes on.
        """
        if not self._are_names_synced:
            sync_names(self._disk, self._home)
            self._are_names_synced = True
        if not self._are_earlier_synced and state.lock_record is None:
            sync_earlier_segments(self._disk, self._home, self._segment)
            self._are_earlier_synced = True
        if not is_closed or (self._synced_bytes < size and not self._holds_lock):
            sync_for_reading(self._disk, self._fd)
            self._synced_bytes = size

    def _check_file(self) -> None:
        """Switches to the file now at the segment's path, if it holds the same log."""
        if self._disk.size_at(self._fd, self._home.segment_path(self._segment)) is not None:
            return
        tip, position = self.tip, self.position
        if not self._open(self._segment) or (
            tip.seq and not (self._start_at_hint(position, tip.seq) and self.tip.chain == tip.chain)
        ):
            self.tip = tip
            raise self._shortened_error(f"{segment_name(self._segment)} was replaced or removed")

    def _check_durable(self, state: DurableState) -> None:
        """Raises LogCorrupt where the log ends here, but was durable beyond.

        `state` was read before this reader found that the log ends here.
        """
        durable_seq = state.limit.seq if state.limit is not None else self._durable_seq()
        seq = self.tip.seq + 1
        if self._until is not None or durable_seq < seq or self._skip_gap(seq, 0):
            return
        if self._has_writer_passed(state):
            return  # and has appended: the next read uses its lock record
        problem = beyond_end_problem(durable_seq)
        raise corrupt_error(problem, self._segment or 1, self._byte_offset, seq)

    def _shortened_error(self, how: str) -> LogDiverged:
        return LogDiverged(
            f"the log was shortened after entry {self.tip.seq} had been read: {how}",
            where=self._home.log_dir,
            do="find out who replaced the log; restore it, or rebuild what was built on it",
        )

    def _open_first(self) -> bool:
        if self._until is not None and self._until.seq == 0:
            return False
        state = self._durable_state()
        segments = self._segments = list_segments(self._disk, self._home)
        if not segments:
            self._check_durable(state)
            return False
        seq = self.tip.seq + 1  # 1, or the first after a gap at the start
        if not self._open(seq) and not self._skip_gap(seq, 0):
            raise corrupt_error("is missing: so is its segment", segments[0], 0, seq)
        return self._segment > 0 or self._open_first()

    def _open_next(self) -> None:
        seq = self.tip.seq + 1
        index = bisect_right(self._segments, self._segment)
        if self._segments[index : index + 1] == [seq] and self._open(seq):
            return
        self._segments = list_segments(self._disk, self._home)
        later = [s for s in self._segments if s > self._segment]
        if seq in later[1:]:
            raise corrupt_error("is also in the segment before", later[0], 0, later[0])
        if seq not in later or not self._open(seq):
            if self._skip_gap(seq, 0):
                return
            problem = f"is missing: {segment_name(min(later, default=seq))} should start with it"
            raise corrupt_error(problem, self._segment, self._byte_offset, seq)

    def _skip_gap(self, segment: int, byte_from: int) -> bool:
        """Continues after an accepted gap, if one starts here."""
        gap = self._gaps.at(segment, byte_from, self.tip.seq + 1)
        if gap is None:
            return False
        self.tip = gap.tip
        if segment == self._segment:
            self._byte_offset = gap.byte_to
        return True

    def _reopen(self) -> None:
        """Opens the current segment, all of which was read ahead, to go on from its end."""
        byte_offset = self._byte_offset
        if not self._open(self._segment):
            raise self._shortened_error(f"{segment_name(self._segment)} was removed")
        self._byte_offset = byte_offset

    def _open(self, segment: int) -> bool:
        try:
            fd = self._disk.open(self._home.segment_path(segment), writable=False)
        except FileNotFoundError:
            return False
        self.close()
        self._fd, self._segment, self._byte_offset = fd, segment, 0
        self._synced_bytes = -1
        return True

    def _start_after(self, after: int, hint: Position | None) -> None:
        # A gap first: its bytes may still look like the line that they were.
        if self._start_in_gap(after) or (hint is not None and self._start_at_hint(hint, after)):
            return
        segments = self._segments = list_segments(self._disk, self._home)
        if segments and after >= segments[0]:
            self._open(segments[segment_index(segments, after)])
            found = find_line(self._disk, self._fd, after)
            if found is not None:
                self._byte_offset, self.tip = found.byte_to, found.tip
                return
            before = find_line(self._disk, self._fd, after - 1)
            self._byte_offset = before.byte_to if before is not None else 0
        if segments and max(segments[-1] - 1, self._durable_seq()) >= after:
            place = (self._segment or segments[0], self._byte_offset)
            raise corrupt_error("is missing or cannot be read", *place, after)
        raise LogDiverged(
            f"the log holds no entry {after}",
            where=self._home.log_dir,
            do="check that this is the right home; `eventlog status` shows the last seq",
        )

    def _start_in_gap(self, after: int) -> bool:
        gap = self._gaps.containing(after)
        if gap is None:
            return False
        self.tip = gap.tip
        if not self._open(gap.seq_to + 1) and self._open(gap.segment):
            self._byte_offset = gap.byte_to
        return self._segment > 0

    def _start_at_hint(self, hint: Position, after: int) -> bool:
        if hint.segment < 1 or not self._open(hint.segment):
            return False
        start = max(0, hint.byte_offset - LINE_BYTES_MAX)
        data = self._disk.pread(self._fd, hint.byte_offset - start, start)
        line = data[data.rfind(b"\n", 0, -1) + 1 :]
        try:
            tip = tip_of(line)
        except BadLine:
            return False
        if tip.seq == after and start + len(data) == hint.byte_offset:
            self._byte_offset, self.tip = hint.byte_offset, tip
            return True
        return False
