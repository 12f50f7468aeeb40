"""A real disk whose calls fail, hang or write less when a test orders it.

    disk = FaultDisk()
    disk.fail("fdatasync", nth=2)                          the second one, once
    disk.fail("pwrite", error=ENOSPC, onwards=True)        each from now on
    disk.fail(path=".durable")                             the next call, of any kind, on that file
    disk.shorten(nth=1, length=10)                         writes ten bytes, and returns that
    with disk.holding("fdatasync"): ...                    these calls wait until the block ends

Invariant: a call that does not fail does what RealDisk does.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EIO
from typing import NamedTuple, TypeVar

from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.identity import FileIdentity

T = TypeVar("T")
ANY = "any"


class Seen(NamedTuple):
    """A call that was made."""

    kind: str  # name of the method
    path: str


@dataclass(slots=True, kw_only=True)
class Fault:
    """An order to make calls fail."""

    kind: str
    nth: int  # counted from the order on; 1 is the next call
    path: str  # the end of the path
    error: int | BaseException
    onwards: bool  # also each later call
    late: bool  # the call does its work first, a write half of it
    length: int | None = None  # a write stops here, and returns that
    seen: int = 0
    fired: int = 0

    def hits(self, call: Seen) -> bool:
        """Whether this call must fail; counts it."""
        if self.kind not in (ANY, call.kind) or not call.path.endswith(self.path):
            return False
        self.seen += 1
        hit = self.seen >= self.nth if self.onwards else self.seen == self.nth
        self.fired += hit
        return hit

    def raised(self, path: str) -> BaseException:
        """The error to raise."""
        if isinstance(self.error, BaseException):
            return self.error
        return OSError(self.error, os.strerror(self.error), path)


class FaultDisk:
    """Implements Disk.

    With `loses_pages` a failed fdatasync behaves as on Linux: the pages stay in the cache, later
    syncs succeed, and after the cache is dropped, bytes that were not durable are gone.
    """

    def __init__(self, *, loses_pages: bool = False) -> None:
        self.calls: list[Seen] = []
        self._disk: Disk = RealDisk()
        self._paths: dict[int, str] = {}
        self._faults: list[Fault] = []
        self._gates: dict[str, threading.Event] = {}
        self._reached: dict[str, threading.Event] = {}
        self._loses_pages = loses_pages
        self._durable_bytes: dict[str, int] = {}
        self._lost: set[str] = set()

    # -- orders

    def fail(
        self,
        kind: str = ANY,
        *,
        nth: int = 1,
        path: str = "",
        error: int | BaseException = EIO,
        onwards: bool = False,
        late: bool = False,
    ) -> Fault:
        """Makes the nth call of a kind fail."""
        fault = Fault(kind=kind, nth=nth, path=path, error=error, onwards=onwards, late=late)
        self._faults.append(fault)
        return fault

    def shorten(self, *, nth: int = 1, length: int, path: str = "") -> Fault:
        """Makes the nth write a short one."""
        fault = self.fail("pwrite", nth=nth, path=path)
        fault.length = length
        return fault

    def heal(self) -> None:
        """Forgets all orders to fail."""
        self._faults.clear()

    @contextmanager
    def holding(self, kind: str) -> Iterator[threading.Event]:
        """Makes calls of a kind hang until the block ends; yields an event: one of them hangs."""
        gate, reached = threading.Event(), threading.Event()
        self._gates[kind], self._reached[kind] = gate, reached
        try:
            yield reached
        finally:
            del self._gates[kind]
            gate.set()

    def count(self, kind: str, path: str = "") -> int:
        """The number of calls of a kind."""
        return sum(call.kind == kind and call.path.endswith(path) for call in self.calls)

    # -- the protocol

    def names(self, path: str | int) -> list[str]:
        return self._call("names", self._at(path), lambda: self._disk.names(path))

    def is_dir(self, path: str) -> bool:
        return self._call("is_dir", path, lambda: self._disk.is_dir(path))

    def make_dir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._call(
            "make_dir", self._at(path, dir_fd), lambda: self._disk.make_dir(path, dir_fd=dir_fd)
        )

    def create(self, path: str, *, dir_fd: int | None = None) -> int:
        return self._open("create", path, dir_fd, lambda: self._disk.create(path, dir_fd=dir_fd))

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        return self._open(
            "open",
            path,
            dir_fd,
            lambda: self._disk.open(path, writable=writable, dir_fd=dir_fd),
        )

    def open_dir(self, path: str, *, dir_fd: int | None = None, follow: bool = True) -> int:
        return self._open(
            "open_dir",
            path,
            dir_fd,
            lambda: self._disk.open_dir(path, dir_fd=dir_fd, follow=follow),
        )

    def close(self, fd: int) -> None:
        # A close that fails releases the descriptor too, as on Linux.
        path = self._paths.pop(fd, "")
        try:
            self._call("close", path, lambda: None)
        finally:
            self._disk.close(fd)

    def size(self, fd: int) -> int:
        return self._call("size", self._paths[fd], lambda: self._disk.size(fd))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        path = self._paths[fd]
        return self._call("pread", path, lambda: self._disk.pread(fd, length, offset))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        path = self._paths[fd]
        fault = self._begin("pwrite", path)
        if fault is None:
            return self._disk.pwrite(fd, data, offset)
        if fault.length is not None:
            return self._disk.pwrite(fd, data[: fault.length], offset)
        if fault.late:
            self._disk.pwrite(fd, data[: len(data) // 2], offset)
        raise fault.raised(path)

    def truncate(self, fd: int, length: int) -> None:
        self._call("truncate", self._paths[fd], lambda: self._disk.truncate(fd, length))

    def fdatasync(self, fd: int) -> None:
        path = self._paths[fd]
        try:
            self._call("fdatasync", path, lambda: self._disk.fdatasync(fd))
        except OSError:
            self._lost.add(path)
            raise
        if path not in self._lost:
            self._durable_bytes[path] = self._disk.size(fd)

    def fdatasync_all(self, fds: Sequence[int]) -> None:
        for fd in fds:
            self.fdatasync(fd)

    def fsync_dir(self, path: str | int) -> None:
        self._call("fsync_dir", self._at(path), lambda: self._disk.fsync_dir(path))

    def drop_cache(self, fd: int) -> None:
        path = self._paths[fd]
        self._call("drop_cache", path, lambda: self._disk.drop_cache(fd))
        if self._loses_pages and path in self._lost:
            self._lost.discard(path)
            os.truncate(path, min(self._durable_bytes.get(path, 0), self._disk.size(fd)))

    def try_lock(self, fd: int) -> bool:
        return self._call("try_lock", self._paths[fd], lambda: self._disk.try_lock(fd))

    def lock(self, fd: int) -> None:
        self._call("lock", self._paths[fd], lambda: self._disk.lock(fd))

    def is_locked(self, fd: int) -> bool:
        return self._call("is_locked", self._paths[fd], lambda: self._disk.is_locked(fd))

    def unlock(self, fd: int) -> None:
        self._call("unlock", self._paths[fd], lambda: self._disk.unlock(fd))

    def size_at(self, fd: int, path: str, *, dir_fd: int | None = None) -> int | None:
        return self._call(
            "size_at", self._at(path, dir_fd), lambda: self._disk.size_at(fd, path, dir_fd=dir_fd)
        )

    def identity_at(self, path: str, *, dir_fd: int | None = None) -> FileIdentity | None:
        return self._call(
            "identity_at",
            self._at(path, dir_fd),
            lambda: self._disk.identity_at(path, dir_fd=dir_fd),
        )

    def exists(self, path: str) -> bool:
        return self._call("exists", path, lambda: self._disk.exists(path))

    def generation_at(self, path: str) -> int:
        return self._call("generation_at", path, lambda: self._disk.generation_at(path))

    def identity_of(self, fd: int) -> FileIdentity:
        return self._call("identity_of", self._paths[fd], lambda: self._disk.identity_of(fd))

    def link_count(self, fd: int) -> int:
        return self._call("link_count", self._paths[fd], lambda: self._disk.link_count(fd))

    def link(self, target: str, path: str) -> None:
        self._call("link", path, lambda: self._disk.link(target, path))

    def link_target(self, path: str) -> str | None:
        return self._call("link_target", path, lambda: self._disk.link_target(path))

    def rename(self, old: str, new: str, *, dir_fd: int | None = None) -> None:
        self._call(
            "rename", self._at(new, dir_fd), lambda: self._disk.rename(old, new, dir_fd=dir_fd)
        )

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._call("unlink", self._at(path, dir_fd), lambda: self._disk.unlink(path, dir_fd=dir_fd))

    def boot_id(self) -> str:
        return self._disk.boot_id()  # read once at the start, and not counted

    # -- faults

    def _at(self, path: str | int, dir_fd: int | None = None) -> str:
        """The whole path of a call that names a file by a descriptor."""
        if isinstance(path, int):
            return self._paths[path]
        return path if dir_fd is None else f"{self._paths[dir_fd]}/{path}"

    def _open(self, kind: str, path: str, dir_fd: int | None, work: Callable[[], int]) -> int:
        whole = self._at(path, dir_fd)
        fd = self._call(kind, whole, work, undo=os.close)
        self._paths[fd] = whole
        return fd

    def _begin(self, kind: str, path: str) -> Fault | None:
        call = Seen(kind, path)
        self.calls.append(call)
        gate = self._gates.get(kind)
        if gate is not None:
            self._reached[kind].set()
            assert gate.wait(timeout=60), "a test must leave its block `holding`"
        hits = [fault for fault in self._faults if fault.hits(call)]
        return hits[0] if hits else None

    def _call(
        self,
        kind: str,
        path: str,
        work: Callable[[], T],
        *,
        undo: Callable[[T], None] | None = None,
    ) -> T:
        fault = self._begin(kind, path)
        if fault is None:
            return work()
        if fault.late:
            result = work()
            if undo is not None:
                undo(result)
        raise fault.raised(path)
