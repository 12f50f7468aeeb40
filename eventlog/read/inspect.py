"""Inspection for commands: raw lines, the end of the log, its status.

Invariant: nothing is changed or created; a home without a log raises LogNotFound.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, suppress

from eventlog.errors import EventLogError, LogCorrupt
from eventlog.format.durability import LogEnd
from eventlog.format.line import HEADER_PATTERN, LINE_BYTES_MAX, BadLine, Entry, decode
from eventlog.format.scan import Tip, tip_of
from eventlog.read.existing import require_segments
from eventlog.read.lines import decode_lines
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from eventlog.read.seek import last_line
from eventlog.storage.disk import Disk, RealDisk, opened
from eventlog.storage.durable_state import read_durable_end
from eventlog.storage.fence_file import FenceState, read_fence
from eventlog.storage.gap_file import AcceptedGaps
from eventlog.storage.home import Home, home_at, list_segments
from eventlog.storage.replica_file import ReplicaState, read_replica_state
from eventlog.storage.segment_disk import SegmentDisk, segment_sizes
from eventlog.threads import is_shortage

logger = logging.getLogger(__name__)

SHORTAGE_RETRY_S = 0.5  # until a follower tries again to open what it reads

COUNT_BYTES_MAX = 16 * 1024 * 1024  # a log up to this size is counted in a few milliseconds


def require_home(path: str | os.PathLike[str]) -> Home:
    """Returns the home at `path`, which must hold a log of ours. Reads no entry.

    Raises LogNotFound where there is no log, LogCorrupt where its segments are missing, ForeignHome
    for a home of the old tracker, and UnsafePath where the home is not a directory.
    """
    home = home_at(path)
    require_segments(SegmentDisk(RealDisk()), home)
    return home


def raw_lines(path: str, *, after: int = 0, limit: int | None = None) -> Iterator[list[bytes]]:
    """The lines with seq > `after`, in lists of bounded size; at most `limit` in all.

    Raises LogCorrupt at damage, after the lines before it.
    """
    disk, home = SegmentDisk(RealDisk()), require_home(path)
    if after:
        end, damage = _end(disk, home)
        if after >= end.seq:
            if damage is not None:
                raise damage
            return
    remaining = limit
    with closing(LogReader(disk, home, after=after)) as reader:
        while (remaining is None or remaining > 0) and (lines := reader.read_joined().lines):
            yield lines[:remaining]
            remaining = remaining if remaining is None else remaining - len(lines)


def segment_starts(path: str | os.PathLike[str]) -> list[int]:
    """The first seq of each segment, in order."""
    return list_segments(SegmentDisk(RealDisk()), home_at(path))


def replica_state(path: str | os.PathLike[str]) -> ReplicaState | None:
    """What the home follows; None where it is no replica. Raises UnsafePath, OSError."""
    return read_replica_state(RealDisk(), home_at(path))


def fence_state(path: str | os.PathLike[str]) -> FenceState | None:
    """Why the home takes no appends; None where it is not fenced. Raises UnsafePath, OSError."""
    return read_fence(RealDisk(), home_at(path))


def first_lost(path: str | os.PathLike[str], *, after: int) -> int | None:
    """The first entry after a seq that was lost, by damage that was accepted; None: there is none.

    Raises UnsafePath, OSError.
    """
    return AcceptedGaps(SegmentDisk(RealDisk()), home_at(path)).first_lost(after)


def last_kept(path: str | os.PathLike[str], *, until: int) -> int:
    """The last entry up to a seq that was not lost, by damage that was accepted; 0: there is none.

    Raises UnsafePath, OSError.
    """
    return AcceptedGaps(SegmentDisk(RealDisk()), home_at(path)).last_kept(until)


def end_seq(path: str) -> int:
    """Seq of the last entry, also where the log is damaged before it."""
    return _end(SegmentDisk(RealDisk()), require_home(path))[0].seq


def tail_raw_lines(path: str, after: int, on_lines: Callable[[list[bytes]], object]) -> None:
    """Calls `on_lines` with lists of lines with seq > `after` as they become durable, for ever.

    It waits while the system has no thread or descriptor left.
    """
    import asyncio

    from eventlog.read.tail import tail_batches

    disk, home = SegmentDisk(RealDisk()), require_home(path)

    async def run() -> None:
        nonlocal after
        async with aclosing(tail_batches(disk, home, after=after)) as batches:
            async for found in batches:
                on_lines(found.lines)
                after = decode(found.lines[-1]).seq

    async def run_through_shortages() -> None:
        logged_after = -1
        while True:
            try:
                await run()
            except (EventLogError, OSError) as error:
                if not is_shortage(error):
                    raise
                if logged_after < after:  # once, until lines come again
                    logger.warning("tail_waits error=%s", error)
                logged_after = after
                await asyncio.sleep(SHORTAGE_RETRY_S)

    asyncio.run(run_through_shortages())


def _end(disk: Disk, home: Home) -> tuple[Tip, LogCorrupt | None]:
    """The last durable entry, and the damage met on the way.

    If the lock record gives the durable end, its line is read; otherwise the tail is scanned. If
    that meets damage, the entry is the last line or, if that is damaged itself, the last readable
    entry.
    """
    end = read_durable_end(disk, home)
    last = _tip_at_end(disk, home, end)
    if end is not None and last is not None and last.chain == end.chain:
        return last, None
    reader: LogReader | None = None
    try:
        reader = reader_near_end(disk, home)
        while reader.read():
            pass
        return reader.tip, None
    except LogCorrupt as damage:
        if end is None and last is not None:
            return last, damage
        reader = reader or LogReader(disk, home)
        with suppress(LogCorrupt):
            while reader.read():
                pass
        return reader.tip, damage
    finally:
        if reader is not None:
            reader.close()


def _tip_at_end(disk: Disk, home: Home, end: LogEnd | None) -> Tip | None:
    """The tip of the line that ends at `end`, or else of the last line; its chain is unchecked."""
    segment = end.segment if end is not None else list_segments(disk, home)[-1]
    with (
        suppress(BadLine, FileNotFoundError),
        opened(disk, home.segment_path(segment)) as fd,
    ):
        return tip_of(last_line(disk, fd, end.byte_offset if end is not None else disk.size(fd)))
    return None


def read_entries(path: str, *, after: int, first_only: bool = False) -> Iterator[Entry]:
    """The durable entries with seq > `after`. Raises LogCorrupt at damage, after those before.

    `first_only`: the caller needs only the first few, so little is read at a time.
    """
    with closing(LogReader(SegmentDisk(RealDisk()), require_home(path), after=after)) as reader:
        if first_only:
            reader.chunk_bytes = LINE_BYTES_MAX
        while (found := reader.read_joined()).lines:
            yield from decode_lines(found)


def log_status(path: str, *, count: bool = True) -> dict[str, object]:
    """The `log` object of `eventlog status --json`.

    `signals` is None where counting them is slow, and where the log is damaged.
    """
    disk, home = SegmentDisk(RealDisk()), require_home(path)
    segments = list_segments(disk, home)
    size, disk_bytes = segment_sizes(RealDisk(), map(home.segment_path, segments))
    tip, _ = _end(disk, home)
    signals = None
    if count and size <= COUNT_BYTES_MAX:
        with suppress(LogCorrupt):  # signals behind damage cannot be counted
            signals = sum(
                (head := HEADER_PATTERN.match(line)) is not None
                and head[4] == b"signal"
                and int(head[1]) <= tip.seq  # what is appended meanwhile does not count
                for lines in raw_lines(path)
                for line in lines
            )
    return {
        "first_seq": 1 if tip.seq else 0,
        "last_seq": tip.seq,
        "signals": signals,
        "segments": len(segments),
        "bytes": size,
        "disk_bytes": disk_bytes,
        "last_recorded_at": tip.recorded_at or None,
        "chain": tip.chain,
    }
