"""Mutants: writers, readers and disks with one mistake each, which the explorer must detect.

Invariant: a mutant differs from the real code in the one rule that its name states.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

from eventlog.append import recovery, segment_writer
from eventlog.append.segment_writer import LineBatch
from eventlog.append.writer import Writer
from eventlog.format import scan
from eventlog.format.durability import CLEAN, WRITING, LockRecord, LogEnd
from eventlog.format.line import BadLine, next_chain, parse_header, stored_chain
from eventlog.format.segment import segment_name
from eventlog.read import lines, reader
from eventlog.read.reader import LogReader
from eventlog.replica import rejoin
from eventlog.replica.replica_log import ReplicaLog
from eventlog.storage import device_sync, durable_state, replica_file
from eventlog.storage.device_sync import sync_segments
from eventlog.storage.disk import Disk
from eventlog.storage.durable_state import DurableState
from eventlog.storage.home import Home, list_segments
from eventlog.storage.identity import FileIdentity
from eventlog.storage.locks import FileLock
from eventlog.storage.segment_disk import stored_segments
from tools.crash.check import HOME, Subject
from tools.crash.simulated_disk import SimulatedDisk


class _AckBeforeSync(Writer):
    """Returns receipts when the bytes are in the page cache."""

    def _write(self, write_batch: LineBatch) -> None:
        self._write_batch = write_batch
        super()._write(write_batch)

    def _sync(self, fd: int) -> None:
        if fd == self._fd:
            self._write_batch.settle(self._state.dedupe_window, *self._state.position)
        super()._sync(fd)


class _CleanBeforeSync(Writer):
    """Writes the lock record `clean` with the new end, and syncs after that."""

    def _write(self, write_batch: LineBatch) -> None:
        self._write_batch = write_batch
        super()._write(write_batch)

    def _sync(self, fd: int) -> None:
        if fd == self._fd:
            segment, start = self._state.position
            end = start + sum(map(len, self._write_batch.lines))
            tip = self._write_batch.tip
            self._lock.write_state(CLEAN, LogEnd(segment, end, tip.seq, tip.chain))
        super()._sync(fd)


class _RetrySync(Writer):
    """Trusts a second sync after the first one failed."""

    def _sync(self, fd: int) -> None:
        try:
            self._disk.fdatasync(fd)
        except OSError:
            super()._sync(fd)


class _NoDirectorySync(SimulatedDisk):
    """Never syncs a directory."""

    def fsync_dir(self, _path: str | int) -> None:
        self._enter_or_fail("fsync_dir")


class _NoParentSync(SimulatedDisk):
    """Syncs the log directory, but no directory above it."""

    def fsync_dir(self, path: str | int) -> None:
        if path == HOME.log_dir:
            super().fsync_dir(path)


class _NoLock(SimulatedDisk):
    """Grants the lock to every process."""

    def try_lock(self, fd: int) -> bool:
        super().try_lock(fd)
        return True


class _NoDontNeed(SimulatedDisk):
    """Does not drop the cache, and reads it again."""

    def drop_cache(self, _fd: int) -> None:
        self._enter("drop_cache")


def _keep_torn_tail(disk: Disk, home: Home, end: LogEnd, torn_bytes: int) -> None:
    """Leaves the torn tail where it is."""


def _keep_nothing(_disk: Disk, _home: Home, name: str, _data: bytes) -> str:
    """Does not save the torn bytes."""
    return name


def _first_slot(_generation: int) -> int:
    """Always writes the first slot, so that the only watermark is overwritten."""
    return 0


def _any_valid_line(data: bytes, _missing_seq: int, start: int = 1) -> bool:
    """Takes any valid line after a bad one as evidence of damage."""
    return scan.has_evidence(data, 0, start)


def _verified_line(data: bytes, missing_seq: int, _start: int = 1) -> bool:
    """Accepts a later line as evidence only if the line before it verifies its chain."""
    lines = data.split(b"\n")
    for before, line in pairwise(line + b"\n" for line in lines):
        try:
            head = parse_header(line)
            if head.batch > missing_seq and next_chain(stored_chain(before), line) == stored_chain(
                line
            ):
                return True
        except BadLine:
            continue
    return False


def _no_line(_data: bytes, _missing_seq: int, _start: int = 1) -> bool:
    """Takes every bad line as torn."""
    return False


_limit = LogReader._limit


def _no_state(_: LogReader) -> DurableState:
    """Ignores the lock record."""
    return DurableState(None, None)


def _limit_by_size(self: LogReader) -> reader._ReadLimit:
    """Reads to the end of the file, unless it reads for a writer."""
    if self._until is not None or self._holds_lock:
        return _limit(self)
    later = any(s > self._segment for s in list_segments(self._disk, self._home))
    size = self._disk.size(self._fd)
    return reader._ReadLimit(size, False, later, DurableState(None, None))


def _always(*_: object) -> bool:
    """Accepts any lock record in this respect."""
    return True


def _never(*_: object) -> bool:
    return False


class _AnyDevice(SimulatedDisk):
    """Gives all file systems the same number, so that only the inode distinguishes files."""

    def identity_at(self, path: str, *, dir_fd: int | None = None) -> FileIdentity | None:
        found = super().identity_at(path, dir_fd=dir_fd)
        return found._replace(device=0) if found is not None else None


class _AsideUnsynced(SimulatedDisk):
    """Does not sync the file with the lines that a rejoin cuts."""

    def create(self, path: str, *, dir_fd: int | None = None) -> int:
        fd = super().create(path, dir_fd=dir_fd)
        self._unsynced = fd if ".aside" in path else -1
        return fd

    def fdatasync(self, fd: int) -> None:
        if fd != getattr(self, "_unsynced", -1):
            super().fdatasync(fd)


class _NoGeneration(SimulatedDisk):
    """Takes a file that has the inode number of a removed one for that one."""

    def generation_at(self, _path: str) -> int:
        return 0


def _sync_last_segment(
    disk: Disk, home: Home, *, first_segment: int = 0, synced: Collection[str] = ()
) -> set[str]:
    """Syncs the last segment alone."""
    segments = list_segments(disk, home)
    last = max([first_segment, *segments[-1:]])
    return sync_segments(disk, home, first_segment=last, synced=synced)


def _raw_segments(disk: Disk, log_dir: str) -> list[tuple[int, str]]:
    """Leaves out compressed segments, and those in `closed`."""
    stored = stored_segments(disk, log_dir)
    return [(seq, path) for seq, path in stored if path == f"{log_dir}/{segment_name(seq)}"]


def _sync_no_names(_disk: Disk, _home: Home) -> None:
    """Syncs no directory."""


_sync = LogReader._sync


def _sync_when_active(self: LogReader, size: int, is_closed: bool, state: DurableState) -> None:
    """Syncs the last segment alone."""
    if not is_closed:
        _sync(self, size, is_closed, state)


def _sync_after_lines(self: LogReader, size: int, is_closed: bool, state: DurableState) -> None:
    """Returns the first lines of each segment before it syncs them."""
    if self.position.byte_offset:
        _sync(self, size, is_closed, state)


def _backward(disk: Disk, home: Home) -> list[int]:
    """The segments, the last one first."""
    return list_segments(disk, home)[::-1]


def _nothing(*_: object) -> None:
    """Syncs nothing."""


class _WritingBeforeSync(Writer):
    """Writes a lock record of its own before it has synced the segments before its end."""

    def _sync_before_locking(self) -> set[str]:
        return set()

    def _start_from_device(self, lock_record: LockRecord | None, synced: set[str]) -> None:
        if lock_record is None:
            found = recovery.find_end(self._disk, self._home, self._state.start)
            self._lock.write_state(WRITING, LogEnd(*found.position, found.tip.seq, found.tip.chain))
        super()._start_from_device(lock_record, synced)


_segment_sync = ReplicaLog._sync


def _watermark_before_sync(self: ReplicaLog, fd: int) -> None:
    """Writes the watermark of lines that are not durable yet."""
    if fd == self._fd:
        data = self._disk.pread(fd, self._disk.size(fd), 0)
        tip = scan.tip_of(data.splitlines(keepends=True)[-1])
        durable_state.write_watermark(
            self._disk,
            self._home,
            LogEnd(self._state.end.segment, len(data), tip.seq, tip.chain),
            sync=self._disk.fdatasync,
            sync_dir=self._sync_log_dir,
        )
    _segment_sync(self, fd)


def _zero(_: LogReader) -> int:
    """Knows of no line that was durable."""
    return 0


def _replace_unsynced(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Replaces a file, and syncs nothing."""
    fd = disk.create(f"{directory}/{name}.new")
    disk.pwrite(fd, data, 0)
    disk.close(fd)
    disk.rename(f"{directory}/{name}.new", f"{directory}/{name}")


class Mutant(NamedTuple):
    """One mistake: the parts of the subject that differ, and the functions that are replaced."""

    writer: type[Writer] = Writer
    disk: type[SimulatedDisk] = SimulatedDisk
    patches: tuple[tuple[object, str, object], ...] = ()

    @contextmanager
    def applied(self, subject: Subject) -> Iterator[Subject]:
        """Yields the subject with this mistake for as long as the block lasts."""
        with ExitStack() as stack:
            for owner, name, replacement in self.patches:
                stack.enter_context(mock.patch.object(owner, name, replacement))
            yield subject._replace(writer=self.writer, disk=self.disk)


MUTANTS = {
    "ack-before-sync": Mutant(writer=_AckBeforeSync),
    "no-directory-sync": Mutant(disk=_NoDirectorySync),
    "torn-tail-not-cut": Mutant(patches=((segment_writer, "cut_torn_tail", _keep_torn_tail),)),
    "refuse-valid-after-bad": Mutant(patches=((lines, "has_evidence", _any_valid_line),)),
    "cut-any-bad-line": Mutant(patches=((lines, "has_evidence", _no_line),)),
    "readers-unbounded": Mutant(
        patches=(
            (LogReader, "_durable_state", _no_state),
            (LogReader, "_has_writer_passed", _never),
            (LogReader, "_limit", _limit_by_size),
        )
    ),
    "no-dontneed": Mutant(disk=_NoDontNeed),
    "clean-before-sync": Mutant(writer=_CleanBeforeSync),
    "retry-sync": Mutant(writer=_RetrySync),
    "no-parent-sync": Mutant(disk=_NoParentSync),
    "no-lock": Mutant(disk=_NoLock),
    "torn-tail-not-kept": Mutant(patches=((recovery, "_save_torn_bytes", _keep_nothing),)),
    "one-watermark-slot": Mutant(patches=((durable_state, "slot_offset", _first_slot),)),
    "record-any-file": Mutant(patches=((durable_state, "_is_same_file", _always),)),
    "record-any-device": Mutant(disk=_AnyDevice),
    "record-any-generation": Mutant(disk=_NoGeneration),
    "record-writing-of-nobody": Mutant(patches=((FileLock, "is_held", _always),)),
    "record-any-size": Mutant(patches=((durable_state, "_fits_size", _always),)),
    "record-ignores-watermark": Mutant(patches=((durable_state, "_is_behind", _never),)),
    "record-ignores-next-segment": Mutant(patches=((durable_state, "_is_next_legal", _always),)),
    "sync-last-only": Mutant(
        patches=(
            (segment_writer, "sync_segments", _sync_last_segment),
            (recovery, "sync_segments", _sync_last_segment),
        )
    ),
    "sync-no-closed": Mutant(patches=((device_sync, "stored_segments", _raw_segments),)),
    "sync-no-names": Mutant(
        patches=((recovery, "sync_names", _sync_no_names), (reader, "sync_names", _sync_no_names))
    ),
    "reader-syncs-nothing-before": Mutant(patches=((reader, "sync_earlier_segments", _nothing),)),
    "reader-syncs-last-only": Mutant(patches=((LogReader, "_sync", _sync_when_active),)),
    "reader-syncs-late": Mutant(patches=((LogReader, "_sync", _sync_after_lines),)),
    "writing-before-all-synced": Mutant(writer=_WritingBeforeSync),
    "evidence-must-verify": Mutant(patches=((lines, "has_evidence", _verified_line),)),
    "replica-lines-are-evidence": Mutant(patches=((lines, "is_replica", _never),)),
    "replica-watermark-before-sync": Mutant(
        patches=((ReplicaLog, "_sync", _watermark_before_sync),)
    ),
    "replica-cuts-below-watermark": Mutant(patches=((LogReader, "_durable_seq", _zero),)),
    "replica-mark-unsynced": Mutant(patches=((replica_file, "replace_file", _replace_unsynced),)),
    "rejoin-aside-unsynced": Mutant(disk=_AsideUnsynced),
    "rejoin-first-segment-first": Mutant(patches=((rejoin, "list_segments", _backward),)),
    "rejoin-keeps-watermark": Mutant(patches=((rejoin, "rewrite_watermarks", _nothing),)),
}
