"""Finding a line in a segment without reading all of it.

Lines are taken at their word: what is found is re-checked by whoever reads on from there.

Invariant: a line that is found is whole, newline included, and says the seq that was asked for.
"""

from collections.abc import Iterator
from contextlib import suppress
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
            high = middle  # nothing but damage from here on
        elif found.tip.seq == seq:
            return found
        elif found.tip.seq < seq:
            low = found.byte_from
        else:
            high = found.byte_from
    data = disk.pread(fd, high - low + LINE_BYTES_MAX, low)
    for found in (*_lines_within(data, 0, low), *_lines_after_damage(data, low)):
        if found.tip.seq == seq:
            return found
    return None


def _first_line(disk: Disk, fd: int, low: int, high: int) -> FoundLine | None:
    """The first line that starts in a range, however much damage stands before it."""
    for byte_offset in range(low, high, LINE_BYTES_MAX):
        data = disk.pread(fd, 2 * LINE_BYTES_MAX, byte_offset)
        found = next(_lines_after_damage(data, byte_offset), None)
        if found is not None:
            return found if found.byte_from < high else None
    return None


def _lines_within(data: bytes, start: int, byte_offset: int) -> Iterator[FoundLine]:
    """The lines of `data`, which stands at `byte_offset`, from `start` on; damage is left out."""
    while end := data.find(b"\n", start) + 1:
        with suppress(BadLine):  # damage: its neighbour will do
            yield FoundLine(byte_offset + start, byte_offset + end, tip_of(data[start:end]))
        start = end


def _lines_after_damage(data: bytes, byte_offset: int) -> Iterator[FoundLine]:
    """Lines that start at any byte: no newline need be left before them."""
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
