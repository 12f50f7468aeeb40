"""What a writer knows of the log: where it ends, and what its last entries said.

Invariant: `tip` and `end` are a durable end that this handle saw, and `dedupe_window` holds the keys
of the entries before it; bytes that do not continue it are another log's, LogDiverged.
"""

from eventlog.append.dedupe import DedupeWindow, LinePosition, key_of_line
from eventlog.append.recovery import diverged_error
from eventlog.errors import LogCorrupt
from eventlog.format.durability import LogEnd
from eventlog.format.line import CHAIN_BYTES, LINE_BYTES_MAX, BadLine, next_chain, stored_chain
from eventlog.format.scan import TIP_START, Tip, scan, tip_of
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import CHUNK_BYTES, LogReader, corrupt_error
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home


class WriterState:
    """The knowledge of one writer; changed under the writer's lock only."""

    def __init__(self, disk: Disk, home: Home, dedupe_entries: int) -> None:
        self._disk = disk
        self._home = home
        self._dedupe_entries = dedupe_entries
        self.is_loaded = False
        self.tip = TIP_START
        self.end = LogEnd(0, 0, TIP_START.seq, TIP_START.chain)
        self.dedupe_window = DedupeWindow(dedupe_entries)

    @property
    def position(self) -> Position:
        """Behind the last entry."""
        return Position(self.end.segment, self.end.byte_offset)

    @property
    def start(self) -> tuple[Tip, Position] | None:
        """Where to go on from; None before the first look."""
        return (self.tip, self.position) if self.is_loaded else None

    def catch_up(self, end: LogEnd) -> None:
        """Reads what was appended up to `end`, which is durable.

        Raises LogDiverged where that does not continue what was known, LogCorrupt at damage.
        """
        if not self.is_loaded:
            self._load(end)
            return
        if end.seq < self.tip.seq or (end.seq == self.tip.seq and end.chain != self.tip.chain):
            raise diverged_error(self._home, self.tip)
        reader = LogReader(
            self._disk, self._home, after=self.tip.seq, hint=self.position, until=end
        )
        try:
            if reader.tip.chain != self.tip.chain:
                raise diverged_error(self._home, self.tip)
            self._read_to_end(reader)
            if (reader.tip.seq, reader.tip.chain) != (end.seq, end.chain):
                raise diverged_error(self._home, Tip(end.seq, 0, "", end.chain))
            self.tip, self.end = reader.tip, end
        finally:
            reader.close()

    def catch_up_in_segment(self, fd: int, end: LogEnd) -> bool:
        """The usual case: a little was appended to the segment that `fd` has open. True if so."""
        segment, start = self.position
        if end.segment != segment or not start < end.byte_offset <= start + CHUNK_BYTES:
            return False
        found = scan(self._disk.pread(fd, end.byte_offset - start, start), self.tip)
        if (found.tip.seq, found.tip.chain) != (end.seq, end.chain):
            return False
        self._remember(found.lines, found.tip, Position(segment, end.byte_offset))
        self.tip, self.end = found.tip, end
        return True

    def read_stored(self, line_position: LinePosition) -> bytes:
        """The line at a place in the window, as it was made durable. Raises LogCorrupt."""
        start = max(0, line_position.byte_offset - CHAIN_BYTES)
        fd = self._disk.open(self._home.segment_path(line_position.segment), writable=False)
        try:
            data = self._disk.pread(fd, CHAIN_BYTES + LINE_BYTES_MAX, start)
        finally:
            self._disk.close(fd)
        before, after = (
            data[: line_position.byte_offset - start],
            data[line_position.byte_offset - start :],
        )
        line = after[: after.find(b"\n") + 1]
        try:
            # A receipt made of it is an ack: it must not tell what was damaged meanwhile.
            tip = tip_of(line)
            if tip.seq == line_position.seq and next_chain(stored_chain(before), line) == tip.chain:
                return line
        except BadLine:
            pass
        return self._read_by_scan(line_position)

    def _read_by_scan(self, line_position: LinePosition) -> bytes:
        """The same by a reader, who knows of segments and of damage, and says where it is."""
        hint = Position(line_position.segment, line_position.byte_offset)
        reader = LogReader(
            self._disk, self._home, after=line_position.seq - 1, hint=hint, until=self.end
        )
        try:
            lines = reader.read()
        finally:
            reader.close()
        if not lines or tip_of(lines[0]).seq != line_position.seq:
            raise corrupt_error("is gone", *hint, line_position.seq)
        return lines[0]

    def _load(self, end: LogEnd) -> None:
        """The first look: the end, and the keys of the last entries."""
        self.dedupe_window = DedupeWindow(self._dedupe_entries)
        after = max(0, end.seq - self._dedupe_entries)
        reader = LogReader(self._disk, self._home, after=after, until=end)
        try:
            self._read_to_end(reader)
            if (reader.tip.seq, reader.tip.chain) != (end.seq, end.chain):
                raise LogCorrupt(
                    f"entry {end.seq} is not the one that was durable",
                    segment=segment_name(max(1, end.segment)),
                    byte_offset=end.byte_offset,
                    seq=end.seq,
                )
            self.tip, self.end = reader.tip, end
            self.is_loaded = True
        finally:
            reader.close()

    def _read_to_end(self, reader: LogReader) -> None:
        while lines := reader.read():
            self._remember(lines, reader.tip, reader.position)

    def _remember(self, lines: list[bytes], tip: Tip, end: Position) -> None:
        """Adds the keys of `lines`, which end with `tip`, at `end`."""
        byte_offset = end.byte_offset - sum(map(len, lines))
        for seq, line in enumerate(lines, tip.seq - len(lines) + 1):
            key = key_of_line(line)
            if key is not None and self.dedupe_window.find(key, seq - 1) is None:
                self.dedupe_window.add(key, LinePosition(seq, end.segment, byte_offset))
            byte_offset += len(line)
