"""Bytes from one file into another, durable and proven: what was written is read back.

Invariant: a copy that returns is on the device and equals its source, and a file that `replace_file` gives
a name is whole.
"""

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from eventlog.errors import BackupUnusable
from eventlog.storage.disk import Disk, write_all

if TYPE_CHECKING:
    pass


CHUNK_BYTES = 1 << 20  # at a time: large enough to be fast, small enough for any machine

OnBytes = Callable[[int], object]  # bytes that were just done


class Hasher(Protocol):
    """One of hashlib's."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def temporary_name(name: str) -> str:
    """The hidden name that a file has until it is whole."""
    return f".{name}.new"


def is_temporary_name(name: str) -> bool:
    """Whether a name is one of those, left by a run that died."""
    return name.startswith(".") and name.endswith(".new")


def hash_range(
    disk: Disk, fd: int, byte_from: int, byte_to: int, digest: Hasher, on_bytes: OnBytes
) -> None:
    """Adds a range of a file to a digest. Raises OSError where the file ends before it."""
    for at in range(byte_from, byte_to, CHUNK_BYTES):
        data = _read(disk, fd, at, byte_to)
        digest.update(data)
        on_bytes(len(data))


def copy(
    disk: Disk,
    source: int,
    out: int,
    byte_from: int,
    byte_to: int,
    digest: Hasher,
    on_bytes: OnBytes,
) -> None:
    """Copies a range of `source` to the same place of `out`, syncs it, and reads it back.

    What was read back goes into `digest`. Raises OSError, and BackupUnusable where it is not what
    was written.
    """
    written, back = hashlib.sha256(), hashlib.sha256()
    for at in range(byte_from, byte_to, CHUNK_BYTES):
        data = _read(disk, source, at, byte_to)
        write_all(disk, out, data, at)
        written.update(data)
        on_bytes(len(data))
    disk.fdatasync(out)
    disk.drop_cache(out)  # the device is to say what it holds, not the cache
    for at in range(byte_from, byte_to, CHUNK_BYTES):
        data = _read(disk, out, at, byte_to)
        back.update(data)
        digest.update(data)
    if back.digest() != written.digest():
        raise BackupUnusable(
            "what was read back is not what was written",
            do="nothing of it is kept: the disk there, or the way to it, is faulty",
        )


def create_replacing(disk: Disk, path: str) -> int:
    """A new file, also where a run that died has left one."""
    try:
        return disk.create(path)
    except FileExistsError:
        disk.unlink(path)
        return disk.create(path)


def replace_file(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """A file with these bytes, durably, in the place of the one of that name. Raises OSError."""
    new = f"{directory}/{temporary_name(name)}"
    fd = create_replacing(disk, new)
    try:
        try:
            write_all(disk, fd, data, 0)
            disk.fdatasync(fd)
        finally:
            disk.close(fd)
        disk.rename(new, f"{directory}/{name}")
    except BaseException:
        with suppress(OSError):
            disk.unlink(new)
        raise
    disk.fsync_dir(directory)


def _read(disk: Disk, fd: int, at: int, byte_to: int) -> bytes:
    length = min(CHUNK_BYTES, byte_to - at)
    data = disk.pread(fd, length, at)
    if len(data) < length:
        raise OSError(errno.EIO, "the file is shorter than it was")
    return data


def set_aside(disk: Disk, stored_path: str) -> None:
    """Gives a file that is not what it should be the name `.damaged`, as repair does."""
    directory, name = os.path.split(stored_path)
    existing_names = set(disk.names(directory))
    kept, number = f"{name}.damaged", 0
    while kept in existing_names:
        number += 1
        kept = f"{name}.damaged.{number}"
    disk.rename(stored_path, f"{directory}/{kept}")
