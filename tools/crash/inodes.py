"""Files and directories of the simulated disk as values: the cache, and what survives power loss.

Invariant: values never change, so a snapshot of the whole disk is a copy of one small dict.
"""

from typing import NamedTuple

SECTOR_BYTES = 512  # a device writes a sector whole or not at all


class Write(NamedTuple):
    """Bytes in the page cache that were not synced."""

    offset: int
    data: bytes


class Resize(NamedTuple):
    """A new length that was not synced."""

    length: int


Change = Write | Resize


class File(NamedTuple):
    """A regular file."""

    cache: bytes = b""  # what a read returns
    device: bytes = b""  # what survives a power loss, apart from `pending`
    pending: tuple[Change, ...] = ()  # since the last sync; any part of it may reach the device
    errors: int = 0  # how often pages were lost by a failed write-back
    is_error_unseen: bool = False  # no process has received the last error


class Rename(NamedTuple):
    """A change of a directory: `old` is removed and `new` is added, unless empty."""

    old: str
    new: str
    ino: int


class Folder(NamedTuple):
    """A directory. Its dicts are never changed in place."""

    names: dict[str, int]  # what processes see
    device: dict[str, int]
    pending: tuple[Rename, ...] = ()


class Link(NamedTuple):
    """A symbolic link; its target is durable with its name."""

    target: str


Inode = File | Folder | Link
Inodes = dict[int, Inode]  # by number
ROOT = 1


def applied(data: bytes, change: Change) -> bytes:
    """`data` after `change`; a gap between the end and a later write is zeros."""
    if isinstance(change, Resize):
        return data[: change.length].ljust(change.length, b"\0")
    offset, new = change
    return b"%b%b%b" % (data[:offset].ljust(offset, b"\0"), new, data[offset + len(new) :])


def renamed(names: dict[str, int], change: Rename) -> dict[str, int]:
    """`names` after `change`."""
    after = dict(names)
    if change.old:
        after.pop(change.old, None)
    if change.new:
        after[change.new] = change.ino
    return after


def written(file: File, offset: int, data: bytes, page_bytes: int) -> File:
    """`file` after a write into the page cache."""
    change = Write(offset, data)
    cache = applied(file.cache, change)
    if file.errors:
        # A page is written back whole, with the bytes that an earlier sync failed to write.
        start = offset // page_bytes * page_bytes
        end = -(-(offset + len(data)) // page_bytes) * page_bytes
        change = Write(start, cache[start:end])
    pending = file.pending
    if len(pending) > 2 and all(is_over(old, change) for old in pending):
        # The lock record is overwritten again and again and never synced: its first and its last
        # versions stand for all of them.
        pending = (pending[0], pending[-1])
    return file._replace(cache=cache, pending=(*pending, change))


def is_over(old: Change, new: Write) -> bool:
    """Whether `new` overwrites exactly the bytes of `old`."""
    if isinstance(old, Resize):
        return False
    return old.offset == new.offset and len(old.data) == len(new.data)


def synced(file: File) -> File:
    """`file` after a sync that succeeded: pending changes are on the device."""
    if not file.pending:
        return file
    device = file.cache
    if file.errors:  # pages that were lost count as clean and are not written again
        device = file.device
        for change in file.pending:
            device = applied(device, change)
    return file._replace(device=device, pending=())


def lost(file: File, survived: bytes) -> File:
    """`file` after a sync that failed: its pages are clean, `survived` is on the device.

    The length is metadata, which the file system keeps and writes with the next sync.
    """
    length = len(file.cache)
    pending = (Resize(length),) if len(survived) != length else ()
    return file._replace(device=survived, pending=pending, errors=file.errors + 1)


def evicted(file: File) -> File:
    """`file` after its clean pages were dropped: reads return the device and dirty pages."""
    cache = file.device
    for change in file.pending:
        cache = applied(cache, change)
    return file._replace(cache=cache)
