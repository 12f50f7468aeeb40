"""The one append path: lock, catch up or recover, stamp, write, sync, and only then acknowledge.

Steps of a commit, in an order that each crash must find safe:

    flock; read the word         is it ours? did others append? did somebody fail or die?
    stamp seq, batch, chain      under the lock, after catching up
    word := writing              before the first change
    rotate: create, fsync dir    a segment's name is durable before its first ack
    write, fdatasync             one durable write
    word := clean                with the new durable end
    unlock; hand out receipts

Invariant: a receipt is made only of entries whose fdatasync returned 0, in a file whose name is
durable, under a word that was `writing` until then.
"""

import errno
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from eventlog.append.batch import AppendRequest, BatchBuilder, WriteBatch
from eventlog.append.recovery import cut_torn_tail, find_end, sync_to_device
from eventlog.append.writer_state import WriterState
from eventlog.errors import AppendFailed, DiskFull, EventLogError, LogPoisoned
from eventlog.format.durability import CLEAN, WRITING, LockRecord, LogEnd
from eventlog.format.segment import must_rotate, segment_name
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.durable_state import current_lock_record, write_watermark
from eventlog.storage.home import Home, list_segments
from eventlog.storage.locks import WriterLock

logger = logging.getLogger(__name__)

_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class WriterSettings(NamedTuple):
    """What may differ between logs."""

    segment_bytes: int
    dedupe_entries: int
    lock_timeout_s: float


class Writer:
    """Writes one log for one process. Not thread-safe: the committer sees to that."""

    def __init__(
        self, disk: Disk, home: Home, clock: Callable[[], str], settings: WriterSettings, pid: int
    ) -> None:
        self._disk = disk
        self._home = home
        self._clock = clock
        self._settings = settings
        self._lock = WriterLock(disk, home, pid=pid, timeout_s=settings.lock_timeout_s)
        self._fd, self._path = -1, ""  # the active segment
        self._state = WriterState(disk, home, settings.dedupe_entries)
        self._watermark_seq = 0
        self._poison: str | None = None

    @property
    def needs_watermark(self) -> bool:
        """Whether there are durable entries that the watermark does not cover."""
        return self._poison is None and self._state.tip.seq > self._watermark_seq

    def commit(self, take_requests: Callable[[], list[AppendRequest]]) -> None:
        """Makes groups durable, in order, and settles each with receipts or its error.

        `take_requests` is asked for them once the lock is held: who queues up meanwhile comes along.
        Raises only what is no EventLogError: an interrupt, after which this writer is poisoned.
        """
        taken_requests: list[AppendRequest] | None = None
        try:
            self._lock_and_catch_up()
            try:
                taken_requests = take_requests()
                state = self._state
                plan = BatchBuilder(state.tip, self._now(), state.dedupe_window, state.read_stored)
                for request in taken_requests:
                    plan.add(request)
                for write_batch in plan.batches:
                    self._write(write_batch)
            finally:
                self._lock.release()
        except EventLogError as error:
            _fail_requests(take_requests() if taken_requests is None else taken_requests, error)
        except OSError as error:
            failed = self._append_failed("the log could not be read or written", error)
            _fail_requests(take_requests() if taken_requests is None else taken_requests, failed)
        except BaseException:
            poisoned = self._poisoned("an append was interrupted")
            _fail_requests(take_requests() if taken_requests is None else taken_requests, poisoned)
            with suppress(OSError):
                self._lock.drop()  # the interrupt may have come just before it was given back
            raise

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
        """Marks what is durable and gives the descriptors back. Raises EventLogError."""
        try:
            self.flush_watermark()
        finally:
            self.drop()

    def drop(self) -> None:
        """Closes the descriptors, and no more: also in a forked child, where nothing is ours."""
        with suppress(OSError):
            self._lock.drop()
        self._close_active()

    def _close_active(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # what matters was synced
                self._disk.close(fd)

    def _lock_and_catch_up(self) -> None:
        """Takes the lock and knows the durable end. Raises EventLogError and OSError."""
        if self._poison is not None:
            raise self._poisoned(self._poison)
        try:
            self._lock.take()
            self._sync_with_lock_record()
        except BaseException:
            self._lock.drop()  # and with it the lock, if we have it
            raise

    # -- catching up and recovering

    def _sync_with_lock_record(self) -> None:
        data = self._lock.read()
        if data == self._lock.known_record and data and self._is_open_at(self._state.end):
            return
        lock_record = current_lock_record(self._disk, data)
        if lock_record is not None and lock_record.state == CLEAN:
            if self._is_open_at(lock_record.end) and self._state.catch_up_in_segment(
                self._fd, lock_record.end
            ):
                self._lock.known_record = data
                return
            self._close_active()
            if self._matches_segments(lock_record.end):
                self._state.catch_up(lock_record.end)
                self._open_active()
                self._lock.known_record = data
                return
        self._close_active()
        self._start_from_device(lock_record)
        self._open_active()
        self._write_lock_state(CLEAN)

    def _is_open_at(self, end: LogEnd) -> bool:
        """Whether the open segment is that of `end`, still stands there, and ends so."""
        return (
            self._fd >= 0
            and end.segment == self._state.end.segment
            and self._disk.size_at(self._fd, self._path) == end.byte_offset
        )

    def _matches_segments(self, end: LogEnd) -> bool:
        segments = list_segments(self._disk, self._home)
        if not segments:
            return end.segment == 0
        if segments[-1] != end.segment:
            return False
        fd = self._disk.open(self._home.segment_path(end.segment), writable=False)
        try:
            return self._disk.size(fd) == end.byte_offset
        finally:
            self._disk.close(fd)

    def _write_lock_state(self, state: str) -> None:
        self._lock.write_state(state, self._state.end)

    def _start_from_device(self, lock_record: LockRecord | None) -> None:
        if lock_record is not None:
            self._lock.write_state(
                WRITING, lock_record.end
            )  # under our pid: who waits for us is told it
        sync_to_device(self._disk, self._home)
        found = find_end(self._disk, self._home, self._state.start)
        end = LogEnd(*found.position, found.tip.seq, found.tip.chain)
        if found.torn_bytes:
            # Whoever comes after a crash in here must start from the device again.
            self._lock.write_state(WRITING, end)
            cut_torn_tail(self._disk, self._home, end, found.torn_bytes)
        self._state.catch_up(end)

    def _open_active(self) -> None:
        if self._state.end.segment:
            self._path = self._home.segment_path(self._state.end.segment)
            try:
                self._fd = self._disk.open(self._path, writable=True)
            except FileNotFoundError:
                return  # it is compressed, so nothing is added to it: the next write rotates
            self._repair_link()

    def _repair_link(self) -> None:
        name = segment_name(self._state.end.segment)
        try:
            if self._disk.link_target(self._home.link_path) != name:
                self._disk.link(name, self._home.link_path)
        except OSError as error:  # a convenience: never a reason not to append
            logger.warning("link_not_repaired path=%s error=%s", self._home.link_path, error)

    # -- writing

    def _now(self) -> str:
        return max(self._clock(), self._state.tip.recorded_at)

    def _write(self, write_batch: WriteBatch) -> None:
        if self._fd < 0 or must_rotate(self._state.end.byte_offset, self._settings.segment_bytes):
            self._rotate()
        segment, start, _, _ = self._state.end
        tip = write_batch.tip
        end = LogEnd(segment, start + write_batch.bytes, tip.seq, tip.chain)
        # Put together now: whoever waits for the sync waits for what stands behind it.
        clean_record = self._lock.lock_record(CLEAN, end)
        self._write_lock_state(WRITING)
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
        """Takes back a write that failed, so that half a line is never followed by another."""
        try:
            self._disk.truncate(self._fd, start)
            self._disk.fdatasync(self._fd)
            self._write_lock_state(CLEAN)
        except OSError as error:
            raise self._poisoned(f"a failed write could not be taken back: {error}") from error

    def _rotate(self) -> None:
        first_seq = self._state.tip.seq + 1
        if self.needs_watermark:
            self._write_watermark()
        self._write_lock_state(WRITING)
        path = self._home.segment_path(first_seq)
        try:
            fd = self._disk.create(path)
        except OSError as error:
            if first_seq in list_segments(self._disk, self._home):
                why = f"a new segment stands there that could not be used: {error}"
                raise self._poisoned(why) from error
            self._write_lock_state(CLEAN)
            if self._fd < 0:
                raise self._append_failed("could not create the first segment", error) from error
            logger.warning("rotation_deferred segment=%s error=%s", segment_name(first_seq), error)
            return
        self._close_active()
        self._fd, self._path = fd, path
        self._state.end = self._state.end._replace(segment=first_seq, byte_offset=0)
        self._sync_log_dir()
        self._repair_link()

    def _write_watermark(self) -> None:
        """The word says `writing` meanwhile: whoever finds it so syncs the watermark too."""
        self._write_lock_state(WRITING)
        try:
            write_watermark(
                self._disk,
                self._home,
                self._state.end,
                sync=self._sync,
                sync_dir=self._sync_log_dir,
            )
            self._watermark_seq = self._state.tip.seq
        except OSError as error:  # the disk is full: the next mark tries the same slot again
            logger.warning("watermark_deferred seq=%d error=%s", self._state.tip.seq, error)
        self._write_lock_record(self._lock.lock_record(CLEAN, self._state.end))

    def _sync(self, fd: int) -> None:
        """fdatasync; where it fails, nobody can say what the device holds. Raises LogPoisoned."""
        try:
            self._disk.fdatasync(fd)
        except OSError as error:
            raise self._poisoned(f"a sync failed: {error}") from error

    def _sync_log_dir(self) -> None:
        """The same for the names in the log directory."""
        try:
            self._disk.fsync_dir(self._home.log_dir)
        except OSError as error:
            raise self._poisoned(f"the sync of a new name failed: {error}") from error

    def _write_lock_record(self, lock_record: bytes) -> None:
        try:
            self._lock.write_record(lock_record)
        except OSError as error:
            raise self._poisoned(f"the lock's word could not be written: {error}") from error

    # -- failing

    def _poisoned(self, why: str) -> LogPoisoned:
        """From here on this writer refuses to write; the word stays as it is."""
        self._poison = why
        return LogPoisoned(
            f"this handle writes no more: {why}",
            where=self._home.log_dir,
            do="what was not acknowledged may be lost: open the log anew and retry with the same "
            "signal_id",
        )

    def _append_failed(self, what: str, error: OSError) -> AppendFailed:
        if error.errno in _NO_SPACE_ERRNOS:
            return DiskFull(
                f"{what}: {error.strerror}",
                where=self._home.log_dir,
                do="nothing of it stays in the log: free space and append again",
            )
        return AppendFailed(
            f"{what}: {error}",
            where=self._home.log_dir,
            do="nothing of it stays in the log: look at the disk, then append again",
        )


def _fail_requests(requests: Iterable[AppendRequest], error: EventLogError) -> None:
    for request in requests:
        request.fail(error)
