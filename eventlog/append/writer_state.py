"""The state that a writer keeps of its log: the durable end, and the dedupe window.

Invariant: `tip` and `end` are a durable end that this handle saw, and `dedupe_window` holds the
keys of the last entries before it. A log that does not continue it raises LogDiverged.
"""

from contextlib import closing

from eventlog.append.dedupe import DedupeWindow, key_of_line
from eventlog.append.recovery import diverged_error
from eventlog.errors import LogCorrupt
from eventlog.format.durability import LogEnd
from eventlog.format.line import CHAIN_BYTES, LINE_BYTES_MAX, BadLine, next_chain, stored_chain
from eventlog.format.scan import TIP_START, Tip, scan, tip_of
from eventlog.format.segment import LinePosition, Position, segment_name
from eventlog.read.lines import CHUNK_BYTES, ReadLines, corrupt_error
from eventlog.read.reader import LogReader
from eventlog.storage.disk import Disk, opened
from eventlog.storage.home import Home


class WriterState:
    """The state of one writer, changed under the writer's lock only."""

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
        """The position after the last entry."""
        return Position(self.end.segment, self.end.byte_offset)

    @property
    def start(self) -> tuple[Tip, Position] | None:
        """The place to continue reading; None until the log was read once."""
        return (self.tip, self.position) if self.is_loaded else None

    def catch_up(self, end: LogEnd) -> None:
        """Reads the entries that other writers appended, up to the durable `end`.

        Raises LogDiverged where they do not continue this state, LogCorrupt at damage.
        """
        if not self.is_loaded:
            self._load(end)
            return
        if end.seq < self.tip.seq or (end.seq == self.tip.seq and end.chain != self.tip.chain):
            raise diverged_error(self._home, self.tip)
        with closing(
            LogReader(self._disk, self._home, after=self.tip.seq, hint=self.position, until=end)
        ) as reader:
            if reader.tip.chain != self.tip.chain:
                raise diverged_error(self._home, self.tip)
            self._read_to_end(reader)
            if (reader.tip.seq, reader.tip.chain) != (end.seq, end.chain):
                raise diverged_error(self._home, Tip(end.seq, 0, "", end.chain))
            self.tip, self.end = reader.tip, end

    def catch_up_in_segment(self, fd: int, end: LogEnd) -> bool:
        """Reads a few entries appended to the open segment `fd`, the usual case; True if it did."""
        segment, start = self.position
        if end.segment != segment or not start < end.byte_offset <= start + CHUNK_BYTES:
            return False
        found = scan(self._disk.pread(fd, end.byte_offset - start, start), self.tip)
        if (found.tip.seq, found.tip.chain) != (end.seq, end.chain):
            return False
        lines = ReadLines(
            found.lines, self.position, Position(segment, end.byte_offset), (segment,)
        )
        self._remember(lines, found.tip.seq)
        self.tip, self.end = found.tip, end
        return True

    def read_stored(self, line_position: LinePosition) -> bytes:
        """The line that the dedupe window points to, as it was written. Raises LogCorrupt."""
        start = max(0, line_position.byte_offset - CHAIN_BYTES)
        with opened(self._disk, self._home.segment_path(line_position.segment)) as fd:
            data = self._disk.pread(fd, CHAIN_BYTES + LINE_BYTES_MAX, start)
        line_start = line_position.byte_offset - start
        before, line = data[:line_start], data[line_start : data.find(b"\n", line_start) + 1]
        try:
            # A receipt made of the line acknowledges it, so it is checked for damage first.
            tip = tip_of(line)
            if tip.seq == line_position.seq and next_chain(stored_chain(before), line) == tip.chain:
                return line
        except BadLine:
            pass
        return self._read_by_scan(line_position)

    def _read_by_scan(self, line_position: LinePosition) -> bytes:
        """The same through a LogReader, which locates a damaged or moved line."""
        hint = Position(line_position.segment, line_position.byte_offset)
        after = line_position.seq - 1
        with closing(
            LogReader(self._disk, self._home, after=after, hint=hint, until=self.end)
        ) as reader:
            lines = reader.read()
        if not lines or tip_of(lines[0]).seq != line_position.seq:
            raise corrupt_error("is gone", *hint, line_position.seq)
        return lines[0]

    def _load(self, end: LogEnd) -> None:
        """Reads the last entries for the first time: their keys, and the end."""
        self.dedupe_window = DedupeWindow(self._dedupe_entries)
        after = max(0, end.seq - self._dedupe_entries)
        with closing(LogReader(self._disk, self._home, after=after, until=end)) as reader:
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

    def _read_to_end(self, reader: LogReader) -> None:
        while (found := reader.read_joined()).lines:
            self._remember(found, reader.tip.seq)

    def _remember(self, found: ReadLines, last_seq: int) -> None:
        """Adds the keys of lines to the window; the last of them is entry `last_seq`."""
        positions = found.positions(last_seq - len(found.lines) + 1)
        for line, position in zip(found.lines, positions, strict=True):
            key = key_of_line(line)
            if key is not None and self.dedupe_window.find(key, position.seq - 1) is None:
                self.dedupe_window.add(key, position)
