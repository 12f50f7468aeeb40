"""Lines after a seq, in bounded pieces, up to the durable end and never beyond it.

What the page cache holds beyond the durable end may still be rolled back, so a reader stops at the
end that the lock's word gives. Without a word of this boot it takes the file's size, syncs, reads,
and keeps what it read only if there is still no word. At a bad line the recovery rule decides:
torn means wait, corrupt means halt, and where a person accepted the damage the reader goes on
behind it: the seqs that were lost are a gap.

Invariant: each line that comes out continues the chain of the one before it, or what `.accepted`
says of the gap between them.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from eventlog.errors import LogCorrupt, LogDiverged
from eventlog.format.durability import LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import LINE_BYTES_MAX, BadLine, Entry, decode
from eventlog.format.scan import TIP_START, has_evidence, is_misplaced, scan, tip_of
from eventlog.format.segment import Position, segment_index, segment_name
from eventlog.read.seek import find_line
from eventlog.storage.disk import Disk, sync_for_reading
from eventlog.storage.durable_state import read_durable_end, read_durable_state, read_watermark
from eventlog.storage.gap_file import AcceptedGaps
from eventlog.storage.home import Home, list_segments, log_not_found

CHUNK_BYTES = 1 << 20  # read at a time: large enough to be fast, small enough for any machine


class _ReadLimit(NamedTuple):
    """How far the current segment may be read."""

    byte_offset: int
    is_durable: bool  # the word says so: whatever is wrong before it is damage
    has_next: bool  # a later segment exists


def corrupt_error(problem: str, segment: int, byte_offset: int, seq: int) -> LogCorrupt:
    """The error for damage to acknowledged data; `problem` continues "entry 42 ..."."""
    return LogCorrupt(
        f"entry {seq} {problem}", segment=segment_name(segment), byte_offset=byte_offset, seq=seq
    )


def evidence_after(disk: Disk, fd: int, byte_offset: int, size: int, missing_seq: int) -> bool:
    """Whether the bytes from the bad line at `byte_offset` on prove that it was durable."""
    start = 1  # the bad line's own head does not count
    while byte_offset < size:
        data = disk.pread(fd, CHUNK_BYTES + LINE_BYTES_MAX, byte_offset)
        if has_evidence(data, missing_seq, start):
            return True
        byte_offset += CHUNK_BYTES
        start = 0
    return False


class LogReader:
    """Reads one log forward from after a seq. Not thread-safe; holds one descriptor.

    It follows the durable end as that moves, so that reading again after an empty answer goes on.
    With `until`, a durable end that the caller knows, it stops there. With `holds_lock`, the
    caller is the writer that recovers: the word bounds nothing, it only proves what was durable.
    `accepted_gaps` stands for what `.accepted` says; the caller may add to it between two reads.
    """

    chunk_bytes = CHUNK_BYTES
    scan = staticmethod(scan)  # a stricter reader has its own

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
        self._segment = 0  # first seq of the open segment; 0 when none is
        self._byte_offset = 0
        self.tip = TIP_START
        self.unread_bytes = 0  # beyond the position, where no word tells what they are
        if after > 0:
            self._start_after(after, hint)

    @property
    def position(self) -> Position:
        """Where the next line starts."""
        return Position(self._segment, self._byte_offset)

    def close(self) -> None:
        """Gives the descriptor back; reading again is an error."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def read(self) -> list[bytes]:
        """The next durable lines, at most about CHUNK_BYTES; empty at the durable end.

        Raises LogCorrupt at damage to acknowledged data (lines before it come out first) and
        LogDiverged when the log was shortened behind this reader.
        """
        while self._segment or self._open_first():
            limit = self._limit()
            self.unread_bytes = 0
            if self._byte_offset < limit.byte_offset:
                return self._read_lines(limit)
            if not limit.has_next:
                self._check_file()
                return []
            self._open_next()
        return []

    def _read_lines(self, limit: _ReadLimit) -> list[bytes]:
        length = min(limit.byte_offset - self._byte_offset, self.chunk_bytes)
        data = self._disk.pread(self._fd, length, self._byte_offset)
        if not limit.is_durable and self._end() is not None:
            return self.read()  # a writer came: only its word says what is durable
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
            or evidence_after(self._disk, self._fd, self._byte_offset, limit.byte_offset, seq)
        )
        if not limit.is_durable and self._end() is not None:
            return self.read()  # a writer came meanwhile, and may have cut what was torn
        if is_damage:
            raise corrupt_error(
                scanned.problem or "is cut off", self._segment, self._byte_offset, seq
            )
        self.unread_bytes = limit.byte_offset - self._byte_offset
        return []  # torn: the next writer cuts it

    def _end(self) -> LogEnd | None:
        """The durable end that bounds this reader, if anything gives one."""
        if self._until is not None or self._holds_lock:
            return self._until
        return read_durable_end(self._disk, self._home)

    def _durable_seq(self) -> int:
        """The last seq that was durable by the watermark or by the lock record."""
        return read_durable_state(self._disk, self._home).end.seq

    def _limit(self) -> _ReadLimit:
        end = self._end()
        size = self._disk.size(self._fd)
        if size < self._byte_offset:
            raise self._shortened_error(f"{segment_name(self._segment)} now ends at byte {size}")
        if end is None:
            later = any(s > self._segment for s in list_segments(self._disk, self._home))
            if later and self._end() is not None:
                return self._limit()  # a writer came meanwhile: the segment may have grown
            if not later:
                sync_for_reading(self._disk, self._fd)
                if size == self._byte_offset:
                    self._check_durable(end)
            return _ReadLimit(size, False, later)
        if end.segment > self._segment:
            return _ReadLimit(size, True, True)
        if end.seq < self.tip.seq:
            raise self._shortened_error(f"its durable end is now seq {end.seq}")
        if end.segment < self._segment:  # this segment was made just now, and holds nothing yet
            return _ReadLimit(self._byte_offset, True, False)
        if end.byte_offset < self._byte_offset:
            raise self._shortened_error(f"its durable end is now seq {end.seq}")
        if size < end.byte_offset and size == self._byte_offset:
            self._check_file()
            if self._disk.size(self._fd) > size:
                return self._limit()  # the segment was replaced by a copy that has grown
            raise corrupt_error("is gone: the file is cut", self._segment, size, self.tip.seq + 1)
        return _ReadLimit(end.byte_offset, True, False)

    def _check_file(self) -> None:
        """Goes on in the file that stands at the segment's path now, if it holds the same log."""
        if self._disk.size_at(self._fd, self._home.segment_path(self._segment)) is not None:
            return
        tip, position = self.tip, self.position
        if not self._open(self._segment) or (
            tip.seq and not (self._start_at_hint(position, tip.seq) and self.tip.chain == tip.chain)
        ):
            self.tip = tip
            raise self._shortened_error(f"{segment_name(self._segment)} was replaced or removed")

    def _check_durable(self, end: LogEnd | None) -> None:
        """Raises LogCorrupt when the log ends here, but was durable beyond.

        `end` is what bounded this reader when it saw that the log ends here.
        """
        durable_seq = end.seq if end is not None else self._durable_seq()
        seq = self.tip.seq + 1
        if self._until is not None or durable_seq < seq or self._skip_gap(seq, 0):
            return
        if end is None and self._end() is not None:
            return  # a writer came meanwhile, and went on: the next look goes by its word
        problem = f"is gone: the log was durable up to entry {durable_seq}"
        raise corrupt_error(problem, self._segment or 1, self._byte_offset, seq)

    def _shortened_error(self, how: str) -> LogDiverged:
        return LogDiverged(
            f"the log was shortened behind entry {self.tip.seq}, which was read: {how}",
            where=self._home.log_dir,
            do="find out who replaced the log; restore it, or rebuild what was built on it",
        )

    def _open_first(self) -> bool:
        if self._until is not None and self._until.seq == 0:
            return False
        end = self._end()
        segments = list_segments(self._disk, self._home)
        if not segments:
            self._check_durable(end)
            return False
        seq = self.tip.seq + 1  # 1, or what follows a gap at the start
        if not self._open(seq) and not self._skip_gap(seq, 0):
            raise corrupt_error("is missing: so is its segment", segments[0], 0, seq)
        return self._segment > 0 or self._open_first()

    def _open_next(self) -> None:
        seq = self.tip.seq + 1
        later = [s for s in list_segments(self._disk, self._home) if s > self._segment]
        if seq in later[1:]:
            raise corrupt_error("stands in the segment before", later[0], 0, later[0])
        if seq not in later or not self._open(seq):
            if self._skip_gap(seq, 0):
                return
            problem = f"is missing: {segment_name(min(later, default=seq))} should start with it"
            raise corrupt_error(problem, self._segment, self._byte_offset, seq)

    def _skip_gap(self, segment: int, byte_from: int) -> bool:
        """Goes on behind damage that a person accepted, if it is such that starts here."""
        gap = self._gaps.at(segment, byte_from, self.tip.seq + 1)
        if gap is None:
            return False
        self.tip = gap.tip
        if segment == self._segment:
            self._byte_offset = gap.byte_to
        return True

    def _open(self, segment: int) -> bool:
        try:
            fd = self._disk.open(self._home.segment_path(segment), writable=False)
        except FileNotFoundError:
            return False
        self.close()
        self._fd, self._segment, self._byte_offset = fd, segment, 0
        return True

    def _start_after(self, after: int, hint: Position | None) -> None:
        # First, for the bytes there may still look like the line that they were.
        if self._start_in_gap(after) or (hint is not None and self._start_at_hint(hint, after)):
            return
        segments = list_segments(self._disk, self._home)
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


def reader_near_end(disk: Disk, home: Home, *, holds_lock: bool = False) -> LogReader:
    """A reader that starts at the watermark or, without one, right before the last segment.

    What it has to scan grows with the tail of a log that is whole. Raises LogCorrupt.
    """
    watermark = read_watermark(disk, home)
    if watermark is not None and watermark.end.seq > 0:
        end = watermark.end
        hint = Position(end.segment, end.byte_offset)
        try:
            reader = LogReader(disk, home, after=end.seq, hint=hint, holds_lock=holds_lock)
        except (LogCorrupt, LogDiverged):
            pass  # it is not there: scanning the last segment will tell where the log ends
        else:
            # Found before its place, it would make what stands behind it look torn. The place may
            # also be the start of a segment: then it is the last one of the segment before.
            if reader.tip.chain == end.chain and (reader.position >= hint or hint.byte_offset == 0):
                return reader
            reader.close()
            raise corrupt_error("is not the one that was durable", *hint, end.seq)
    segments = list_segments(disk, home)
    # One entry earlier: the line that the segment follows is not taken at its word.
    after = max(0, segments[-1] - 2) if segments else 0
    try:
        return LogReader(disk, home, after=after, holds_lock=holds_lock)
    except LogCorrupt:  # by a reader who comes from the start it is named for what it is
        return LogReader(disk, home, holds_lock=holds_lock)


def decode_lines(lines: list[bytes], end: Position) -> Iterator[Entry]:
    """The entries of lines that a LogReader gave, which end at `end`.

    Raises LogCorrupt for a line that is chained but is no JSON: no writer of ours made it.
    """
    for index, line in enumerate(lines):
        try:
            yield decode(line)
        except BadLine as error:
            byte_offset = end.byte_offset - sum(map(len, lines[index:]))
            raise corrupt_error(str(error), end.segment, byte_offset, tip_of(line).seq) from None


def require_segments(disk: Disk, home: Home) -> list[int]:
    """First seqs of all segments, in order, at least one.

    Raises LogNotFound where there is no log, LogCorrupt where its segments are gone.
    """
    segments = list_segments(disk, home)
    if not segments:
        with closing(LogReader(disk, home)) as reader:
            reader.read()  # it knows whether there was one
        segments = list_segments(disk, home)  # a writer may have come meanwhile
    if not segments:
        raise log_not_found(home)
    return segments
