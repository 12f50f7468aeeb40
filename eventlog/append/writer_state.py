"""What a writer knows of the log: where it ends, and what its last entries said.

Invariant: `tip` and `end` are a durable end that this handle saw, and `window` holds the keys
of the entries before it; bytes that do not continue it are another log's, LogDiverged.
"""

from eventlog.append.dedupe import Place, Window, key_of_line
from eventlog.append.recovery import diverged
from eventlog.errors import LogCorrupt
from eventlog.format.durability import End
from eventlog.format.line import CHAIN_BYTES, LINE_BYTES_MAX, BadLine, chained, stored_chain
from eventlog.format.scan import TIP_START, Tip, scan, tip_of
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import CHUNK_BYTES, LogReader, corrupt
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home


class Known:
    """The knowledge of one writer; changed under the writer's lock only."""

    def __init__(self, disk: Disk, home: Home, dedupe_entries: int) -> None:
        self._disk = disk
        self._home = home
        self._dedupe_entries = dedupe_entries
        self.is_loaded = False
        self.tip = TIP_START
        self.end = End(0, 0, TIP_START.seq, TIP_START.chain)
        self.window = Window(dedupe_entries)

    @property
    def position(self) -> Position:
        """Behind the last entry."""
        return Position(self.end.segment, self.end.byte_offset)

    @property
    def start(self) -> tuple[Tip, Position] | None:
        """Where to go on from; None before the first look."""
        return (self.tip, self.position) if self.is_loaded else None

    def catch_up(self, end: End) -> None:
        """Reads what was appended up to `end`, which is durable.

        Raises LogDiverged where that does not continue what was known, LogCorrupt at damage.
        """
        if not self.is_loaded:
            self._load(end)
            return
        if end.seq < self.tip.seq or (end.seq == self.tip.seq and end.chain != self.tip.chain):
            raise diverged(self._home, self.tip)
        reader = LogReader(
            self._disk, self._home, after=self.tip.seq, hint=self.position, until=end
        )
        try:
            if reader.tip.chain != self.tip.chain:
                raise diverged(self._home, self.tip)
            self._read(reader)
            if (reader.tip.seq, reader.tip.chain) != (end.seq, end.chain):
                raise diverged(self._home, Tip(end.seq, 0, "", end.chain))
            self.tip, self.end = reader.tip, end
        finally:
            reader.close()

    def catch_up_in(self, fd: int, end: End) -> bool:
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

    def stored(self, place: Place) -> bytes:
        """The line at a place in the window, as it was made durable. Raises LogCorrupt."""
        start = max(0, place.byte_offset - CHAIN_BYTES)
        fd = self._disk.open(self._home.segment_path(place.segment), writable=False)
        try:
            data = self._disk.pread(fd, CHAIN_BYTES + LINE_BYTES_MAX, start)
        finally:
            self._disk.close(fd)
        before, after = data[: place.byte_offset - start], data[place.byte_offset - start :]
        line = after[: after.find(b"\n") + 1]
        try:
            # A receipt made of it is an ack: it must not tell what was damaged meanwhile.
            tip = tip_of(line)
            if tip.seq == place.seq and chained(stored_chain(before), line) == tip.chain:
                return line
        except BadLine:
            pass
        return self._read_again(place)

    def _read_again(self, place: Place) -> bytes:
        """The same by a reader, who knows of segments and of damage, and says where it is."""
        hint = Position(place.segment, place.byte_offset)
        reader = LogReader(self._disk, self._home, after=place.seq - 1, hint=hint, until=self.end)
        try:
            lines = reader.read()
        finally:
            reader.close()
        if not lines or tip_of(lines[0]).seq != place.seq:
            raise corrupt("is gone", *hint, place.seq)
        return lines[0]

    def _load(self, end: End) -> None:
        """The first look: the end, and the keys of the last entries."""
        self.window = Window(self._dedupe_entries)
        after = max(0, end.seq - self._dedupe_entries)
        reader = LogReader(self._disk, self._home, after=after, until=end)
        try:
            self._read(reader)
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

    def _read(self, reader: LogReader) -> None:
        while lines := reader.read():
            self._remember(lines, reader.tip, reader.position)

    def _remember(self, lines: list[bytes], tip: Tip, end: Position) -> None:
        """Adds the keys of `lines`, which end with `tip`, at `end`."""
        byte_offset = end.byte_offset - sum(map(len, lines))
        for seq, line in enumerate(lines, tip.seq - len(lines) + 1):
            key = key_of_line(line)
            if key is not None and self.window.find(key, seq - 1) is None:
                self.window.add(key, Place(seq, end.segment, byte_offset))
            byte_offset += len(line)
