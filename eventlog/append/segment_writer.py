"""Durable writes to the segments of a log: lock, catch up or recover, write, sync.

It writes batches of lines that are complete; `writer` makes them of appends, and the writer of a
replica takes them from a stream. Steps, in an order in which a crash after each is safe:

    flock; read lock record      did another process append, fail or die since our last write?
    lock record := writing       before the first change
    rotate: create, fsync dir    a segment's name is durable before its first line
    write, fdatasync             one durable write: of one batch, but on a replica
    lock record := clean         with the new durable end
    unlock

Invariant: the lock record says `clean` with an end only after fdatasync has returned 0 for every
line before it, in files whose names are durable.
"""

import errno
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from eventlog.append.dedupe import DedupeWindow
from eventlog.append.recovery import cut_torn_tail, find_end, sync_to_device
from eventlog.append.writer_state import WriterState
from eventlog.errors import AppendFailed, DiskFull, LogPoisoned
from eventlog.format.durability import CLEAN, WRITING, LockRecord, LogEnd
from eventlog.format.scan import Tip
from eventlog.format.segment import segment_name
from eventlog.storage.device_sync import sync_segments
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.durable_state import (
    is_last_segment,
    read_durable_state,
    read_watermark,
    valid_lock_record,
    write_watermark,
)
from eventlog.storage.home import Home, list_segments
from eventlog.storage.locks import WriterLock
from eventlog.storage.segment_disk import candidate_paths

logger = logging.getLogger(__name__)

_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class WriterSettings(NamedTuple):
    """The settings of a log that its writer needs; see EventLog."""

    segment_bytes: int
    dedupe_entries: int
    lock_timeout_s: float
    creates_home: bool = True  # the first commit may create it; False for a log that was there


class LineBatch(Protocol):
    """The lines of one durable write, which continue the log."""

    @property
    def lines(self) -> Sequence[bytes]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def tip(self) -> Tip: ...
    def settle(self, dedupe_window: DedupeWindow, segment: int, byte_offset: int) -> None:
        """Called once the lines are durable, at that position."""


class SegmentWriter:
    """Writes to one log for one process. Not thread-safe."""

    def __init__(self, disk: Disk, home: Home, settings: WriterSettings, pid: int) -> None:
        self._disk = disk
        self._home = home
        self._settings = settings
        self._lock = WriterLock(
            disk,
            home,
            pid=pid,
            timeout_s=settings.lock_timeout_s,
            creates_home=settings.creates_home,
        )
        self._fd, self._path = -1, ""  # the active segment
        self._state = WriterState(disk, home, settings.dedupe_entries)
        self._watermark_seq = 0
        self._poison: str | None = None

    @property
    def created_log(self) -> bool:
        """Whether there was no log, and this writer created it."""
        return self._lock.created_log

    @property
    def needs_watermark(self) -> bool:
        """Whether the watermark does not cover all durable entries."""
        return self._poison is None and self._state.tip.seq > self._watermark_seq

    def flush_watermark(self) -> None:
        """Writes the durable watermark, if it lags. Raises EventLogError."""
        if not self.needs_watermark:
            return
        try:
            self._lock_and_catch_up()
            try:
                self._write_watermark()
            finally:
                self._lock.release()
        except OSError as error:
            raise self._append_failed("could not write the watermark", error) from error

    def close(self) -> None:
        """Writes the watermark and closes the descriptors. Raises EventLogError."""
        try:
            self.flush_watermark()
        finally:
            self.drop()

    def drop(self) -> None:
        """Closes the descriptors only, as a forked child must."""
        with suppress(OSError):
            self._lock.drop()
        self._close_active()

    def _close_active(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # acknowledged data is synced already
                self._disk.close(fd)

    def _lock_and_catch_up(self) -> None:
        """Takes the lock and reads up to the durable end. Raises EventLogError and OSError."""
        if self._poison is not None:
            raise self._poisoned(self._poison)
        try:
            synced = self._sync_before_locking()
            self._lock.take()
            self._sync_with_lock_record(synced)
        except BaseException:
            self._lock.drop()  # which also unlocks
            raise

    # -- catching up and recovering

    def _sync_before_locking(self) -> set[str]:
        """Syncs all segments where no valid lock record states that they are durable.

        In a copied home that takes long, and other writers must not wait for it. Returns the paths
        of the files.
        """
        if self._lock.known_record or read_durable_state(self._disk, self._home).lock_record:
            return set()
        return sync_segments(self._disk, self._home)

    def _sync_with_lock_record(self, synced: set[str]) -> None:
        data = self._lock.read()
        end = self._state.end
        if (
            data
            and data == self._lock.known_record
            and self._is_open_at(end)
            and is_last_segment(self._disk, self._home, end)
        ):
            return
        self._lock.forget_segment()
        watermark = read_watermark(self._disk, self._home)
        lock_record = valid_lock_record(self._disk, self._home, data, watermark)
        if lock_record is not None and lock_record.state == CLEAN:
            if not (
                self._is_open_at(lock_record.end)
                and self._state.catch_up_in_segment(self._fd, lock_record.end)
            ):
                self._close_active()
                self._state.catch_up(lock_record.end)
                self._open_active()
            self._lock.known_record = data
            return
        self._close_active()
        self._start_from_device(lock_record, synced)
        self._open_active()
        self._lock.write_state(CLEAN, self._state.end)

    def _is_open_at(self, end: LogEnd) -> bool:
        """Whether the open file is still the segment of `end`, and has its length."""
        return (
            self._fd >= 0
            and end.segment == self._state.end.segment
            and self._disk.size_at(self._fd, self._path) == end.byte_offset
        )

    def _start_from_device(self, lock_record: LockRecord | None, synced: set[str]) -> None:
        """Syncs and reads what may be in the page cache only. `lock_record` says `writing`.

        Without a valid record none is written until everything is synced: a writer or reader that
        comes after a crash would rely on it for the segments before its end.
        """
        first_segment = 0
        if lock_record is not None:
            # Under our pid: the error of a process that waits for the lock names it.
            self._lock.write_state(WRITING, lock_record.end)
            first_segment = lock_record.end.segment
        elif self._state.is_loaded and not self._disk.boot_id():
            # No record can be valid. This handle synced what is before; what other writers
            # appended is durable before its segment, which each of them syncs before the next.
            first_segment = self._state.end.segment
        sync_to_device(self._disk, self._home, first_segment=first_segment, synced=synced)
        found = find_end(self._disk, self._home, self._state.start)
        end = LogEnd(*found.position, found.tip.seq, found.tip.chain)
        if found.torn_bytes:
            # After a crash during the cut, the next writer must start from the device again.
            self._lock.write_state(WRITING, end)
            cut_torn_tail(self._disk, self._home, end, found.torn_bytes)
        self._state.catch_up(end)

    def _open_active(self) -> None:
        if self._state.end.segment:
            self._path = self._home.segment_path(self._state.end.segment)
            try:
                self._fd = self._disk.open(self._path, writable=True)
            except FileNotFoundError:
                return  # the segment is compressed, so the next write rotates
            self._repair_link()

    def _repair_link(self) -> None:
        name = segment_name(self._state.end.segment)
        try:
            if self._disk.link_target(self._home.link_path) != name:
                self._disk.link(name, self._home.link_path)
        except OSError as error:  # the link is a convenience; appends do not need it
            logger.warning("link_not_repaired path=%s error=%s", self._home.link_path, error)

    # -- writing

    def _write(self, write_batch: LineBatch) -> None:
        is_full = self._state.end.byte_offset >= self._settings.segment_bytes
        if self._fd < 0 or is_full:
            self._rotate()
        segment, start, _, _ = self._state.end
        tip = write_batch.tip
        end = LogEnd(segment, start + write_batch.bytes, tip.seq, tip.chain)
        # Encoded before the sync, because callers wait for everything that follows it.
        clean_record = self._lock.lock_record(CLEAN, end)
        self._lock.write_state(WRITING, self._state.end)
        try:
            write_all(self._disk, self._fd, b"".join(write_batch.lines), start)
        except OSError as error:
            self._undo_write(start)
            raise self._append_failed("the disk refused a write", error) from error
        self._sync(self._fd)
        self._state.tip, self._state.end = tip, end
        self._write_lock_record(clean_record)
        write_batch.settle(self._state.dedupe_window, segment, start)

    def _undo_write(self, start: int) -> None:
        """Truncates a failed write, so that no line ever follows half a line."""
        try:
            self._disk.truncate(self._fd, start)
            self._disk.fdatasync(self._fd)
            self._lock.write_state(CLEAN, self._state.end)
        except OSError as error:
            raise self._poisoned(f"a failed write could not be undone: {error}") from error

    def _rotate(self, *, may_defer: bool = True) -> None:
        """Starts a new segment. With `may_defer`, the active one is kept where the disk is full."""
        first_seq = self._state.tip.seq + 1
        if self.needs_watermark:
            self._write_watermark()
        self._lock.write_state(WRITING, self._state.end)
        path = self._home.segment_path(first_seq)
        for stored in candidate_paths(path)[1:]:
            if self._disk.identity_at(stored) is not None:  # a raw file would hide it
                raise self._poisoned(f"the next segment exists already: {stored}")
        try:
            fd = self._disk.create(path)
        except OSError as error:
            if first_seq in list_segments(self._disk, self._home):
                why = f"a new segment was created but could not be used: {error}"
                raise self._poisoned(why) from error
            self._lock.write_state(CLEAN, self._state.end)
            if self._fd < 0 or not may_defer:
                which = "next" if self._fd >= 0 else "first"
                raise self._append_failed(f"could not create the {which} segment", error) from error
            logger.warning("rotation_deferred segment=%s error=%s", segment_name(first_seq), error)
            return
        self._close_active()
        self._fd, self._path = fd, path
        self._state.end = self._state.end._replace(segment=first_seq, byte_offset=0)
        self._sync_log_dir()
        self._repair_link()

    def _write_watermark(self) -> None:
        """Writes the watermark with the lock record at `writing`.

        A writer that finds `writing` after a crash syncs the watermark as well.
        """
        self._lock.write_state(WRITING, self._state.end)
        try:
            write_watermark(
                self._disk,
                self._home,
                self._state.end,
                sync=self._sync,
                sync_dir=self._sync_log_dir,
            )
            self._watermark_seq = self._state.tip.seq
        except OSError as error:  # the disk is full; the next attempt uses the same slot
            logger.warning("watermark_deferred seq=%d error=%s", self._state.tip.seq, error)
        self._write_lock_record(self._lock.lock_record(CLEAN, self._state.end))

    def _sync(self, fd: int) -> None:
        """fdatasync. Raises LogPoisoned: after a failed one the device's content is unknown."""
        try:
            self._disk.fdatasync(fd)
        except OSError as error:
            raise self._poisoned(f"a sync failed: {error}") from error

    def _sync_log_dir(self) -> None:
        """fsync of the log directory. Raises LogPoisoned."""
        try:
            self._disk.fsync_dir(self._home.log_dir)
        except OSError as error:
            raise self._poisoned(f"the sync of a new name failed: {error}") from error

    def _write_lock_record(self, lock_record: bytes) -> None:
        try:
            self._lock.write_record(lock_record)
        except OSError as error:
            raise self._poisoned(f"the lock record could not be written: {error}") from error

    # -- failing

    def _poisoned(self, why: str) -> LogPoisoned:
        """Disables this writer and leaves the lock record as it is."""
        self._poison = why
        return LogPoisoned(
            f"this log handle is disabled: {why}",
            where=self._home.log_dir,
            do="entries that were not acknowledged may be lost: open the log again and retry with "
            "the same signal_id",
        )

    def _append_failed(self, what: str, error: OSError) -> AppendFailed:
        if error.errno in _NO_SPACE_ERRNOS:
            return DiskFull(
                f"{what}: {error.strerror}",
                where=self._home.log_dir,
                do="the log is unchanged: free space, then append again",
            )
        return AppendFailed(
            f"{what}: {error}",
            where=self._home.log_dir,
            do="the log is unchanged: check the disk, then append again",
        )
