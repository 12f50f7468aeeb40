"""Durable state: how far the log is durable, by the lock record and by the durable watermark.

Readers and writers use a lock record only if it is valid by the one rule of `valid_lock_record`.
Readers stop at its end if it says `clean`, or while the writer that says `writing` holds the lock.
The watermark, `.durable`, is read before the lock record, so that it is never the newer of the two.

Invariant: at most one of the watermark's two slots is ever unsynced, so a power loss leaves the
other.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from eventlog.format.durability import (
    CLEAN,
    LOCK_RECORD_BYTES,
    NOTHING_DURABLE,
    SLOT_BYTES,
    SLOT_STRIDE_BYTES,
    LockRecord,
    LogEnd,
    Watermark,
    decode_lock_record,
    decode_watermark,
    encode_slot,
    slot_offset,
)
from eventlog.storage.disk import Disk, read_file, write_all
from eventlog.storage.home import Home, list_segments, log_not_found
from eventlog.storage.identity import FileIdentity
from eventlog.storage.locks import FileLock
from eventlog.storage.segment_disk import candidate_paths

LOCK_RECORD_READS_MAX = 50  # one that changes is read again; after so many times it is none
LOCK_RECORD_RETRY_S = 0.0002  # an overwrite takes a few microseconds
_WATERMARK_BYTES = SLOT_STRIDE_BYTES + SLOT_BYTES


class DurableState(NamedTuple):
    """The durable watermark and the lock record of a log, read at one moment."""

    watermark: Watermark | None
    lock_record: LockRecord | None  # a valid one
    lock_data: bytes = b""  # as it is in the file
    is_limit: bool = False  # a reader stops at the end of the lock record

    @property
    def limit(self) -> LogEnd | None:
        """The durable end at which a reader stops; None where only a sync can tell.

        `writing` without a holder of the lock was left by a writer that died, or is an older copy
        of the record. The bytes beyond its end may be durable, and no writer is changing them.
        """
        return self.lock_record.end if self.lock_record is not None and self.is_limit else None

    @property
    def ends(self) -> list[LogEnd]:
        """Each end that was durable."""
        return [record.end for record in (self.watermark, self.lock_record) if record is not None]

    @property
    def end(self) -> LogEnd:
        """The highest end that was durable; NOTHING_DURABLE where none is known."""
        return max(self.ends, key=lambda end: end.seq, default=NOTHING_DURABLE)


def read_durable_state(disk: Disk, home: Home) -> DurableState:
    """The watermark and the valid lock record, in that order. Raises OSError.

    A record is read again while it is being overwritten, and while it changes between its reading
    and that of the files that it is compared with.
    """
    watermark, data = None, b""
    for _ in range(LOCK_RECORD_READS_MAX):
        watermark = read_watermark(disk, home)
        before, data = data, _read_lock_file(disk, home)
        if not data:
            break
        lock_record = valid_lock_record(disk, home, data, watermark)
        if lock_record is not None:
            is_limit = lock_record.state == CLEAN or FileLock(home.lock_path, disk=disk).is_held()
            if is_limit or _read_lock_file(disk, home) == data:
                return DurableState(watermark, lock_record, data, is_limit)
            continue  # a writer passed
        if decode_lock_record(data) is None:
            if data == before:
                break  # damaged, or of another version
            time.sleep(LOCK_RECORD_RETRY_S)
        elif _read_lock_file(disk, home) == data:
            break
    return DurableState(watermark, None, data)


def valid_lock_record(
    disk: Disk, home: Home, data: bytes, watermark: Watermark | None
) -> LockRecord | None:
    """The lock record in `data`, if it describes the log that is there. Raises OSError.

    A snapshot of the volume, a copy or a restored file may hold a record that is older than the
    log, so it must be of this boot, name the file at the segment's path, fit its length and that
    of the next segment, and not be behind `watermark`, which was read before it. With an invalid
    record the caller proceeds as with none. Without the writer's lock, a mismatch counts only if
    the record has not changed meanwhile.
    """
    lock_record = decode_lock_record(data)
    boot_id = disk.boot_id()
    if lock_record is None or not boot_id or lock_record.boot_id != boot_id:
        return None
    end = lock_record.end
    segment_file = disk.identity_at(home.segment_path(end.segment)) if end.segment else None
    if end.segment and not (
        segment_file is not None
        and _is_same_file(lock_record, segment_file)
        and _fits_size(lock_record, segment_file.size_bytes)
        and lock_record.generation == disk.generation_at(home.segment_path(end.segment))
    ):
        return None
    if _is_behind(end, watermark) or not _is_next_legal(disk, home, lock_record):
        return None
    return lock_record


def is_last_segment(disk: Disk, home: Home, end: LogEnd) -> bool:
    """Whether no raw segment follows the one of `end`."""
    return end.seq + 1 == end.segment or disk.identity_at(home.segment_path(end.seq + 1)) is None


def _is_last_stored(disk: Disk, home: Home, end: LogEnd) -> bool:
    """The same for segments that are compressed or in `closed` too; several calls more."""
    if not end.segment:
        return not list_segments(disk, home)
    if end.seq + 1 == end.segment:
        return True
    paths = candidate_paths(home.segment_path(end.seq + 1))
    return all(disk.identity_at(path) is None for path in paths)


def _is_same_file(lock_record: LockRecord, found: FileIdentity) -> bool:
    return (lock_record.device, lock_record.inode) == (found.device, found.inode)


def _fits_size(lock_record: LockRecord, size_bytes: int) -> bool:
    """Whether the segment may have this length; more than the durable end only during a write.

    A shorter file is no sign of an old record: that very file has lost bytes that were durable,
    which readers and writers report.
    """
    return lock_record.state != CLEAN or size_bytes <= lock_record.end.byte_offset


def _is_behind(end: LogEnd, watermark: Watermark | None) -> bool:
    return watermark is not None and watermark.end.seq > end.seq


def _is_next_legal(disk: Disk, home: Home, lock_record: LockRecord) -> bool:
    """Whether the next segment is what the record allows: none, or an empty one while writing."""
    end = lock_record.end
    if lock_record.state == CLEAN or not end.segment:
        return _is_last_stored(disk, home, end)
    if end.seq + 1 == end.segment:
        return True
    found = disk.identity_at(home.segment_path(end.seq + 1))
    return found is None or found.size_bytes == 0


def _read_lock_file(disk: Disk, home: Home) -> bytes:
    with suppress(FileNotFoundError, NotADirectoryError):
        return read_file(disk, home.lock_path, LOCK_RECORD_BYTES)
    return b""


def read_durable_end(disk: Disk, home: Home) -> LogEnd | None:
    """The durable end at which a reader stops; None where only a sync can tell. Raises OSError."""
    return read_durable_state(disk, home).limit


def read_watermark(disk: Disk, home: Home) -> Watermark | None:
    """The durable watermark, if there is a valid one."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return decode_watermark(read_file(disk, home.durable_path, _WATERMARK_BYTES))
    return None


def require_log(disk: Disk, home: Home) -> None:
    """Raises LogNotFound where there is neither a segment nor a watermark."""
    if not list_segments(disk, home) and read_watermark(disk, home) is None:
        raise log_not_found(home)


def write_watermark(
    disk: Disk,
    home: Home,
    end: LogEnd,
    *,
    sync: Callable[[int], None],
    sync_dir: Callable[[], None],
) -> None:
    """Moves the watermark forward to `end`, durably. The caller holds the writer's lock.

    `sync` and `sync_dir` are the caller's, which decides what their failure means. Raises OSError.
    """
    fd = _open_watermark(disk, home, sync_dir)
    try:
        old = decode_watermark(disk.pread(fd, _WATERMARK_BYTES, 0))
        if old is not None and old.end.seq >= end.seq:
            return
        generation = old.generation + 1 if old is not None else 1
        try:
            _write_slot(disk, fd, Watermark(generation, end))
        finally:
            sync(fd)  # half a slot too: the next one to be written may be the other
    finally:
        disk.close(fd)


def rewrite_watermarks(disk: Disk, home: Home, end: LogEnd) -> None:
    """Writes `end` durably into both slots, one after the other, also where it is lower."""
    fd = _open_watermark(disk, home, lambda: disk.fsync_dir(home.log_dir))
    try:
        old = decode_watermark(disk.pread(fd, _WATERMARK_BYTES, 0))
        generation = old.generation if old is not None else 0
        for newer in (generation + 1, generation + 2):
            _write_slot(disk, fd, Watermark(newer, end))
            disk.fdatasync(fd)
    finally:
        disk.close(fd)


def _open_watermark(disk: Disk, home: Home, sync_dir: Callable[[], None]) -> int:
    try:
        return disk.open(home.durable_path, writable=True)
    except FileNotFoundError:
        fd = disk.create(home.durable_path)
        sync_dir()
        return fd


def _write_slot(disk: Disk, fd: int, watermark: Watermark) -> None:
    write_all(disk, fd, encode_slot(watermark), slot_offset(watermark.generation))
