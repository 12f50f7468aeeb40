"""Files and directories of the simulated disk, as values: what processes see and what would stay.

Invariant: values never change, so a snapshot of the whole disk is a copy of one small dict.
"""

from typing import NamedTuple

SECTOR_BYTES = 512  # what a device writes whole or not at all


class Write(NamedTuple):
    """Bytes that were written and wait in the page cache."""

    offset: int
    data: bytes


class Resize(NamedTuple):
    """A new length that was not synced."""

    length: int


Change = Write | Resize


class File(NamedTuple):
    """A regular file."""

    cache: bytes = b""  # what a read returns
    device: bytes = b""  # what stays whatever happens, but for `pending`
    pending: tuple[Change, ...] = ()  # since the last sync; any part of it may reach the device
    errors: int = 0  # how often pages were lost
    is_error_unseen: bool = False  # the last loss was not reported to anybody


class Rename(NamedTuple):
    """A change of a directory: `old` goes where there is one, `new` comes where there is one."""

    old: str
    new: str
    ino: int


class Folder(NamedTuple):
    """A directory. Its dicts are never changed in place."""

    names: dict[str, int]  # what processes see
    device: dict[str, int]
    pending: tuple[Rename, ...] = ()


class Link(NamedTuple):
    """A symbolic link; its target comes and goes with its name."""

    target: str


Inode = File | Folder | Link
Inodes = dict[int, Inode]  # by number
ROOT = 1


def applied(data: bytes, change: Change) -> bytes:
    """`data` after `change`; what lies between the end and a later write is zeros."""
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
        # A page is written back whole: with it goes what an earlier sync failed to write.
        start = offset // page_bytes * page_bytes
        end = -(-(offset + len(data)) // page_bytes) * page_bytes
        change = Write(start, cache[start:end])
    pending = file.pending
    if len(pending) > 2 and all(is_over(old, change) for old in pending):
        # The lock's word is overwritten for ever and never synced: its first versions and its
        # last ones stand for all of them.
        pending = (pending[0], pending[-1])
    return file._replace(cache=cache, pending=(*pending, change))


def is_over(old: Change, new: Write) -> bool:
    """Whether `new` overwrites the bytes of `old`, neither more nor less."""
    if isinstance(old, Resize):
        return False
    return old.offset == new.offset and len(old.data) == len(new.data)


def synced(file: File) -> File:
    """`file` after a sync that succeeded: what is pending reaches the device."""
    if not file.pending:
        return file
    device = file.cache
    if file.errors:  # pages that were lost are clean: nobody writes them again
        device = file.device
        for change in file.pending:
            device = applied(device, change)
    return file._replace(device=device, pending=())


def lost(file: File, survived: bytes) -> File:
    """`file` after a sync that failed: its pages are clean now, `survived` is on the device.

    The length is metadata, which the file system keeps and writes with the next sync.
    """
    length = len(file.cache)
    pending = (Resize(length),) if len(survived) != length else ()
    return file._replace(device=survived, pending=pending, errors=file.errors + 1)


def evicted(file: File) -> File:
    """`file` after its clean pages were dropped: reads see the device, and what is still dirty."""
    cache = file.device
    for change in file.pending:
        cache = applied(cache, change)
    return file._replace(cache=cache)
