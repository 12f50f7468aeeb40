"""Reading ahead: the bytes of several small closed segments, read together.

A reader that steps from segment to segment checks each time how far the log is durable. Where
segments are small, that costs far more than reading them. So it reads the segments that follow up
to the size of one chunk, and checks once for all of them.

Invariant: the bytes are those of whole segments, in order. A segment that cannot be read is left
to the reader's usual way, which reports why.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from eventlog.errors import EventLogError
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home

SMALL_SEGMENT_BYTES = 1 << 16  # above this, reading the lines costs more than the step to them


class SmallSegment(NamedTuple):
    """A closed segment, and all of its bytes as they were written."""

    segment: int  # its first seq, by name
    data: bytes


def read_small_segments(
    disk: Disk, home: Home, segments: Iterable[int], bytes_max: int
) -> list[SmallSegment]:
    """The first of these segments, up to one that is not small; at most `bytes_max` in all."""
    found: list[SmallSegment] = []
    with suppress(OSError, EventLogError):
        for segment in segments:
            data = _read_small(disk, home.segment_path(segment))
            bytes_max -= len(data)
            if not data or bytes_max < 0:
                break
            found.append(SmallSegment(segment, data))
    return found


def _read_small(disk: Disk, path: str) -> bytes:
    """The bytes of a segment; none where it is empty or not small. Raises what `open` raises."""
    fd = disk.open(path, writable=False)
    try:
        size = disk.size(fd)
        return disk.pread(fd, size, 0) if size <= SMALL_SEGMENT_BYTES else b""
    finally:
        disk.close(fd)
