"""Atomic replacement: temporary name, sync, rename; verified copies; damaged files set aside.

Invariant: a copy that returns is on the device and equals its source, and a file under its final
name is whole.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from eventlog.errors import BackupUnusable
from eventlog.storage.disk import Disk, closing_fd, opened, real_disk, write_all

CHUNK_BYTES = 1 << 20  # at a time: large enough to be fast, small enough for any machine

OnBytes = Callable[[int], object]  # receives how many bytes were just processed


class Hasher(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def temporary_name(name: str) -> str:
    """The hidden name of a file that is still being written."""
    return f".{name}.new"


def is_temporary_name(name: str) -> bool:
    """Whether a file of that name was left by a run that died."""
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
    """Copies a range of `source` to the same offset of `out`, syncs it, and reads it back.

    The bytes read back are added to `digest`. Raises OSError, and BackupUnusable where they differ
    from those written.
    """
    written = write_range(disk, source, out, byte_from, byte_to, on_bytes)
    disk.fdatasync(out)
    read_back(disk, out, byte_from, byte_to, written, digest)


def write_range(
    disk: Disk, source: int, out: int, byte_from: int, byte_to: int, on_bytes: OnBytes
) -> str:
    """Writes a range of `source` to the same offset of `out`; returns the SHA-256 of the range."""
    written = hashlib.sha256()
    for at in range(byte_from, byte_to, CHUNK_BYTES):
        data = _read(disk, source, at, byte_to)
        write_all(disk, out, data, at)
        written.update(data)
        on_bytes(len(data))
    return written.hexdigest()


def read_back(
    disk: Disk, out: int, byte_from: int, byte_to: int, written: str, digest: Hasher | None = None
) -> None:
    """Reads a range of a synced file from the device, and adds it to `digest` if there is one.

    Raises OSError, and BackupUnusable where its SHA-256 is not `written`.
    """
    back = hashlib.sha256()
    disk.drop_cache(out)  # so that the device is read, not the page cache
    for at in range(byte_from, byte_to, CHUNK_BYTES):
        data = _read(disk, out, at, byte_to)
        back.update(data)
        if digest is not None:
            digest.update(data)
    if back.hexdigest() != written:
        raise BackupUnusable(
            "the copy reads back different from what was written",
            do="the copy was discarded: check the destination disk and its connection",
        )


def create_replacing(disk: Disk, path: str, *, dir_fd: int | None = None) -> int:
    """Creates a file, removing one that a run that died has left."""
    try:
        return disk.create(path, dir_fd=dir_fd)
    except FileExistsError:
        disk.unlink(path, dir_fd=dir_fd)
        return disk.create(path, dir_fd=dir_fd)


def replace_file(disk: Disk, directory: str | int, name: str, data: bytes) -> None:
    """Replaces the file of that name by one with these bytes, durably. Raises OSError.

    The directory is a path, or the descriptor of an open one.
    """
    with replacing(disk, directory, name) as fd:
        write_all(disk, fd, data, 0)
        disk.fdatasync(fd)


@contextmanager
def replacing(disk: Disk, directory: str | int, name: str) -> Iterator[int]:
    """A new file under a temporary name, which replaces the one of that name at the block's end.

    The directory is a path, or the descriptor of an open one. The block syncs the file. It is
    removed where the block raises. Raises OSError.
    """
    dir_fd = directory if isinstance(directory, int) else None
    above = f"{directory}/" if dir_fd is None else ""
    new = f"{above}{temporary_name(name)}"
    try:
        with closing_fd(disk, create_replacing(disk, new, dir_fd=dir_fd)) as fd:
            yield fd
        disk.rename(new, f"{above}{name}", dir_fd=dir_fd)
    except BaseException:
        with suppress(OSError):
            disk.unlink(new, dir_fd=dir_fd)
        raise
    disk.fsync_dir(directory)


def rename_durably(
    new: str | os.PathLike[str], path: str | os.PathLike[str], *, disk: Disk | None = None
) -> None:
    """Syncs the file `new`, gives it the name `path`, and syncs the directory. Raises OSError."""
    disk = disk or real_disk()
    with opened(disk, os.fspath(new)) as fd:
        disk.fdatasync(fd)
    disk.rename(os.fspath(new), os.fspath(path))
    disk.fsync_dir(os.path.dirname(path) or ".")


def _read(disk: Disk, fd: int, at: int, byte_to: int) -> bytes:
    length = min(CHUNK_BYTES, byte_to - at)
    data = disk.pread(fd, length, at)
    if len(data) < length:
        raise OSError(errno.EIO, "the file is shorter than it was")
    return data


def set_aside(disk: Disk, stored_path: str) -> None:
    """Renames a damaged file to `<name>.damaged`, or to the first such name that is free."""
    directory, name = os.path.split(stored_path)
    kept = free_name(f"{name}.damaged", disk.names(directory))
    disk.rename(stored_path, f"{directory}/{kept}")


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or else the first of `name.1`, `name.2` ... that is not taken."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found
