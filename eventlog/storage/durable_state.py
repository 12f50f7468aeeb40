"""Durable state: how far the log is durable, by the lock record and by the durable watermark.

The watermark, `.durable`, is read before the lock record, so that it is never the newer of the two.

Invariant: at most one of the watermark's two slots is ever unsynced, so a power loss leaves the
other.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from eventlog.format.durability import (
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
from eventlog.storage.disk import Disk, opened, read_file, write_all
from eventlog.storage.home import Home, list_segments, log_not_found

LOCK_RECORD_READS_MAX = 50  # one that is being overwritten is read again; a damaged one is none
LOCK_RECORD_RETRY_S = 0.0002  # an overwrite takes a few microseconds
_WATERMARK_BYTES = SLOT_STRIDE_BYTES + SLOT_BYTES


class DurableState(NamedTuple):
    """The durable watermark and the lock record of a log, read at one moment."""

    watermark: Watermark | None
    lock_record: LockRecord | None  # of this boot

    @property
    def ends(self) -> list[LogEnd]:
        """Each end that was durable."""
        return [record.end for record in self if record is not None]

    @property
    def end(self) -> LogEnd:
        """The highest end that was durable; NOTHING_DURABLE where none is known."""
        return max(self.ends, key=lambda end: end.seq, default=NOTHING_DURABLE)


def read_durable_state(disk: Disk, home: Home) -> DurableState:
    """The watermark and the lock record, in that order. Raises OSError."""
    return DurableState(read_watermark(disk, home), read_lock_record(disk, home))


def read_lock_record(disk: Disk, home: Home) -> LockRecord | None:
    """The lock record, if there is one of this boot. Waits while it is being overwritten."""
    with suppress(FileNotFoundError), opened(disk, home.lock_path) as fd:
        for _ in range(LOCK_RECORD_READS_MAX):
            data = disk.pread(fd, LOCK_RECORD_BYTES, 0)
            if not data or decode_lock_record(data) is not None:
                return current_lock_record(disk, data)
            time.sleep(LOCK_RECORD_RETRY_S)
    return None


def current_lock_record(disk: Disk, data: bytes) -> LockRecord | None:
    """The lock record in `data`, if it is valid and of this boot."""
    lock_record = decode_lock_record(data)
    if lock_record is None or lock_record.boot_id != disk.boot_id():
        return None
    return lock_record


def read_durable_end(disk: Disk, home: Home) -> LogEnd | None:
    """The durable end by the lock record; None where only a sync shows what is durable."""
    lock_record = read_lock_record(disk, home)
    return lock_record.end if lock_record is not None else None


def read_watermark(disk: Disk, home: Home) -> Watermark | None:
    """The durable watermark, if there is a valid one."""
    with suppress(FileNotFoundError):
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
