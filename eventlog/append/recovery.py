"""Recovery: reads the log from the device, and cuts a torn tail.

A writer recovers when it cannot trust the page cache. A torn tail, the last batch if it was never
acknowledged, is saved in `<segment>.<byte_offset>.torn` and cut. Damage to acknowledged data is
never cut: LogCorrupt halts the writer.

Invariant: a crash at any step leaves a log on which recovery gives the same result.
"""

import logging
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from eventlog.errors import LogDiverged
from eventlog.format.durability import LogEnd
from eventlog.format.scan import Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from eventlog.storage.device_sync import sync_file, sync_names, sync_segments
from eventlog.storage.disk import Disk, opened, size_of, write_all
from eventlog.storage.home import Home

logger = logging.getLogger(__name__)

TORN_NAMES_MAX = 1000  # torn tails at the same byte of one segment


class Recovered(NamedTuple):
    """The end of the log on the device: after the entry `tip`, at `position`."""

    tip: Tip
    position: Position  # segment 0 when there is none
    torn_bytes: int  # after the position: to be saved and cut


def sync_to_device(
    disk: Disk, home: Home, *, first_segment: int = 0, synced: Collection[str] = ()
) -> set[str]:
    """Syncs the names, the segments and the watermark, and drops them from the page cache.

    `first_segment`: everything before it is known to be durable. `synced`: the files that this
    writer has synced just before it took the lock. Returns the paths of the segments' files.
    """
    sync_names(disk, home)
    paths = sync_segments(disk, home, first_segment=first_segment, synced=synced)
    sync_file(disk, home.durable_path)
    return paths


def find_end(disk: Disk, home: Home, last_seen: tuple[Tip, Position] | None) -> Recovered:
    """Finds the end of the log, scanning from the last known durable entry.

    `last_seen` is the durable end that this handle saw last. Raises LogCorrupt at damage, and
    LogDiverged where the log does not continue `last_seen`: then it is another log.
    """
    with closing(_reader_from(disk, home, last_seen)) as reader:
        while reader.read():
            pass
        position = reader.position
        torn_bytes = 0
        if position.segment:
            size = size_of(disk, home.segment_path(position.segment))
            torn_bytes = size - position.byte_offset
        return Recovered(reader.tip, position, torn_bytes)


def _reader_from(disk: Disk, home: Home, last_seen: tuple[Tip, Position] | None) -> LogReader:
    if last_seen is not None and last_seen[0].seq > 0:
        tip, position = last_seen
        reader = LogReader(disk, home, after=tip.seq, hint=position, holds_lock=True)
        was_moved = position.byte_offset > 0 and reader.position < position
        if reader.tip.chain != tip.chain or was_moved:
            reader.close()
            raise diverged_error(home, tip)
        return reader
    return reader_near_end(disk, home, holds_lock=True)


def diverged_error(home: Home, tip: Tip) -> LogDiverged:
    """The error for a log that no longer continues what this handle has seen."""
    return LogDiverged(
        f"the log no longer holds entry {tip.seq} as this process read it before",
        where=home.log_dir,
        do="stop all writers, find out what replaced the log, then run `eventlog verify`",
    )


def cut_torn_tail(disk: Disk, home: Home, end: LogEnd, torn_bytes: int) -> str:
    """Saves the bytes after `end` in a `.torn` file, then truncates the segment; both durably.

    Returns the name of that file.
    """
    name = f"{segment_name(end.segment)}.{end.byte_offset}.torn"
    with opened(disk, home.segment_path(end.segment), writable=True) as fd:
        kept = _save_torn_bytes(disk, home, name, disk.pread(fd, torn_bytes, end.byte_offset))
        disk.truncate(fd, end.byte_offset)
        disk.fdatasync(fd)
    logger.warning(
        "torn_tail_cut segment=%s byte_offset=%d bytes=%d kept=%s",
        segment_name(end.segment),
        end.byte_offset,
        torn_bytes,
        kept,
    )
    return kept


def _save_torn_bytes(disk: Disk, home: Home, name: str, data: bytes) -> str:
    """Writes `data` to a new file, or completes one from an interrupted recovery."""
    for number in range(TORN_NAMES_MAX):
        kept = name if number == 0 else f"{name}.{number}"
        path = f"{home.log_dir}/{kept}"
        try:
            fd = disk.create(path)
        except FileExistsError:
            fd = disk.open(path, writable=True)
        try:
            if data.startswith(disk.pread(fd, len(data) + 1, 0)):
                write_all(disk, fd, data, 0)
                disk.fdatasync(fd)
                disk.fsync_dir(home.log_dir)
                return kept
        finally:
            disk.close(fd)
    raise OSError(f"over {TORN_NAMES_MAX} files named {name}")
