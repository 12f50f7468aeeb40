"""Lines that a reader returned: their positions and entries, and the error for a damaged one.

Invariant: the positions are those of the lines on disk, also where the lines are of several
segments.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from eventlog.errors import LogCorrupt
from eventlog.format.line import LINE_BYTES_MAX, LOST_PREFIX, BadLine, Entry, decode
from eventlog.format.scan import has_evidence, tip_of
from eventlog.format.segment import LinePosition, Position, segment_name
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home
from eventlog.storage.replica_file import is_replica

CHUNK_BYTES = 1 << 20  # read at once: large enough to be fast, small enough for any machine


class ReadLines(NamedTuple):
    """Consecutive lines of one segment, or of several whole ones."""

    lines: list[bytes]  # newline included; none at the durable end
    start: Position  # of the first line
    end: Position  # after the last one
    segments: Sequence[int]  # the segments of the lines, in order, by name

    def positions(self, seq: int) -> Iterator[LinePosition]:
        """The position of each line; `seq` is that of the first one."""
        later_segments = frozenset(self.segments[1:])
        segment, byte_offset = self.start
        for line in self.lines:
            if seq in later_segments:
                segment, byte_offset = seq, 0
            yield LinePosition(seq, segment, byte_offset)
            byte_offset += len(line)
            seq += 1


def decode_lines(found: ReadLines) -> Iterator[Entry]:
    """The entries of lines that a LogReader gave.

    Raises LogCorrupt for a line that is chained but is no JSON, which our writer never makes.
    """
    for index, line in enumerate(found.lines):
        try:
            yield decode(line)
        except BadLine as error:
            positions = found.positions(tip_of(found.lines[0]).seq)
            seq, segment, byte_offset = next(islice(positions, index, None))
            raise corrupt_error(str(error), segment, byte_offset, seq) from None


def corrupt_error(problem: str, segment: int, byte_offset: int, seq: int) -> LogCorrupt:
    """The error for damage to acknowledged data; `problem` continues "entry 42 ..."."""
    return LogCorrupt(
        f"entry {seq} {problem}", segment=segment_name(segment), byte_offset=byte_offset, seq=seq
    )


def evidence_after(
    disk: Disk, home: Home, fd: int, byte_offset: int, size: int, missing_seq: int
) -> bool:
    """Whether the bytes from the bad line at `byte_offset` on prove that it was durable.

    On a replica no later line proves it: one durable write holds many batches there. What is cut
    comes from the stream again.
    """
    has_many_batches = is_replica(disk, home)
    start = 1  # the header of the bad line itself is no evidence
    while byte_offset < size:
        data = disk.pread(fd, CHUNK_BYTES + LINE_BYTES_MAX, byte_offset)
        if LOST_PREFIX in data or (not has_many_batches and has_evidence(data, missing_seq, start)):
            return True
        byte_offset += CHUNK_BYTES
        start = 0
    return False
