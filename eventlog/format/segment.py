"""Segment names: each file of a log is named by the seq of its first entry.

Invariant: names sort like the seqs in the files, so the file of any seq is found by name.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eventlog.errors import LogCorrupt

SEGMENT_BYTES_DEFAULT = 64 * 1024 * 1024  # a backup or a copy moves it in a second
COMPRESSED_SUFFIX = ".zst"  # behind the name of a segment
CLOSED_NAME = "closed"  # a directory for closed segments, perhaps a link to a larger disk
_SEGMENT_NAME_PATTERN = re.compile(r"([0-9]{20})\.jsonl")


class Position(NamedTuple):
    """The start of a line: a hint for seeking, always checked when it is used."""

    segment: int  # first seq of the segment
    byte_offset: int  # bytes from its start


class LinePosition(NamedTuple):
    """The position of the line of entry `seq`."""

    seq: int
    segment: int
    byte_offset: int


def segment_name(first_seq: int) -> str:
    """`00000000000000000042.jsonl` for 42."""
    return f"{first_seq:020d}.jsonl"


def is_segment_name(name: str) -> bool:
    """Whether a file of that name is an uncompressed segment."""
    return _SEGMENT_NAME_PATTERN.fullmatch(name) is not None


def segment_seqs(names: Iterable[str]) -> list[int]:
    """First seqs of the segments among the names in a log directory, in order.

    Compressed segments appear here without `.zst`, by eventlog.storage.segment_disk. Raises
    LogCorrupt for a `.jsonl` file that is not named like a segment, because it may hold data.
    """
    found = []
    for name in names:
        match = _SEGMENT_NAME_PATTERN.fullmatch(name)
        if match is not None and (first_seq := int(match[1])) > 0:
            found.append(first_seq)
        elif name.endswith((".jsonl", ".jsonl" + COMPRESSED_SUFFIX)):
            raise LogCorrupt(
                "the log directory holds a .jsonl file that is not named like a segment",
                segment=name,
                byte_offset=0,
                seq=0,
                do="move it out of the log directory, or give it its 20-digit name back",
            )
    return sorted(found)


def segment_index(segments: Sequence[int], seq: int) -> int:
    """Index of the segment whose seqs include `seq`, by name; 0 when `seq` is before all."""
    return max(0, bisect_right(segments, seq) - 1)
