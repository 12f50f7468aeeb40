"""What the reading commands show of a log: raw lines, the last ones, and its figures.

Invariant: nothing is changed or made; a home without a log raises LogNotFound.
"""

import os
from collections.abc import Iterator

from eventlog.disk import RealDisk
from eventlog.home import Home, home_at, no_log
from eventlog.line import HEAD
from eventlog.reader import LogReader, list_segments, reader_near_end

COUNTED_BYTES_MAX = 16 * 1024 * 1024  # a log up to this size is counted in a few milliseconds


def existing_home(path: str) -> Home:
    """The home at `path`. Raises LogNotFound where there is no log."""
    home = home_at(path)
    if not list_segments(RealDisk(), home):
        raise no_log(home)
    return home


def raw_lines(path: str, *, after: int = 0, limit: int | None = None) -> Iterator[list[bytes]]:
    """The lines with seq > `after`, in lists of bounded size; at most `limit` in all."""
    disk, home = RealDisk(), existing_home(path)
    if after and after >= last_tip_seq(home):
        return
    left = limit
    reader = LogReader(disk, home, after=after)
    try:
        while (left is None or left > 0) and (lines := reader.read()):
            yield lines[:left]
            left = left if left is None else left - len(lines)
    finally:
        reader.close()


def last_lines(path: str, count: int) -> Iterator[list[bytes]]:
    """The last `count` lines, in lists of bounded size."""
    home = existing_home(path)
    if count:
        yield from raw_lines(path, after=max(0, last_tip_seq(home) - count))


def last_tip_seq(home: Home) -> int:
    """Seq of the last durable entry."""
    reader = reader_near_end(RealDisk(), home)
    try:
        while reader.read():
            pass
        return reader.tip.seq
    finally:
        reader.close()


def log_status(path: str) -> dict[str, object]:
    """The `log` object of `eventlog status --json`; `signals` is None where counting is slow."""
    disk, home = RealDisk(), existing_home(path)
    segments = list_segments(disk, home)
    size = sum(os.stat(home.segment_path(segment)).st_size for segment in segments)
    reader = reader_near_end(disk, home)
    try:
        while reader.read():
            pass
        tip = reader.tip
    finally:
        reader.close()
    signals = None
    if size <= COUNTED_BYTES_MAX:
        signals = sum(
            (head := HEAD.match(line)) is not None and head[4] == b"signal"
            for lines in raw_lines(path)
            for line in lines
        )
    return {
        "first_seq": 1 if tip.seq else 0,
        "last_seq": tip.seq,
        "signals": signals,
        "segments": len(segments),
        "bytes": size,
        "last_recorded_at": tip.recorded_at or None,
        "chain": tip.chain,
    }
