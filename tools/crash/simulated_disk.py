"""The simulated disk: several processes share it, and a power loss takes what was not synced.

It implements the `Disk` protocol of eventlog.storage.disk: one SimulatedDisk a process, over one
World.

Invariant: bytes and names reach the device only by fdatasync and fsync_dir. After a failed
fdatasync the lost bytes are in the cache, not on the device, and the next fdatasync returns 0.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventlog.storage.identity import FileIdentity
from tools.crash.inodes import (
    ROOT,
    File,
    Folder,
    Inode,
    Inodes,
    Link,
    Rename,
    Resize,
    applied,
    evicted,
    lost,
    renamed,
    synced,
    written,
)

PAGE_BYTES = 4096
NO_BOOT_ID = 0  # a boot of which the system does not say which one it is


class Fault(NamedTuple):
    """How a call fails."""

    errno: int = errno.EIO
    taken: float = (
        0.0  # the part of a write that is done; above 0 the write is short, without an error
    )
    survived: Callable[[File], bytes] | None = (
        None  # the bytes that a failed sync brought to the device
    )


Step = Callable[[str], Fault | None]  # called with the name of each call before it is made


class _OpenFile:
    """An open descriptor: its process, and how many errors of its file it has returned."""

    __slots__ = ("errors_seen", "ino", "process")

    def __init__(self, process: int, ino: int, errors_seen: int) -> None:
        self.process = process
        self.ino = ino
        self.errors_seen = errors_seen


class World:
    """One machine: page cache, device, descriptors and locks of all processes."""

    def __init__(
        self,
        inodes: Inodes | None = None,
        *,
        boot: int = 1,
        device: int = 1,
        generation: int = 1,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self.inodes: Inodes = inodes if inodes is not None else {ROOT: Folder({}, {})}
        self.boot = boot
        self.device = device  # the number of the file system that holds the files
        self.generation = generation  # of all inodes: another one where numbers are reused
        self.page_bytes = page_bytes
        self.version = 0  # grows with each change
        self.fds: dict[int, _OpenFile] = {}
        self.locks: dict[int, int] = {}  # inode -> the descriptor that holds its flock
        self._ino_last = max(self.inodes)
        self._fd_last = 2

    def put(self, ino: int, inode: Inode) -> None:
        """Replaces an inode."""
        self.inodes[ino] = inode
        self.version += 1

    def add(self, inode: Inode) -> int:
        """Adds an inode without a name; returns its number."""
        self._ino_last += 1
        self.inodes[self._ino_last] = inode
        return self._ino_last

    def open(self, process: int, ino: int) -> int:
        """Opens a descriptor."""
        file = self.inodes[ino]
        assert isinstance(file, File), "the log opens regular files only"
        self._fd_last += 1
        seen = file.errors - file.is_error_unseen
        self.fds[self._fd_last] = _OpenFile(process, ino, seen)
        return self._fd_last

    def open_folder(self, process: int, ino: int) -> int:
        """A new descriptor of a directory, to lock it and to name files in it."""
        self._fd_last += 1
        self.fds[self._fd_last] = _OpenFile(process, ino, 0)
        return self._fd_last

    def close(self, fd: int) -> None:
        """Closes a descriptor, which releases its lock."""
        ino = self.fds.pop(fd).ino
        if self.locks.get(ino) == fd:
            del self.locks[ino]

    def reap(self, process: int) -> None:
        """Ends a process as the kernel does: the cache stays, its locks are released."""
        for fd in [fd for fd, opened in self.fds.items() if opened.process == process]:
            self.close(fd)

    def lose(self, ino: int, survived: bytes, *, is_reported_later: bool) -> None:
        """Fails a background write: the pages are clean, but not on the device."""
        file = self.inodes[ino]
        assert isinstance(file, File)
        after = lost(file, survived)
        if not is_reported_later:  # the kernel forgot the inode, and the error with it
            for opened in self.fds.values():
                if opened.ino == ino:
                    return
            after = after._replace(is_error_unseen=False)
        else:
            after = after._replace(is_error_unseen=True)
        self.put(ino, after)

    def evict(self, ino: int) -> None:
        """Drops the clean pages of a file, as memory pressure does at any time."""
        file = self.inodes[ino]
        if isinstance(file, File):
            self.put(ino, evicted(file))

    def find(self, path: str, dir_fd: int | None = None) -> int | None:
        """The inode at a path, or None."""
        ino: int | None = ROOT if dir_fd is None else self.fds[dir_fd].ino
        for name in path.split("/"):
            if name in ("", "."):
                continue
            folder = self.inodes[ino] if ino is not None else None
            ino = folder.names.get(name) if isinstance(folder, Folder) else None
        return ino


class SimulatedDisk:
    """The disk of one process. `step` is called before each call, and may make it fail."""

    def __init__(self, world: World, process: int = 1, step: Step | None = None) -> None:
        self.world = world
        self.process = process
        self.step = step

    def _enter(self, call: str) -> Fault | None:
        return self.step(call) if self.step is not None else None

    def _enter_or_fail(self, call: str) -> None:
        fault = self._enter(call)
        if fault is not None:
            raise _os_error(fault.errno)

    def names(self, path: str | int) -> list[str]:
        self._enter_or_fail("names")
        return list(self._folder(path)[1].names)

    def is_dir(self, path: str) -> bool:
        self._enter_or_fail("is_dir")
        ino = self.world.find(path)
        return ino is not None and isinstance(self.world.inodes[ino], Folder)

    def make_dir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._enter_or_fail("make_dir")
        self._refuse_existing(path, dir_fd)
        ino = self.world.add(Folder({}, {}))
        self._rename(path, "", os.path.basename(path), ino, dir_fd)

    def create(self, path: str, *, dir_fd: int | None = None) -> int:
        self._enter_or_fail("create")
        self._refuse_existing(path, dir_fd)
        ino = self.world.add(File())
        self._rename(path, "", os.path.basename(path), ino, dir_fd)
        return self.world.open(self.process, ino)

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        self._enter_or_fail("open")
        assert isinstance(writable, bool)  # permissions are not simulated
        ino = self.world.find(path, dir_fd)
        if ino is None:
            raise _os_error(errno.ENOENT)
        return self.world.open(self.process, ino)

    def open_dir(self, path: str, *, dir_fd: int | None = None, follow: bool = True) -> int:
        self._enter_or_fail("open_dir")
        assert isinstance(follow, bool)  # a simulated link leads to no directory
        ino, _ = self._folder(path, dir_fd)
        return self.world.open_folder(self.process, ino)

    def close(self, fd: int) -> None:
        self._enter("close")
        self.world.close(fd)

    def size(self, fd: int) -> int:
        self._enter_or_fail("size")
        return len(self._file(fd).cache)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._enter_or_fail("pread")
        return self._file(fd).cache[offset : offset + length]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        fault = self._enter("pwrite")
        if fault is not None:
            data = data[: int(len(data) * fault.taken)]
            if not data:
                raise _os_error(fault.errno)
        file = self._file(fd)
        self.world.put(self.world.fds[fd].ino, written(file, offset, data, self.world.page_bytes))
        return len(data)

    def truncate(self, fd: int, length: int) -> None:
        self._enter_or_fail("truncate")
        file = self._file(fd)
        change = Resize(length)
        file = file._replace(cache=applied(file.cache, change), pending=(*file.pending, change))
        self.world.put(self.world.fds[fd].ino, file)

    def fdatasync(self, fd: int) -> None:
        fault = self._enter("fdatasync")
        file = self._file(fd)
        opened = self.world.fds[fd]
        if fault is not None:
            survived = fault.survived(file) if fault.survived is not None else file.device
            file = lost(file, survived)
        else:
            file = synced(file)
        if file.errors > opened.errors_seen:
            # Each descriptor that was open when pages were lost gets the error once; no other does.
            opened.errors_seen = file.errors
            self.world.put(opened.ino, file._replace(is_error_unseen=False))
            raise _os_error(errno.EIO)
        self.world.put(opened.ino, file)

    def fdatasync_all(self, fds: Sequence[int]) -> None:
        for fd in fds:
            self.fdatasync(fd)

    def fsync_dir(self, path: str | int) -> None:
        self._enter_or_fail("fsync_dir")
        ino, folder = self._folder(path)
        self.world.put(ino, Folder(folder.names, folder.names))

    def drop_cache(self, fd: int) -> None:
        self._enter("drop_cache")
        self.world.evict(self.world.fds[fd].ino)

    def try_lock(self, fd: int) -> bool:
        self._enter("try_lock")
        return self.world.locks.setdefault(self.world.fds[fd].ino, fd) == fd

    def lock(self, fd: int) -> None:
        free = self.try_lock(fd)
        assert free, "a simulated process cannot wait for another one"

    def is_locked(self, fd: int) -> bool:
        self._enter("is_locked")
        return self.world.locks.get(self.world.fds[fd].ino, fd) != fd

    def unlock(self, fd: int) -> None:
        self._enter("unlock")
        ino = self.world.fds[fd].ino
        if self.world.locks.get(ino) == fd:
            del self.world.locks[ino]

    def size_at(self, fd: int, path: str, *, dir_fd: int | None = None) -> int | None:
        self._enter_or_fail("size_at")
        is_there = self.world.find(path, dir_fd) == self.world.fds[fd].ino
        return len(self._file(fd).cache) if is_there else None

    def identity_of(self, fd: int) -> FileIdentity:
        self._enter_or_fail("identity_of")
        ino = self.world.fds[fd].ino
        file = self.world.inodes[ino]
        return FileIdentity(self.world.device, ino, len(getattr(file, "cache", b"")))

    def link_count(self, fd: int) -> int:
        self._enter_or_fail("link_count")
        ino = self.world.fds[fd].ino
        folders = (inode for inode in self.world.inodes.values() if isinstance(inode, Folder))
        return sum(named == ino for folder in folders for named in folder.names.values())

    def identity_at(self, path: str, *, dir_fd: int | None = None) -> FileIdentity | None:
        self._enter_or_fail("identity_at")
        ino = self.world.find(path, dir_fd)
        file = self.world.inodes[ino] if ino is not None else None
        if ino is None or not isinstance(file, File):
            return None
        return FileIdentity(self.world.device, ino, len(file.cache))

    def exists(self, path: str) -> bool:
        self._enter_or_fail("exists")
        return self.world.find(path) is not None

    def generation_at(self, path: str) -> int:
        return self.world.generation if self.world.find(path) is not None else 0

    def link(self, target: str, path: str) -> None:
        self._enter_or_fail("link")
        ino = self.world.add(Link(target))
        new = f"{os.path.basename(path)}.{self.process}.new"
        self._rename(path, "", new, ino)
        self._rename(path, new, os.path.basename(path), ino)

    def link_target(self, path: str) -> str | None:
        self._enter_or_fail("link_target")
        ino = self.world.find(path)
        link = self.world.inodes[ino] if ino is not None else None
        return link.target if isinstance(link, Link) else None

    def rename(self, old: str, new: str, *, dir_fd: int | None = None) -> None:
        self._enter_or_fail("rename")
        ino = self.world.find(old, dir_fd)
        if ino is None:
            raise _os_error(errno.ENOENT)
        self._rename(new, os.path.basename(old), os.path.basename(new), ino, dir_fd)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._enter_or_fail("unlink")
        ino = self.world.find(path, dir_fd)
        if ino is None:
            raise _os_error(errno.ENOENT)
        self._rename(path, os.path.basename(path), "", ino, dir_fd)

    def boot_id(self) -> str:
        return f"boot-{self.world.boot}" if self.world.boot != NO_BOOT_ID else ""

    def _file(self, fd: int) -> File:
        file = self.world.inodes[self.world.fds[fd].ino]
        assert isinstance(file, File)
        return file

    def _folder(self, path: str | int, dir_fd: int | None = None) -> tuple[int, Folder]:
        ino = self.world.find("", path) if isinstance(path, int) else self.world.find(path, dir_fd)
        folder = self.world.inodes[ino] if ino is not None else None
        if ino is None or not isinstance(folder, Folder):
            raise _os_error(errno.ENOENT)
        return ino, folder

    def _refuse_existing(self, path: str, dir_fd: int | None = None) -> None:
        if self.world.find(path, dir_fd) is not None:
            raise _os_error(errno.EEXIST)

    def _rename(self, path: str, old: str, new: str, ino: int, dir_fd: int | None = None) -> None:
        """Changes the names in the directory of `path`."""
        parent, folder = self._folder(os.path.dirname(path), dir_fd)
        change = Rename(old, new, ino)
        pending = (*folder.pending, change)
        self.world.put(parent, Folder(renamed(folder.names, change), folder.device, pending))


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
