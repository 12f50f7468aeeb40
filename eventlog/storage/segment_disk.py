"""SegmentDisk: a Disk that shows compressed and moved segments as they were written.

A closed segment may be compressed beside the others, or raw or compressed in `logs/closed`, which
may be a link to a directory on a larger disk. Through a SegmentDisk each segment has the name, size
and bytes with which it was written; other files are those of the underlying disk.

Places are tried in the order in which segments move, so a segment that is being moved is found.

Invariant: the bytes at a raw byte offset do not depend on how the segment is stored.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from eventlog.errors import EventLogError
from eventlog.format.segment import CLOSED_NAME, COMPRESSED_SUFFIX, is_segment_name, segment_seqs
from eventlog.storage.disk import Disk, closing_fd, opened

if TYPE_CHECKING:
    from eventlog.format.compressed import CompressedReader


OPEN_ATTEMPTS_MAX = 3  # at all places, for a segment that is moved back to its first one meanwhile


class _OpenSegment(NamedTuple):
    """An open segment that is not at its own path."""

    path: str
    raw: "CompressedReader | None"  # None where it is not compressed


class SegmentDisk:
    """Implements Disk on top of another one. As thread-safe as that one."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._opened: dict[int, _OpenSegment] = {}
        self.is_dir = disk.is_dir
        self.make_dir = disk.make_dir
        self.create = disk.create
        self.pwrite = disk.pwrite
        self.truncate = disk.truncate
        self.fdatasync = disk.fdatasync
        self.fdatasync_all = disk.fdatasync_all
        self.fsync_dir = disk.fsync_dir
        self.drop_cache = disk.drop_cache
        self.open_dir = disk.open_dir
        self.try_lock = disk.try_lock
        self.lock = disk.lock
        self.is_locked = disk.is_locked
        self.unlock = disk.unlock
        self.identity_at = disk.identity_at  # of a raw segment: a stored one is another file
        self.exists = disk.exists
        self.generation_at = disk.generation_at
        self.identity_of = disk.identity_of
        self.link_count = disk.link_count
        self.link = disk.link
        self.link_target = disk.link_target
        self.rename = disk.rename
        self.unlink = disk.unlink
        self.boot_id = disk.boot_id

    def names(self, path: str | int) -> list[str]:
        """Names in a directory; segments have the names with which they were written."""
        names = self._disk.names(path)
        found = dict.fromkeys(map(_raw_name, names))
        if CLOSED_NAME in names:
            kept = map(_raw_name, self._names_closed(path))
            found.update(dict.fromkeys(name for name in kept if ".jsonl" in name[-10:]))
        return list(found)

    def _names_closed(self, path: str | int) -> list[str]:
        if isinstance(path, str):
            closed = f"{path}/{CLOSED_NAME}"
            return self._disk.names(closed) if self._disk.is_dir(closed) else []
        try:
            fd = self._disk.open_dir(CLOSED_NAME, dir_fd=path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        with closing_fd(self._disk, fd):
            return self._disk.names(fd)

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        """Opens an existing file. A segment stored elsewhere opens for reading only."""
        try:
            return self._disk.open(path, writable=writable, dir_fd=dir_fd)
        except FileNotFoundError:
            if writable or not is_segment_name(os.path.basename(path)):
                raise
        fd, stored_path = _open_first_existing(self._disk, path, dir_fd)
        try:
            raw = (
                _compressed_reader(self._disk, fd)
                if stored_path.endswith(COMPRESSED_SUFFIX)
                else None
            )
        except BaseException:
            self._disk.close(fd)
            raise
        self._opened[fd] = _OpenSegment(stored_path, raw)
        return fd

    def close(self, fd: int) -> None:
        """Closes the descriptor."""
        self._opened.pop(fd, None)
        self._disk.close(fd)

    def size(self, fd: int) -> int:
        """The file's length now, as it was written."""
        opened = self._opened.get(fd)
        return self._disk.size(fd) if opened is None or opened.raw is None else opened.raw.size

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """`length` bytes at `offset`, as they were written; fewer only where they end."""
        opened = self._opened.get(fd)
        if opened is None or opened.raw is None:
            return self._disk.pread(fd, length, offset)
        return opened.raw.read(length, offset)

    def size_at(self, fd: int, path: str, *, dir_fd: int | None = None) -> int | None:
        """Length, as it was written, of the file at `path`; None unless `fd` has it open."""
        opened = self._opened.get(fd)
        if opened is None:
            return self._disk.size_at(fd, path, dir_fd=dir_fd)
        size = self._disk.size_at(fd, opened.path, dir_fd=dir_fd)
        return size if size is None or opened.raw is None else opened.raw.size


def candidate_paths(path: str) -> tuple[str, str, str, str]:
    """The places where the segment of that path may be stored; the first existing one counts."""
    directory, name = os.path.split(path)
    closed = os.path.join(directory, CLOSED_NAME, name)
    return path, path + COMPRESSED_SUFFIX, closed, closed + COMPRESSED_SUFFIX


def existing_paths(disk: Disk, path: str) -> list[str]:
    """The places of a segment at which there is a file."""
    disk = _underlying_disk(disk)
    found: list[str] = []
    for stored_path in candidate_paths(path):
        with suppress(FileNotFoundError, NotADirectoryError):
            disk.close(disk.open(stored_path, writable=False))
            found.append(stored_path)
    return found


def stored_segments(disk: Disk, log_dir: str) -> list[tuple[int, str]]:
    """Each file that stores a segment, with the segment's first seq, in order.

    A segment that is being moved has two files, and both are listed. Raises LogCorrupt.
    """
    disk = _underlying_disk(disk)
    found: list[tuple[int, str]] = []
    for directory in (log_dir, f"{log_dir}/{CLOSED_NAME}"):
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in disk.names(directory):
                written = name.removesuffix(COMPRESSED_SUFFIX)
                if is_segment_name(written):
                    found += [(seq, f"{directory}/{name}") for seq in segment_seqs([written])]
    return sorted(found)


def segment_sizes(disk: Disk, paths: Iterable[str]) -> tuple[int, int]:
    """Raw bytes of segments, and the bytes that they take on the underlying disk.

    Missing segments are left out.
    """
    written = kept = 0
    for path in paths:
        with suppress(FileNotFoundError), _opened_first(disk, path) as stored:
            written += stored.size
            kept += stored.disk_bytes
    return written, kept


def compression_problem(disk: Disk, path: str) -> str | None:
    """The damage in a compressed segment all of whose raw bytes can still be read."""
    with suppress(FileNotFoundError), _opened_first(disk, path) as stored:
        return stored.problem
    return None  # it has just been removed


class StoredSegment(NamedTuple):
    """One stored file of a segment."""

    size: int  # raw bytes
    disk_bytes: int
    read: Callable[[int, int], bytes]  # length, offset, in raw bytes
    content_checksum: tuple[int, str] | None = None  # recorded in a compressed one: length, SHA-256
    problem: str | None = None  # damage in a compressed one that leaves all raw bytes readable


@contextmanager
def opened_segment(
    disk: Disk, stored_path: str, *, from_device: bool = False
) -> Iterator[StoredSegment]:
    """Opens one file, raw or compressed by its name, for the block. Raises OSError."""
    with opened(disk, stored_path) as fd:
        if from_device:
            disk.drop_cache(fd)
        yield _stored_segment(disk, fd, stored_path)


@contextmanager
def _opened_first(disk: Disk, path: str) -> Iterator[StoredSegment]:
    """Opens the segment of that path for the block. FileNotFoundError, EventLogError."""
    disk = _underlying_disk(disk)
    fd, stored_path = _open_first_existing(disk, path)
    try:
        yield _stored_segment(disk, fd, stored_path)
    finally:
        disk.close(fd)


def _underlying_disk(disk: Disk) -> Disk:
    """The disk itself, on which each file is at its own path only."""
    return disk._disk if isinstance(disk, SegmentDisk) else disk


def _open_first_existing(disk: Disk, path: str, dir_fd: int | None = None) -> tuple[int, str]:
    """Opens the segment of that path at its first existing place, even while it is moved."""
    for _ in range(OPEN_ATTEMPTS_MAX):
        for stored_path in candidate_paths(path):
            with suppress(FileNotFoundError, NotADirectoryError):
                return disk.open(stored_path, writable=False, dir_fd=dir_fd), stored_path
    if dir_fd is None:
        refuse_unmounted(disk, os.path.dirname(path))
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _stored_segment(disk: Disk, fd: int, stored_path: str) -> StoredSegment:
    size = disk.size(fd)
    if COMPRESSED_SUFFIX not in os.path.basename(stored_path):
        return StoredSegment(size, size, lambda length, at: disk.pread(fd, length, at))
    raw = _compressed_reader(disk, fd)
    return StoredSegment(raw.size, size, raw.read, raw.content_checksum, raw.problem)


def _compressed_reader(disk: Disk, fd: int) -> "CompressedReader":
    from eventlog.format.compressed import (
        CompressedReader,  # with zstd behind it, which most logs never need
    )

    return CompressedReader(lambda length, offset: disk.pread(fd, length, offset), disk.size(fd))


def _raw_name(name: str) -> str:
    if not name.endswith(COMPRESSED_SUFFIX):
        return name
    written = name.removesuffix(COMPRESSED_SUFFIX)
    return written if is_segment_name(written) else name


def refuse_unmounted(disk: Disk, log_dir: str) -> None:
    """Raises EventLogError where a segment is missing because its disk is not mounted."""
    closed = f"{log_dir}/{CLOSED_NAME}"
    if disk.link_target(closed) is not None and not disk.is_dir(closed):
        raise EventLogError(
            "the directory of closed segments is unavailable",
            where=closed,
            do="mount the disk that the link leads to, or repair the link",
        )
