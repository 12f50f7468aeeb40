"""Reserves the space of `-shm`, SQLite's index of the WAL, before SQLite maps that file.

SQLite extends the file by one byte for each 4 KiB. On a file system with smaller blocks the rest is
a hole, and a write into a hole through the map takes a block: without a free one, SIGBUS ends the
process. So the blocks are allocated first, and a full disk is an ordinary error. SQLite's first
connection would truncate the file again; it does not while another process holds a lock on the byte
128, its sign of a connection, so that lock is held here (an OFD lock, which SQLite sees as another
process's). Elsewhere than on small blocks nothing is done.

Invariant: a descriptor of an index in use is not closed. Closing any descriptor of a file drops the
POSIX locks that SQLite holds on that file in this process (fcntl(2)).
"""

import ctypes
import errno
import fcntl
import os
import sqlite3
import stat
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES_MIN = 4096  # SQLite writes one byte into each piece of this size
SEGMENT_BYTES = 32 * 1024  # of the index: its first covers 4062 pages, each later one 4096
SEGMENT_PAGES = 4096
OPEN_ATTEMPTS_MAX = 10  # the last connection that closes removes the file

_CONNECTED_BYTE = 128  # UNIX_SHM_DMS of SQLite: each connection holds a read lock on it
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class IndexSpaceMissing(sqlite3.OperationalError):
    """There is no space for the index of the WAL."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


@dataclass(slots=True)
class _OpenIndex:
    """A descriptor of an index, and how many connections of this process use it."""

    fd: int
    connections: int = 0


# POSIX locks belong to the process, so the descriptors of an inode are counted for all of it.
_open_indexes: dict[tuple[int, int], _OpenIndex] = {}
_mutex = threading.Lock()


def index_bytes(pages: int) -> int:
    """Size of the index of a WAL with this many pages."""
    return SEGMENT_BYTES * (1 + (pages + 34) // SEGMENT_PAGES)


def block_bytes(directory: Path) -> int:
    """Size of the blocks of the file system that holds a directory."""
    return os.statvfs(directory).f_bsize


def has_small_blocks(directory: Path) -> bool:
    """Whether the file system has blocks in which the index of a WAL would have holes."""
    return block_bytes(directory) < BLOCK_BYTES_MIN


def reserve_index(path: Path, size_bytes: int) -> Callable[[], None] | None:
    """Reserves the index of the database at `path`, before a connection opens it.

    Returns what to call once that connection is closed; None where nothing is needed, or where this
    account may not write: SQLite then only reads the index. Raises IndexSpaceMissing.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        if not has_small_blocks(path.parent):
            return None
        with _mutex:
            found = _reserve(f"{path}-shm", size_bytes)
    except PermissionError:
        return None
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOENT):
            return None  # SQLite meets the same, and reports it
        if error.errno not in _NO_SPACE:
            raise
        raise IndexSpaceMissing(f"no space for {path.name}-shm: {error.strerror}") from error
    return lambda: _release(found)


def _reserve(name: str, size_bytes: int) -> _OpenIndex:
    index = _opened(name)
    if not index.connections:
        is_alone = _try_lock(index.fd, fcntl.F_WRLCK)
        try:
            if is_alone:
                os.ftruncate(index.fd, 0)  # an index of a process that was killed
            _allocate(index.fd, size_bytes, is_alone=is_alone)
        except OSError:
            if is_alone:
                # Never removed: another process may have opened it and be about to lock it.
                os.ftruncate(index.fd, 0)
                _try_lock(index.fd, fcntl.F_UNLCK)
            raise
        _try_lock(index.fd, fcntl.F_RDLCK)
    else:
        _allocate(index.fd, size_bytes, is_alone=False)
    index.connections += 1
    return index


def _opened(name: str) -> _OpenIndex:
    """The index file at the path, which is created where it is missing."""
    for _ in range(OPEN_ATTEMPTS_MAX):
        with suppress(FileNotFoundError):
            known = _open_indexes.get(_inode(os.lstat(name)))
            if known is not None:  # a second descriptor could not be closed
                return known
        database = os.stat(name.removesuffix("-shm"))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.ENXIO, "not a regular file", name)
        if status.st_size == 0:
            os.fchmod(fd, database.st_mode & 0o777)  # as SQLite does
            with suppress(PermissionError):
                os.fchown(fd, database.st_uid, database.st_gid)
        _open_indexes[_inode(status)] = index = _OpenIndex(fd)
        with suppress(FileNotFoundError):
            if _inode(os.lstat(name)) == _inode(status):
                return index
        _close_removed()
    raise FileNotFoundError(errno.ENOENT, "the file is removed again and again", name)


def _allocate(fd: int, size_bytes: int, *, is_alone: bool) -> None:
    """Allocates all blocks of the file. Its content stays."""
    status = os.fstat(fd)
    if status.st_size >= size_bytes and 512 * status.st_blocks >= size_bytes:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    allocate = libc.fallocate64
    allocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if allocate(fd, 0, 0, size_bytes) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    if is_alone:  # not os.posix_fallocate: it would write zeros beside the writes of others
        os.pwrite(fd, bytes(size_bytes), 0)


def _try_lock(fd: int, kind: int) -> bool:
    """Takes or drops a lock on the byte that connections lock; False where others hold it."""
    lock = struct.pack(_FLOCK, kind, os.SEEK_SET, _CONNECTED_BYTE, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        return True
    except OSError:
        return False


def _release(index: _OpenIndex) -> None:
    with _mutex:
        index.connections -= 1
        if not index.connections:
            _try_lock(index.fd, fcntl.F_UNLCK)
        _close_removed()


def _close_removed() -> None:
    """Closes indexes that were removed, which only the last connection of all does."""
    for inode, index in list(_open_indexes.items()):
        if not index.connections and os.fstat(index.fd).st_nlink == 0:
            del _open_indexes[inode]
            os.close(index.fd)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def _forget() -> None:
    """In a forked child: the locks are the parent's, so its descriptors are not used."""
    global _mutex  # noqa: PLW0603  # another thread of the parent may hold it for ever
    _open_indexes.clear()
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_forget)
