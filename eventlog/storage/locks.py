"""The writer's lock, `.lock`, and the word that stands in it.

The file is never renamed or removed by us, for a lock on a file without a name excludes nobody.

Invariant: the word is written only while the lock is held.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from eventlog.errors import LogLocked, UnsafePath
from eventlog.format.durability import (
    LOCK_RECORD_BYTES,
    WRITING,
    LockRecord,
    LogEnd,
    decode_lock_record,
    encode_lock_record,
)
from eventlog.format.segment import CLOSED_NAME
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.home import Home, make_home, refuse_foreign

# flock wakes nobody in order, and cannot be given a time limit: so it is asked for again and again,
# after an eighth of the time waited so far. A lock that is held for one sync is so found freed at
# once, and one that is held for long costs little.
POLL_S_MIN, POLL_S_MAX = 0.00005, 0.002
POLL_WAITED_FRACTION = 8
CLOSED_LOCK_NAME = ".closed.lock"
_LOG_FILE_NAMES = frozenset({".lock", CLOSED_LOCK_NAME})  # names that stand where a log is, only
CLOSED_LOCK_POLL_S = 0.05  # whoever holds closed segments does so for a second or so


class WriterLock:
    """The lock of one log, for one writer. Not thread-safe."""

    def __init__(self, disk: Disk, home: Home, *, pid: int, timeout_s: float) -> None:
        self._disk = disk
        self._home = home
        self._path = home.lock_path
        self._pid = pid
        self._timeout_s = timeout_s
        self._fd = -1
        self.known_record = (
            b""  # the word as we last wrote or accepted it; anything else means news
        )

    def take(self) -> None:
        """Takes the lock, making the home where there is none. Raises LogLocked, OSError."""
        started_s = None
        while True:
            if self._fd < 0:
                self._fd = self._open()
            if self._disk.try_lock(self._fd):
                if self._disk.size_at(self._fd, self._path) is not None:
                    return
                self.drop()  # somebody replaced the file
                continue
            now_s = time.monotonic()
            started_s = started_s or now_s
            waited_s = now_s - started_s
            if waited_s >= self._timeout_s:
                raise self._timeout_error()
            time.sleep(min(max(POLL_S_MIN, waited_s / POLL_WAITED_FRACTION), POLL_S_MAX))

    def release(self) -> None:
        """Gives the lock back; with the descriptor, where it goes no other way."""
        try:
            self._disk.unlock(self._fd)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Closes the descriptor, which gives the lock back too."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    def read(self) -> bytes:
        """The bytes of the word, as they stand in the file."""
        return self._disk.pread(self._fd, LOCK_RECORD_BYTES, 0)

    def lock_record(self, state: str, end: LogEnd) -> bytes:
        """What this writer says when it says so, ready to be put."""
        return encode_lock_record(LockRecord(self._disk.boot_id(), self._pid, state, end))

    def write_state(self, state: str, end: LogEnd) -> None:
        """Overwrites the word in place."""
        self.write_record(self.lock_record(state, end))

    def write_record(self, lock_record: bytes) -> None:
        """The same, with a word that was made before."""
        self.known_record = b""
        write_all(self._disk, self._fd, lock_record, 0)
        self.known_record = lock_record

    def _open(self) -> int:
        refuse_foreign(self._home)
        make_home(self._disk, self._home)
        try:
            return self._disk.create(self._home.lock_path)
        except FileExistsError:
            return self._disk.open(self._home.lock_path, writable=True)

    def _timeout_error(self) -> LogLocked:
        lock_record = decode_lock_record(self.read())
        holder = "another process"
        if (
            lock_record is not None and lock_record.state == WRITING
        ):  # a clean one is of who held it before
            holder = f"process {lock_record.pid}"
        return LogLocked(
            f"{holder} has held the log's lock for {self._timeout_s:g} s",
            where=self._home.lock_path,
            do="nothing was written: see what that process waits for (a hanging disk?), then retry",
        )


@contextmanager
def closed_segments_lock(disk: Disk, home: Home, timeout_s: float) -> Iterator[None]:
    """Keeps out others who compress, move or repair closed segments.

    Raises LogLocked, UnsafePath where `closed` leads to the directory of a log, and OSError.
    """
    path = f"{home.log_dir}/{CLOSED_LOCK_NAME}"
    deadline_s = time.monotonic() + timeout_s
    while (fd := _open_locked(disk, path)) is None:
        if time.monotonic() >= deadline_s:
            raise LogLocked(
                f"a compress or a repair has been at work for {timeout_s:g} s",
                where=path,
                do="nothing was changed: retry when it has ended",
            )
        time.sleep(CLOSED_LOCK_POLL_S)
    try:
        _refuse_log_dir(disk, f"{home.log_dir}/{CLOSED_NAME}")
        yield
    finally:
        disk.close(fd)  # which gives the lock back too


def _open_locked(disk: Disk, path: str) -> int | None:
    """The descriptor of a lock file that we hold. None while somebody else does, or replaces it."""
    try:
        fd = disk.create(path)
    except FileExistsError:
        fd = disk.open(path, writable=True)
    try:
        if disk.try_lock(fd) and disk.size_at(fd, path) is not None:
            return fd
    except BaseException:
        disk.close(fd)
        raise
    disk.close(fd)
    return None


def _refuse_log_dir(disk: Disk, closed: str) -> None:
    """A file would stand at two places there, and be taken away as what is there twice."""
    if disk.is_dir(closed) and _LOG_FILE_NAMES & set(disk.names(closed)):
        raise UnsafePath(
            "the directory of closed segments is that of a log, this one or another",
            where=closed,
            do="nothing was changed: let the link lead to a directory that is for them alone",
        )
