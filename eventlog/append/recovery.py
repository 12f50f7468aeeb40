"""What a writer does when it cannot trust the page cache: start from the device, and recover.

A torn tail, the batch that nobody was told is durable, is kept in `<segment>.<byte_offset>.torn`
and cut. Damage to acknowledged data is never cut: LogCorrupt halts the writer.

Invariant: a crash at any step leaves a log on which recovery gives the same result.
"""

import errno
import logging
import os
from typing import NamedTuple

from eventlog.errors import LogDiverged
from eventlog.format.durability import LogEnd
from eventlog.format.scan import Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import LogReader, reader_near_end
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.home import Home, list_segments

logger = logging.getLogger(__name__)

# Of a directory above the home: it is not ours to sync, or its file system knows no such thing.
_SYNC_REFUSED_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP}
)
TORN_NAMES_MAX = 1000  # of torn tails at one and the same byte of one segment


class Recovered(NamedTuple):
    """The log ends, on the device, after `tip` at `position` in the last segment."""

    tip: Tip
    position: Position  # segment 0 when there is none
    torn_bytes: int  # still there beyond the position: to be kept aside and cut


def sync_to_device(disk: Disk, home: Home) -> None:
    """Brings names and bytes of the last segment to the device, and forgets what was cached.

    After a failed sync the cache holds pages that the device lacks, and the next sync succeeds
    without writing them; only a read from the device tells what is durable.
    """
    path = home.log_dir
    disk.fsync_dir(path)
    while path != (parent := os.path.dirname(path)):
        path = parent
        try:
            disk.fsync_dir(path)
        except OSError as error:
            if error.errno not in _SYNC_REFUSED_ERRNOS or path == home.root:
                raise
            break
    segments = list_segments(disk, home)
    for name in [home.segment_path(segments[-1])] if segments else []:
        _sync_file(disk, name)
    _sync_file(disk, home.durable_path)


def _sync_file(disk: Disk, path: str) -> None:
    try:
        fd = disk.open(path, writable=True)
    except FileNotFoundError:
        return
    try:
        disk.fdatasync(fd)
        disk.drop_cache(fd)
    finally:
        disk.close(fd)


def find_end(disk: Disk, home: Home, last_seen: tuple[Tip, Position] | None) -> Recovered:
    """Where the log ends, scanning from what is known to be durable. Raises LogCorrupt.

    `last_seen` is what this handle itself saw durable: bytes that do not continue it are another
    log's, LogDiverged.
    """
    reader = _reader_from(disk, home, last_seen)
    try:
        while reader.read():
            pass
        position = reader.position
        torn_bytes = 0
        if position.segment:
            torn_bytes = _size(disk, home, position.segment) - position.byte_offset
        return Recovered(reader.tip, position, torn_bytes)
    finally:
        reader.close()


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
    """The error for a log that does not continue the one that this handle knows."""
    return LogDiverged(
        f"the log no longer holds entry {tip.seq} as this process knew it",
        where=home.log_dir,
        do="stop the writers and find out who replaced the log; then `eventlog verify`",
    )


def _size(disk: Disk, home: Home, segment: int) -> int:
    fd = disk.open(home.segment_path(segment), writable=False)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)


def cut_torn_tail(disk: Disk, home: Home, end: LogEnd, torn_bytes: int) -> str:
    """Keeps the bytes after `end` in a `.torn` file, durably, then cuts them off, durably.

    Returns the name of that file.
    """
    path = home.segment_path(end.segment)
    fd = disk.open(path, writable=True)
    try:
        data = disk.pread(fd, torn_bytes, end.byte_offset)
        kept = _save_torn_bytes(
            disk, home, f"{segment_name(end.segment)}.{end.byte_offset}.torn", data
        )
        disk.truncate(fd, end.byte_offset)
        disk.fdatasync(fd)
    finally:
        disk.close(fd)
    logger.warning(
        "torn_tail_cut segment=%s byte_offset=%d bytes=%d kept=%s",
        segment_name(end.segment),
        end.byte_offset,
        torn_bytes,
        kept,
    )
    return kept


def _save_torn_bytes(disk: Disk, home: Home, name: str, data: bytes) -> str:
    """Writes `data` to a new file, or goes on with one that an interrupted recovery began."""
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
