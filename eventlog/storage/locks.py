"""File locks: one class for every lock of a log, a backup and a projection; the writer's lock.

A lock file is never renamed or removed here, because a lock on a file without a name excludes no
other process. Where an operator removes one, `FileLock` notices it at the next attempt; a lock
that `covers_directory` also excludes others while it is held.

Invariant: the lock record is written only while the writer's lock is held.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from eventlog.errors import LogLocked, LogNotFound, UnsafePath
from eventlog.format.durability import (
    LOCK_RECORD_BYTES,
    WRITING,
    LockRecord,
    LogEnd,
    decode_lock_record,
    encode_lock_record,
)
from eventlog.format.segment import CLOSED_NAME
from eventlog.storage.disk import Disk, closing_fd, opened, real_disk, write_all
from eventlog.storage.home import Home, make_home, refuse_foreign

ATTEMPTS_MAX = 10  # at a lock file that is replaced each time between opening and locking it
POLL_WAITED_FRACTION = 8
PID_LINE_BYTES = 11  # ten digits and a newline
CLOSED_LOCK_NAME = ".closed.lock"
_LOG_FILE_NAMES = frozenset({".lock", CLOSED_LOCK_NAME})  # they exist in a log directory only


class PollInterval(NamedTuple):
    """The interval of a waiting process: an eighth of the time waited so far.

    flock takes no time limit and wakes waiters in no order, so a waiter polls. A lock that is held
    for one sync is noticed at once when it is free, and a long wait costs little.
    """

    min_s: float
    max_s: float

    def delay_s(self, waited_s: float) -> float:
        """The time to sleep before the next attempt."""
        return min(max(self.min_s, waited_s / POLL_WAITED_FRACTION), self.max_s)


WRITER_POLL = PollInterval(0.00005, 0.002)
CLOSED_POLL = PollInterval(0.05, 0.05)  # closed segments are locked for a second or so


class FileLock:
    """An exclusive flock on the file at `path`, which is created where it is missing.

    It excludes other processes, and other FileLocks of this one. `prepare` is called before the
    file is opened, to make its directory. With `covers_directory` the directory is locked too: it
    cannot be removed while it holds files, so deleting the lock file does not let another process
    in. With `writes_pid` the first line of the file is the pid of its holder. With `dir_fd` the
    path is relative to that open directory. Not thread-safe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        disk: Disk | None = None,
        prepare: Callable[[], object] | None = None,
        covers_directory: bool = False,
        dir_fd: int | None = None,
        writes_pid: bool = False,
    ) -> None:
        self._disk = disk or real_disk()
        self._dir_fd = dir_fd
        self._path = os.fspath(path)
        self._prepare = prepare
        self._covers_directory = covers_directory
        self._writes_pid = writes_pid
        self._fd = self._directory_fd = -1

    def try_take(self, *, wait: bool = False) -> bool:
        """Takes the lock if it is free. Raises OSError, UnsafePath.

        With `wait` the kernel queues this process for a file that is locked, without a limit of
        time. Afterwards the file is open, whether it was locked or not, until `drop`.
        """
        for _ in range(ATTEMPTS_MAX):
            if self._fd < 0 and not self._open():
                continue
            if wait:
                self._disk.lock(self._fd)
            elif not self._disk.try_lock(self._fd):
                return False
            if self._disk.size_at(self._fd, self._path, dir_fd=self._dir_fd) is not None:
                if self._covers_directory and not self._try_take_directory():
                    return False
                if self._writes_pid:
                    self._write_pid()
                return True
            self.drop()  # another file, or none, is at the path by now
        return False

    def wait_for(self, timeout_s: float, poll: PollInterval) -> bool:
        """Takes the lock, waiting up to `timeout_s` for it; whether it was taken."""
        started_s = None
        while not self.try_take():
            now_s = time.monotonic()
            started_s = started_s or now_s
            waited_s = now_s - started_s
            if waited_s >= timeout_s:
                return False
            time.sleep(poll.delay_s(waited_s))
        return True

    def release(self) -> None:
        """Unlocks the file, and keeps it open for the next time; `drop` unlocks a directory."""
        assert not self._covers_directory, "its directory would stay locked"
        try:
            self._disk.unlock(self._fd)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Closes the descriptors, which unlocks too. Does nothing where none is open."""
        directory_fd, fd = self._directory_fd, self._fd
        self._directory_fd = self._fd = -1
        try:
            if directory_fd >= 0:
                self._disk.close(directory_fd)
        finally:
            if fd >= 0:
                self._disk.close(fd)

    def write(self, data: bytes) -> None:
        """Replaces the content of the file, in place. The lock must be held. Raises OSError."""
        self._disk.truncate(self._fd, 0)
        write_all(self._disk, self._fd, data, 0)

    def holder(self) -> str:
        """The process that the file names as its holder, for a message."""
        with suppress(OSError, UnsafePath, ValueError):
            with opened(self._disk, self._path, dir_fd=self._dir_fd) as fd:
                line, _, _ = self._disk.pread(fd, PID_LINE_BYTES, 0).partition(b"\n")
            return f"process {int(line)}"
        return "another process"

    def is_held(self) -> bool:
        """Whether another holder has the lock; True also where this account may not look."""
        return self._is_locked(
            lambda: self._disk.open(self._path, writable=False, dir_fd=self._dir_fd)
        ) or (self._covers_directory and self._is_locked(self._open_dir))

    def _write_pid(self) -> None:
        # Padded, so that it replaces a longer one without a truncation. The pid is for messages
        # only: a full disk must not keep the lock from being taken.
        with suppress(OSError):
            line = str(os.getpid()).encode().ljust(PID_LINE_BYTES - 1) + b"\n"
            write_all(self._disk, self._fd, line, 0)

    def _open(self) -> bool:
        """Opens or creates the file; False where it was removed in between."""
        if self._prepare is not None:
            self._prepare()
        try:
            self._fd = self._disk.create(self._path, dir_fd=self._dir_fd)
        except FileExistsError:
            with suppress(FileNotFoundError):
                self._fd = self._disk.open(self._path, writable=True, dir_fd=self._dir_fd)
        return self._fd >= 0

    def _open_dir(self) -> int:
        directory = os.path.dirname(self._path)
        if self._dir_fd is None:
            return self._disk.open_dir(directory)
        return self._disk.open_dir(directory or ".", dir_fd=self._dir_fd)

    def _try_take_directory(self) -> bool:
        try:
            self._directory_fd = self._open_dir()
            if self._disk.try_lock(self._directory_fd):
                return True
        except OSError as error:
            if error.errno == errno.EBADF:
                return True  # NFS locks only what is open for writing: the file must do
            self.drop()
            raise
        self.drop()
        return False

    def _is_locked(self, open_: Callable[[], int]) -> bool:
        try:
            fd = open_()
        except FileNotFoundError:
            return False
        except PermissionError:
            return True
        with closing_fd(self._disk, fd):
            return self._disk.is_locked(fd)


class WriterLock(FileLock):
    """The lock of one log, for one writer, and the lock record. Not thread-safe.

    With `creates_home` the home is created where it is missing, until the lock was taken once.
    """

    def __init__(
        self, disk: Disk, home: Home, *, pid: int, timeout_s: float, creates_home: bool = True
    ) -> None:
        super().__init__(home.lock_path, disk=disk, prepare=self._make_home)
        self._home = home
        self._pid = pid
        self._timeout_s = timeout_s
        self._creates_home = creates_home
        self.created_log = False  # whether logs/ was missing, and this lock created it
        # As this writer last wrote or accepted it; another record is from another writer.
        self.known_record = b""
        self._segment = 0  # of the last record
        self._segment_file = (0, 0, 0)  # its device, inode and generation

    def take(self) -> None:
        """Takes the lock. Raises LogLocked, OSError, LogNotFound where the log was moved away."""
        if not self.wait_for(self._timeout_s, WRITER_POLL):
            raise self._timeout_error()
        self._creates_home = False

    def read(self) -> bytes:
        """The bytes of the lock record, as they are in the file."""
        return self._disk.pread(self._fd, LOCK_RECORD_BYTES, 0)

    def lock_record(self, state: str, end: LogEnd) -> bytes:
        """The encoded lock record of this writer, for `write_record`. Raises OSError."""
        if end.segment != self._segment:
            path = self._home.segment_path(end.segment)
            found = self._disk.identity_at(path) if end.segment else None
            self._segment_file = (
                (found.device, found.inode, self._disk.generation_at(path)) if found else (0, 0, 0)
            )
            self._segment = end.segment
        return encode_lock_record(
            LockRecord(self._disk.boot_id(), self._pid, state, end, *self._segment_file)
        )

    def forget_segment(self) -> None:
        """Makes the next record look at the segment's file again, which may be another one."""
        self._segment = 0

    def write_state(self, state: str, end: LogEnd) -> None:
        """Overwrites the lock record in place."""
        self.write_record(self.lock_record(state, end))

    def write_record(self, lock_record: bytes) -> None:
        """Overwrites the lock record with one that was encoded before."""
        self.known_record = b""
        write_all(self._disk, self._fd, lock_record, 0)
        self.known_record = lock_record

    def _make_home(self) -> None:
        refuse_foreign(self._home)
        if self._creates_home:
            self.created_log = make_home(self._disk, self._home) or self.created_log
        elif not self._disk.is_dir(self._home.log_dir):
            raise LogNotFound(
                "the log that this handle had opened is not there; it was moved or removed",
                where=self._home.log_dir,
                do="nothing was created: open the log at its new path, and retry with the same"
                " signal_id what was not acknowledged",
            )

    def _timeout_error(self) -> LogLocked:
        # While the file is being replaced there may be none open, and so no record.
        lock_record = decode_lock_record(self.read() if self._fd >= 0 else b"")
        holder = "another process"
        # A clean record names the previous holder.
        if lock_record is not None and lock_record.state == WRITING:
            holder = f"process {lock_record.pid}"
        return LogLocked(
            f"{holder} has held the log's lock for {self._timeout_s:g} s",
            where=self._home.lock_path,
            do="nothing was written: see what that process waits for (a hanging disk?), then retry",
        )


@contextmanager
def closed_segments_lock(disk: Disk, home: Home, timeout_s: float) -> Iterator[None]:
    """Excludes other runs that compress, move or repair closed segments.

    Raises LogLocked, UnsafePath where `closed` leads to the directory of a log, and OSError.
    """
    lock = FileLock(f"{home.log_dir}/{CLOSED_LOCK_NAME}", disk=disk)
    try:
        if not lock.wait_for(timeout_s, CLOSED_POLL):
            raise LogLocked(
                f"another compress or repair has been running for {timeout_s:g} s",
                where=f"{home.log_dir}/{CLOSED_LOCK_NAME}",
                do="nothing was changed: retry when it has ended",
            )
        _refuse_log_dir(disk, f"{home.log_dir}/{CLOSED_NAME}")
        yield
    finally:
        lock.drop()


def _refuse_log_dir(disk: Disk, closed: str) -> None:
    """Raises UnsafePath: a segment would be there twice, and one of the two be removed."""
    if disk.is_dir(closed) and _LOG_FILE_NAMES & set(disk.names(closed)):
        raise UnsafePath(
            "the directory of closed segments is that of a log, this one or another",
            where=closed,
            do="nothing was changed: let the link lead to a directory that is for them alone",
        )
