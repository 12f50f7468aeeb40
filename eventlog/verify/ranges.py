"""Splits a log into ranges that are verified independently, and reads raw lines of a segment.

A line is verified by the chain in the line before it, so a range may start at any line. Its first
and last line are found by searching newlines, in the same way for both neighbours: the ranges of a
segment leave no byte out, whatever its bytes are.

Invariant: the lines of a `VerifiedRange` continue the line before them as it is in the file, and
end where the next line starts.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

from eventlog.errors import EventLogError
from eventlog.format.line import CHAIN_BYTES, LINE_BYTES_MAX, BadLine
from eventlog.format.scan import TIP_START, Tip, tip_of
from eventlog.storage.disk import Disk, opened
from eventlog.storage.home import Home
from eventlog.verify.inventory import SegmentSpan
from eventlog.verify.line_verifier import verify_lines

CHUNK_BYTES = 256 * 1024  # one chunk fits into the cache of a core


class LineRange(NamedTuple):
    """The lines that start in a range of a segment."""

    segment: int  # by its name
    start: int  # byte offset
    stop: int  # the first byte that is not in the range
    limit: int  # bytes of the segment to verify
    before: Tip | None  # the tip before the first line of the segment


class VerifiedRange(NamedTuple):
    """A range of lines without a defect."""

    segment: int
    byte_from: int
    byte_to: int
    before: Tip
    after: Tip


class RawLine(NamedTuple):
    """Bytes up to a newline or the end of the file."""

    data: bytes  # only the last bytes where it is longer than a line may be
    byte_to: int


def split_ranges(spans: Iterable[SegmentSpan], range_bytes: int) -> list[list[LineRange]]:
    """Splits all spans into ranges, in tasks of at least `range_bytes` except the last."""
    tasks: list[list[LineRange]] = [[]]
    size = 0
    before: Tip | None = TIP_START
    for span in spans:
        for start in range(0, span.limit, range_bytes):
            if size >= range_bytes:
                tasks.append([])
                size = 0
            stop = min(start + range_bytes, span.limit)
            tasks[-1].append(LineRange(span.named, start, stop, span.limit, before))
            size += stop - start
        if span.limit:
            before = span.last_tip
    return tasks


def verify_range(disk: Disk, home: Home, line_range: LineRange) -> VerifiedRange | None:
    """Verifies the lines of a range. None where they need to be verified one by one."""
    try:
        with opened(disk, home.segment_path(line_range.segment)) as fd:
            byte_from = _line_start(disk, fd, line_range.start, line_range.limit)
            byte_to = _line_start(disk, fd, line_range.stop, line_range.limit)
            if byte_from is None or byte_to is None or byte_from >= byte_to:
                return None
            before = _tip_at(disk, fd, byte_from) if byte_from else line_range.before
            after = before and _tip_after_range(disk, fd, byte_from, byte_to, before)
    except (OSError, EventLogError):
        return None
    if before is None or after is None:
        return None
    return VerifiedRange(line_range.segment, byte_from, byte_to, before, after)


def _tip_after_range(disk: Disk, fd: int, byte_from: int, byte_to: int, tip: Tip) -> Tip | None:
    """The tip after the lines of a range; None where one has a defect."""
    at = byte_from
    while at < byte_to:
        data = disk.pread(fd, min(CHUNK_BYTES, byte_to - at), at)
        data = data[: data.rfind(b"\n") + 1]
        after = verify_lines(BytesIO(data).readlines(), tip) if data else None
        if after is None:
            return None
        tip = after
        at += len(data)
    return tip


def _line_start(disk: Disk, fd: int, at: int, limit: int) -> int | None:
    """The first line start at or after `at`; None where no newline is near."""
    if at == 0 or at >= limit:
        return at
    newline = disk.pread(fd, LINE_BYTES_MAX, at - 1).find(b"\n")
    return None if newline < 0 else min(at + newline, limit)


def _tip_at(disk: Disk, fd: int, byte_offset: int) -> Tip | None:
    """The tip after the line that ends at `byte_offset`."""
    start = max(0, byte_offset - LINE_BYTES_MAX)
    data = disk.pread(fd, byte_offset - start, start)
    try:
        return tip_of(data[data.rfind(b"\n", 0, -1) + 1 :])
    except BadLine:
        return None


class RawLines:
    """The raw lines of an open segment. A line is anything up to a newline."""

    def __init__(self, disk: Disk, fd: int, limit: int) -> None:
        self._disk = disk
        self._fd = fd
        self._limit = limit
        self._data = b""
        self._data_at = 0

    def at(self, byte_offset: int) -> RawLine:
        """The line that starts there; empty beyond the end of the file. Raises OSError."""
        start = byte_offset - self._data_at
        end = self._data.find(b"\n", start) + 1 if 0 <= start < len(self._data) else 0
        if not end:
            self._data_at, start = byte_offset, 0
            self._data = self._read(byte_offset)
            end = self._data.find(b"\n") + 1
        if end:
            return RawLine(self._data[start:end], self._data_at + end)
        if len(self._data) <= LINE_BYTES_MAX:
            return RawLine(self._data, byte_offset + len(self._data))
        return self._end_of_long(byte_offset)

    def _end_of_long(self, byte_offset: int) -> RawLine:
        end = b""
        while data := self._read(byte_offset):
            newline = data.find(b"\n") + 1
            data = data[:newline] if newline else data
            byte_offset += len(data)
            end = (end + data)[-CHAIN_BYTES:]
            if newline:
                break
        return RawLine(end, byte_offset)

    def _read(self, byte_offset: int) -> bytes:
        return self._disk.pread(self._fd, min(CHUNK_BYTES, self._limit - byte_offset), byte_offset)
