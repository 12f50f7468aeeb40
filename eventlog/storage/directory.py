"""An open directory: what is in it is reached through its descriptor, never again by its path.

A path that was checked by name may lead elsewhere when it is used, where another account may write
to a directory above it. A `Directory` is opened once, and its files stay in what was opened.

Invariant: no method follows a symbolic link in place of the file or directory that it names.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType

from eventlog.errors import UnsafePath
from eventlog.storage.atomic import replace_file, replacing
from eventlog.storage.disk import Disk, opened, real_disk
from eventlog.storage.identity import FileIdentity


class Directory:
    """The directory that the descriptor `fd` has open; `path` is for messages.

    Closed by `close`, or as a context manager. Names are single names in it. Errors are OSError,
    and UnsafePath where a link or another kind of file is at a name.
    """

    def __init__(self, fd: int, path: str, *, disk: Disk | None = None) -> None:
        self.fd = fd
        self.path = path
        self.disk = disk or real_disk()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, follow: bool = False, disk: Disk | None = None
    ) -> "Directory":
        """Opens an existing directory; a link at `path` is refused unless `follow`."""
        disk = disk or real_disk()
        return cls(disk.open_dir(os.fspath(path), follow=follow), os.fspath(path), disk=disk)

    def close(self) -> None:
        """Closes the descriptor."""
        self.disk.close(self.fd)

    def __enter__(self) -> "Directory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def subdirectory(self, name: str, *, create: bool = False) -> "Directory":
        """Opens a directory in this one. With `create` it is made where it is missing, mode 0700.

        One that stands keeps its mode and its owner.
        """
        if create:
            with suppress(FileExistsError):
                self.disk.make_dir(name, dir_fd=self.fd)
        fd = self.disk.open_dir(name, dir_fd=self.fd, follow=False)
        return Directory(fd, f"{self.path}/{name}", disk=self.disk)

    def make_subdirectory(self, name: str) -> "Directory":
        """Makes a directory that does not exist yet, mode 0700, and opens it. FileExistsError.

        Raises UnsafePath where another account has put one of its own in its place. Needs a disk
        whose descriptors are those of the system.
        """
        self.disk.make_dir(name, dir_fd=self.fd)
        made = self.subdirectory(name)
        # Root gives what it makes to the owner of the directory above.
        if os.fstat(made.fd).st_uid not in (os.geteuid(), os.fstat(self.fd).st_uid):
            made.close()
            raise UnsafePath(
                "another account has replaced a directory while it was made",
                where=made.path,
                do="find out which program of that account writes there, then run it again",
            )
        return made

    def open_file(self, name: str, *, writable: bool = False) -> int:
        """Opens an existing regular file; returns its descriptor."""
        return self.disk.open(name, writable=writable, dir_fd=self.fd)

    def opened(self, name: str, *, writable: bool = False) -> AbstractContextManager[int]:
        """Opens an existing regular file for the length of a block."""
        return opened(self.disk, name, writable=writable, dir_fd=self.fd)

    def create(self, name: str) -> int:
        """Creates a file of mode 0600; returns its descriptor. FileExistsError."""
        return self.disk.create(name, dir_fd=self.fd)

    @contextmanager
    def replacing(self, name: str) -> Iterator[int]:
        """A new file of mode 0600, which takes the name, durably, at the block's end.

        The block writes and syncs it. It is removed where the block raises.
        """
        with replacing(self.disk, self.fd, name) as fd:
            yield fd

    def replace(self, name: str, data: bytes) -> None:
        """Replaces the file of that name by one with these bytes, durably."""
        replace_file(self.disk, self.fd, name, data)

    def read(self, name: str, bytes_max: int) -> bytes:
        """All bytes of a file that has at most `bytes_max`; UnsafePath where it has more."""
        where = f"{self.path}/{name}"
        return read_small_file(self.disk, name, bytes_max, dir_fd=self.fd, where=where)

    def names(self) -> list[str]:
        """The names in the directory, in no order."""
        return self.disk.names(self.fd)

    def identity(self, name: str) -> FileIdentity | None:
        """The regular file of that name; None where there is none. Opens nothing."""
        return self.disk.identity_at(name, dir_fd=self.fd)

    def stat(self, name: str) -> os.stat_result:
        """Owner, mode and kind of what has that name; a link is not followed.

        Needs a disk whose descriptors are those of the system.
        """
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        """Renames a file in the directory, replacing one of that name. Not durable until `sync`."""
        self.disk.rename(old, new, dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        """Removes a name."""
        self.disk.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Returns when the names in the directory are on the device."""
        self.disk.fsync_dir(self.fd)


def read_small_file(
    disk: Disk, path: str, bytes_max: int, *, dir_fd: int | None = None, where: str = ""
) -> bytes:
    """All bytes of an existing file that has at most `bytes_max`. Raises UnsafePath, OSError.

    A file of ours that outgrows its limit was not written by us, and may be sparse and of any size.
    """
    with opened(disk, path, dir_fd=dir_fd) as fd:
        size = disk.size(fd)
        if size > bytes_max:
            raise too_large_error(where or path, bytes_max)
        return disk.pread(fd, size, 0)


def too_large_error(path: str, bytes_max: int) -> UnsafePath:
    """The error for a file that is larger than any of ours."""
    return UnsafePath(
        f"the file has more than {bytes_max} bytes, which is too many to be ours",
        where=path,
        do="move it away, or restore it from a backup",
    )
