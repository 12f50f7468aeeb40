"""Writes the durable watermark, `.durable`.

Invariant: at most one of its two slots is ever unsynced, so a power loss leaves the other.
"""

import time
from collections.abc import Callable

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
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.home import Home


def write_watermark(
    disk: Disk,
    home: Home,
    end: LogEnd,
    *,
    sync: Callable[[int], None],
    sync_dir: Callable[[], None],
) -> None:
    """Says durably that the log is durable up to `end`. The caller holds the lock.

    `sync` and `sync_dir` are the caller's, who knows what their failure means. Raises OSError.
    """
    try:
        fd = disk.open(home.durable_path, writable=True)
    except FileNotFoundError:
        fd = disk.create(home.durable_path)
        sync_dir()
    try:
        old = decode_watermark(disk.pread(fd, SLOT_STRIDE_BYTES + SLOT_BYTES, 0))
        if old is not None and old.end.seq >= end.seq:
            return
        generation = old.generation + 1 if old is not None else 1
        try:
            slot = encode_slot(Watermark(generation, end))
            write_all(disk, fd, slot, slot_offset(generation))
        finally:
            sync(fd)  # also half a slot: the next one to be written may be the other
    finally:
        disk.close(fd)


LOCK_RECORD_READS_MAX = 50  # a word read while it is written is read again; a broken one is no word


def read_lock_record(disk: Disk, home: Home) -> LockRecord | None:
    """The lock's word, if it is of this boot."""
    try:
        fd = disk.open(home.lock_path, writable=False)
    except FileNotFoundError:
        return None
    try:
        for _ in range(LOCK_RECORD_READS_MAX):
            data = disk.pread(fd, LOCK_RECORD_BYTES, 0)
            lock_record = decode_lock_record(data)
            if lock_record is not None or not data:
                return (
                    lock_record if lock_record and lock_record.boot_id == disk.boot_id() else None
                )
            time.sleep(0.0002)  # it is being overwritten right now
        return None
    finally:
        disk.close(fd)


def read_watermark(disk: Disk, home: Home) -> Watermark | None:
    """The durable watermark, if there is a valid one."""
    try:
        fd = disk.open(home.durable_path, writable=False)
    except FileNotFoundError:
        return None
    try:
        return decode_watermark(disk.pread(fd, SLOT_STRIDE_BYTES + SLOT_BYTES, 0))
    finally:
        disk.close(fd)


def known_durable_end(disk: Disk, home: Home) -> LogEnd:
    """The end that the watermark, or a word of this boot, proves to have been durable."""
    durable_records = (read_watermark(disk, home), read_lock_record(disk, home))
    ends = [source.end for source in durable_records if source is not None]
    return max(ends, key=lambda end: end.seq, default=NOTHING_DURABLE)


def rewrite_watermarks(disk: Disk, home: Home, end: LogEnd) -> None:
    """Says durably, in both slots one after the other, that the log is durable up to `end`."""
    try:
        fd = disk.open(home.durable_path, writable=True)
    except FileNotFoundError:
        fd = disk.create(home.durable_path)
        disk.fsync_dir(home.log_dir)
    try:
        old = decode_watermark(disk.pread(fd, SLOT_STRIDE_BYTES + SLOT_BYTES, 0))
        generation = old.generation if old is not None else 0
        for newer in (generation + 1, generation + 2):
            write_all(disk, fd, encode_slot(Watermark(newer, end)), slot_offset(newer))
            disk.fdatasync(fd)
    finally:
        disk.close(fd)
