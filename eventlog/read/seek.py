"""Seek: finds the line of a seq in a segment by bisection, without reading the whole segment.

The chain of the line found is not verified here; the reader that continues from it verifies it.

Invariant: a line that is found is whole, newline included, and carries the requested seq.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from eventlog.format.line import HEADER_PATTERN, LINE_BYTES_MAX, BadLine
from eventlog.format.scan import Tip, is_well_formed, tip_of
from eventlog.storage.disk import Disk

_LINEAR_SEARCH_BYTES = 4 * LINE_BYTES_MAX  # below this a segment is searched line by line


class FoundLine(NamedTuple):
    """A line in a segment."""

    byte_from: int
    byte_to: int  # where the next line starts
    tip: Tip  # after it


def find_line(disk: Disk, fd: int, seq: int) -> FoundLine | None:
    """The line of entry `seq` in an open segment, by bisection; None where it cannot be found."""
    low, high = 0, disk.size(fd)  # the line starts at or after low, and before high
    while high - low > _LINEAR_SEARCH_BYTES:
        middle = (low + high) // 2
        found = _first_line(disk, fd, middle, high)
        if found is None:
            high = middle  # only damage from here on
        elif found.tip.seq == seq:
            return found
        elif found.tip.seq < seq:
            low = found.byte_from
        else:
            high = found.byte_from
    data = disk.pread(fd, high - low + LINE_BYTES_MAX, low)
    # The second scan parses every line again, so it runs only when the first finds nothing.
    lines = chain(_lines_within(data, 0, low), _lines_after_damage(data, low))
    return next((found for found in lines if found.tip.seq == seq), None)


def _first_line(disk: Disk, fd: int, low: int, high: int) -> FoundLine | None:
    """The first line that starts in a range, however much damage stands before it."""
    for byte_offset in range(low, high, LINE_BYTES_MAX):
        data = disk.pread(fd, 2 * LINE_BYTES_MAX, byte_offset)
        found = next(_lines_after_damage(data, byte_offset), None)
        if found is not None:
            return found if found.byte_from < high else None
    return None


def _lines_within(data: bytes, start: int, byte_offset: int) -> Iterator[FoundLine]:
    """The whole lines of `data`, which was read at `byte_offset`, from `start`; skips damage."""
    while end := data.find(b"\n", start) + 1:
        with suppress(BadLine):  # damaged: go on with the next line
            yield FoundLine(byte_offset + start, byte_offset + end, tip_of(data[start:end]))
        start = end


def _lines_after_damage(data: bytes, byte_offset: int) -> Iterator[FoundLine]:
    """Well-formed lines that start at any byte, also where the newline before them is lost."""
    for head in HEADER_PATTERN.finditer(data):
        start = head.start()
        end = data.find(b"\n", start) + 1
        if end and is_well_formed(data[start:end]):
            yield FoundLine(byte_offset + start, byte_offset + end, tip_of(data[start:end]))


def last_line(disk: Disk, fd: int, size: int) -> bytes:
    """The last whole line that ends at or before `size`; empty when there is none."""
    data = disk.pread(fd, min(size, 2 * LINE_BYTES_MAX), max(0, size - 2 * LINE_BYTES_MAX))
    end = data.rfind(b"\n") + 1
    return data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
