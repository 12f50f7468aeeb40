"""Writes the durable watermark, `.durable`.

Invariant: at most one of its two slots is ever unsynced, so a power loss leaves the other.
"""

from collections.abc import Callable

from eventlog.disk import Disk, write_all
from eventlog.durable import (
    SLOT_BYTES,
    SLOT_STRIDE_BYTES,
    End,
    Watermark,
    decode_watermark,
    encode_slot,
    slot_offset,
)
from eventlog.home import Home


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
