"""Disk: the protocol for every operating system call that can fail or be lost, and its real form.

Invariant: nothing else in this package changes, syncs or locks a file, so a test can fail each
call in turn, and an explorer can enumerate every state that a power loss may leave.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from eventlog.errors import UnsafePath, Unsupported
from eventlog.storage.identity import FileIdentity, generation_at, inode_of, read_boot_id
from eventlog.storage.ownership import adopt_link_owner, adopt_owner, make_private_dir


class Disk(Protocol):
    """The file operations that the log needs. Offsets and sizes are bytes; errors are OSError.

    With `dir_fd`, a path is relative to the open directory of that descriptor, which
    `storage.directory` uses: what is put at the directory's own path meanwhile is not followed.
    """

    def names(self, path: str | int) -> list[str]:
        """Names in a directory, by path or descriptor, in no order. FileNotFoundError."""

    def is_dir(self, path: str) -> bool:
        """Whether `path` leads to a directory."""

    def make_dir(self, path: str, *, dir_fd: int | None = None) -> None:
        """Makes one directory, mode 0700 whatever the umask. FileExistsError."""

    def create(self, path: str, *, dir_fd: int | None = None) -> int:
        """Creates a file, mode 0600 whatever the umask, open for reading and writing."""

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        """Opens an existing regular file; a link is not followed (UnsafePath)."""

    def open_dir(self, path: str, *, dir_fd: int | None = None, follow: bool = True) -> int:
        """Opens an existing directory. Without `follow` a link there is refused (UnsafePath)."""

    def close(self, fd: int) -> None:
        """Closes the descriptor."""

    def size(self, fd: int) -> int:
        """The file's length now."""

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """`length` bytes at `offset`; fewer only where the file ends."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Writes at `offset`; returns how many bytes were written, which may be fewer."""

    def truncate(self, fd: int, length: int) -> None:
        """Cuts the file to `length`."""

    def fdatasync(self, fd: int) -> None:
        """Returns when the file's bytes and length are on the device."""

    def fdatasync_all(self, fds: Sequence[int]) -> None:
        """`fdatasync` of several files; after an error some may not have been tried."""

    def fsync_dir(self, path: str | int) -> None:
        """Returns when the names in the directory, by path or descriptor, are on the device."""

    def drop_cache(self, fd: int) -> None:
        """Drops the file's pages, so that the next read comes from the device."""

    def try_lock(self, fd: int) -> bool:
        """Takes the exclusive lock if it is free; does not wait."""

    def lock(self, fd: int) -> None:
        """Takes the exclusive lock, waiting for it without a limit."""

    def is_locked(self, fd: int) -> bool:
        """Whether another descriptor holds the exclusive lock."""

    def unlock(self, fd: int) -> None:
        """Releases the lock."""

    def size_at(self, fd: int, path: str, *, dir_fd: int | None = None) -> int | None:
        """Length of the file at `path`; None unless it is the file that `fd` has open."""

    def identity_at(self, path: str, *, dir_fd: int | None = None) -> FileIdentity | None:
        """The regular file at exactly this path; None where there is none. Opens nothing."""

    def exists(self, path: str) -> bool:
        """Whether anything has exactly this path, of whatever kind. Opens nothing."""

    def generation_at(self, path: str) -> int:
        """The generation of the inode at this path; 0 where there is none.

        File systems reuse the number of a removed inode, but not with the same generation.
        """

    def identity_of(self, fd: int) -> FileIdentity:
        """The file or directory that `fd` has open."""

    def link_count(self, fd: int) -> int:
        """How many names the open file has; 0 once it was removed."""

    def link(self, target: str, path: str) -> None:
        """Makes `path` a symbolic link to `target`, replacing an existing link."""

    def link_target(self, path: str) -> str | None:
        """Target of the symbolic link at `path`; None where there is none."""

    def rename(self, old: str, new: str, *, dir_fd: int | None = None) -> None:
        """Renames `old` to `new`, replacing a file there, in one step."""

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        """Removes a name."""

    def boot_id(self) -> str:
        """Identifies this boot of the machine, which the page cache does not outlive.

        Empty where the system does not say: then a log is always read from the device.
        """


class RealDisk:
    """Implements Disk by the calls of the operating system."""

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise Unsupported(
                "Windows is not supported", do="run it on Linux or macOS, or under WSL 2"
            )
        import fcntl  # not at the top: Windows has none, and is refused with an error above

        self._fcntl = fcntl
        self._full_fsync = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync stops at its cache
        self._boot_id = read_boot_id()
        self._inodes: dict[int, tuple[int, int]] = {}  # (device, inode) of what is open
        self._dir_paths: dict[int, str] = {}  # of open directories, for messages

    def names(self, path: str | int) -> list[str]:
        return os.listdir(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def make_dir(self, path: str, *, dir_fd: int | None = None) -> None:
        make_private_dir(path, dir_fd=dir_fd)

    def create(self, path: str, *, dir_fd: int | None = None) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
        try:
            os.fchmod(fd, 0o600)
            adopt_owner(fd, path, dir_fd=dir_fd)
        except OSError:
            os.close(fd)
            os.unlink(path, dir_fd=dir_fd)  # after an error the caller must find no file
            raise
        self._inodes[fd] = inode_of(os.fstat(fd))
        return fd

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        access = os.O_RDWR if writable else os.O_RDONLY
        try:
            # O_NONBLOCK: opening a pipe instead of a file must not hang.
            flags = access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(path, flags, dir_fd=dir_fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _unsafe_path_error(self._at(path, dir_fd), "a symbolic link") from None
            if error.errno in (errno.ENXIO, errno.EISDIR):
                raise _unsafe_path_error(self._at(path, dir_fd), "no regular file") from None
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise _unsafe_path_error(self._at(path, dir_fd), "no regular file")
        self._inodes[fd] = inode_of(status)
        return fd

    def open_dir(self, path: str, *, dir_fd: int | None = None, follow: bool = True) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW, dir_fd=dir_fd)
        except OSError as error:
            # Linux answers ENOTDIR for a link, macOS ELOOP.
            if follow or error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            whole = self._at(path, dir_fd)
            raise _unsafe_path_error(whole, "a symbolic link or a file", "a directory") from None
        self._dir_paths[fd] = self._at(path, dir_fd)
        return fd

    def _at(self, path: str, dir_fd: int | None) -> str:
        """The whole path, for messages."""
        return path if dir_fd is None else f"{self._dir_paths.get(dir_fd, '')}/{path}"

    def close(self, fd: int) -> None:
        self._inodes.pop(fd, None)
        self._dir_paths.pop(fd, None)
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fdatasync(self, fd: int) -> None:
        if self._full_fsync is not None:
            self._fcntl.fcntl(fd, self._full_fsync)
        else:
            os.fdatasync(fd)

    def fdatasync_all(self, fds: Sequence[int]) -> None:
        from eventlog.storage.group_sync import sync_all  # only a backup needs it

        sync_all(self.fdatasync, fds)

    def fsync_dir(self, path: str | int) -> None:
        fd = (
            path
            if isinstance(path, int)
            else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        )
        try:
            if self._full_fsync is not None:
                self._fcntl.fcntl(fd, self._full_fsync)
            else:
                os.fsync(fd)
        finally:
            if fd != path:
                os.close(fd)

    def drop_cache(self, fd: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def try_lock(self, fd: int) -> bool:
        return self._try_flock(fd, self._fcntl.LOCK_EX)

    def lock(self, fd: int) -> None:
        self._fcntl.flock(fd, self._fcntl.LOCK_EX)

    def is_locked(self, fd: int) -> bool:
        # A shared lock, so that two processes that look do not see each other.
        if not self._try_flock(fd, self._fcntl.LOCK_SH):
            return True
        self.unlock(fd)
        return False

    def _try_flock(self, fd: int, kind: int) -> bool:
        # flock, not fcntl locks: those vanish when any descriptor of the file is closed.
        try:
            self._fcntl.flock(fd, kind | self._fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        self._fcntl.flock(fd, self._fcntl.LOCK_UN)

    def size_at(self, fd: int, path: str, *, dir_fd: int | None = None) -> int | None:
        try:
            status = os.lstat(path, dir_fd=dir_fd)
        except FileNotFoundError:
            return None
        return status.st_size if inode_of(status) == self._inodes[fd] else None

    def identity_at(self, path: str, *, dir_fd: int | None = None) -> FileIdentity | None:
        try:
            status = os.lstat(path, dir_fd=dir_fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileIdentity(*inode_of(status), status.st_size)

    def exists(self, path: str) -> bool:
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def generation_at(self, path: str) -> int:
        return generation_at(path)

    def identity_of(self, fd: int) -> FileIdentity:
        status = os.fstat(fd)
        return FileIdentity(*inode_of(status), status.st_size)

    def link_count(self, fd: int) -> int:
        return os.fstat(fd).st_nlink

    def link(self, target: str, path: str) -> None:
        new = f"{path}.{os.getpid()}.new"
        try:
            os.symlink(target, new)
        except FileExistsError:  # a process with our pid died right here
            os.unlink(new)
            os.symlink(target, new)
        try:
            if os.path.lexists(path) and not os.path.islink(path):
                raise FileExistsError(errno.EEXIST, "this is no symbolic link", path)
            adopt_link_owner(new)
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise

    def link_target(self, path: str) -> str | None:
        try:
            return os.readlink(path)
        except OSError:
            return None

    def rename(self, old: str, new: str, *, dir_fd: int | None = None) -> None:
        os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        os.unlink(path, dir_fd=dir_fd)

    def boot_id(self) -> str:
        return self._boot_id


@contextmanager
def closing_fd(disk: Disk, fd: int) -> Iterator[int]:
    """Closes the descriptor at the block's end."""
    try:
        yield fd
    finally:
        disk.close(fd)


@contextmanager
def opened(
    disk: Disk, path: str, *, writable: bool = False, dir_fd: int | None = None
) -> Iterator[int]:
    """Opens an existing file for the length of a block. Raises what `Disk.open` raises."""
    with closing_fd(disk, disk.open(path, writable=writable, dir_fd=dir_fd)) as fd:
        yield fd


def size_of(disk: Disk, path: str) -> int:
    """Length of an existing file, in bytes."""
    with opened(disk, path) as fd:
        return disk.size(fd)


def read_file(disk: Disk, path: str, bytes_max: int | None = None) -> bytes:
    """The bytes of an existing file, at most the first `bytes_max`."""
    with opened(disk, path) as fd:
        return disk.pread(fd, disk.size(fd) if bytes_max is None else bytes_max, 0)


def open_or_create(disk: Disk, path: str) -> int:
    """Opens a file for writing, also where there is none yet."""
    try:
        return disk.create(path)
    except FileExistsError:
        return disk.open(path, writable=True)


@cache
def real_disk() -> Disk:
    """One RealDisk for all callers that do not bring a disk."""
    return RealDisk()


def write_all(disk: Disk, fd: int, data: bytes, offset: int) -> None:
    """Writes all of `data`, in several writes if one is short. Raises OSError."""
    written = disk.pwrite(fd, data, offset)
    while written < len(data):
        more = disk.pwrite(fd, data[written:], offset + written)
        if more <= 0:
            raise OSError(errno.EIO, "the write made no progress")
        written += more


def _unsafe_path_error(path: str, kind: str, ours: str = "a file of the log") -> UnsafePath:
    return UnsafePath(
        f"{kind} is where {ours} should be",
        where=path,
        do="move it away, or use another home",
    )
