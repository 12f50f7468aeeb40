"""Writes the durable watermark, `.durable`.

Invariant: at most one of its two slots is ever unsynced, so a power loss leaves the other.
"""

import time
from collections.abc import Callable

from eventlog.format.durability import (
    NOTHING_PROVEN,
    SLOT_BYTES,
    SLOT_STRIDE_BYTES,
    WORD_BYTES,
    End,
    Watermark,
    Word,
    decode_watermark,
    decode_word,
    encode_slot,
    slot_offset,
)
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.home import Home


def write_watermark(
    disk: Disk,
    home: Home,
    end: End,
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


WORD_READS_MAX = 50  # a word read while it is written is read again; a broken one is no word


def read_word(disk: Disk, home: Home) -> Word | None:
    """The lock's word, if it is of this boot."""
    try:
        fd = disk.open(home.lock_path, writable=False)
    except FileNotFoundError:
        return None
    try:
        for _ in range(WORD_READS_MAX):
            data = disk.pread(fd, WORD_BYTES, 0)
            word = decode_word(data)
            if word is not None or not data:
                return word if word and word.boot_id == disk.boot_id() else None
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


def _proven_end(disk: Disk, home: Home) -> End:
    """The end that the watermark, or a word of this boot, proves to have been durable."""
    said = (read_watermark(disk, home), read_word(disk, home))
    ends = [source.end for source in said if source is not None]
    return max(ends, key=lambda end: end.seq, default=NOTHING_PROVEN)


def _rewrite_watermarks(disk: Disk, home: Home, end: End) -> None:
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
