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

from eventlog.append.batch import Group, Plan, Slice
from eventlog.append.recovery import cut_torn_tail, find_end, settle_on_device
from eventlog.append.writer_state import Known
from eventlog.errors import AppendFailed, DiskFull, EventLogError, LogPoisoned
from eventlog.format.durability import CLEAN, WRITING, End, Word, decode_word
from eventlog.format.segment import must_rotate, segment_name
from eventlog.storage.disk import Disk, write_all
from eventlog.storage.durable_state import write_watermark
from eventlog.storage.home import Home, list_segments
from eventlog.storage.locks import WriterLock

logger = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Settings(NamedTuple):
    """What may differ between logs."""

    segment_bytes: int
    dedupe_entries: int
    lock_timeout_s: float


class Writer:
    """Writes one log for one process. Not thread-safe: the committer sees to that."""

    def __init__(
        self, disk: Disk, home: Home, clock: Callable[[], str], settings: Settings, pid: int
    ) -> None:
        self._disk = disk
        self._home = home
        self._clock = clock
        self._settings = settings
        self._lock = WriterLock(disk, home, pid=pid, timeout_s=settings.lock_timeout_s)
        self._fd, self._path = -1, ""  # the active segment
        self._known = Known(disk, home, settings.dedupe_entries)
        self._marked_seq = 0
        self._poison: str | None = None

    @property
    def needs_mark(self) -> bool:
        """Whether there are durable entries that the watermark does not cover."""
        return self._poison is None and self._known.tip.seq > self._marked_seq

    def commit(self, take: Callable[[], list[Group]]) -> None:
        """Makes groups durable, in order, and settles each with receipts or its error.

        `take` is asked for them once the lock is held: who queues up meanwhile comes along.
        Raises only what is no EventLogError: an interrupt, after which this writer is poisoned.
        """
        taken: list[Group] | None = None
        try:
            self._begin()
            try:
                taken = take()
                known = self._known
                plan = Plan(known.tip, self._now(), known.window, known.stored)
                for group in taken:
                    plan.add(group)
                for piece in plan.slices:
                    self._write(piece)
            finally:
                self._lock.release()
        except EventLogError as error:
            _fail(take() if taken is None else taken, error)
        except OSError as error:
            failed = self._failed("the log could not be read or written", error)
            _fail(take() if taken is None else taken, failed)
        except BaseException:
            poisoned = self._poisoned("an append was interrupted")
            _fail(take() if taken is None else taken, poisoned)
            with suppress(OSError):
                self._lock.drop()  # the interrupt may have come just before it was given back
            raise

    def mark(self) -> None:
        """Writes the durable watermark, if it lags. Raises EventLogError."""
        if not self.needs_mark:
            return
        try:
            self._begin()
            try:
                self._write_watermark()
            finally:
                self._lock.release()
        except OSError as error:
            raise self._failed("could not write the watermark", error) from error

    def close(self) -> None:
        """Marks what is durable and gives the descriptors back. Raises EventLogError."""
        try:
            self.mark()
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

    def _begin(self) -> None:
        """Takes the lock and knows the durable end. Raises EventLogError and OSError."""
        if self._poison is not None:
            raise self._poisoned(self._poison)
        try:
            self._lock.take()
            self._accept_word()
        except BaseException:
            self._lock.drop()  # and with it the lock, if we have it
            raise

    # -- catching up and recovering

    def _accept_word(self) -> None:
        data = self._lock.read()
        if data == self._lock.accepted and data and self._is_open_to(self._known.end):
            return
        word = decode_word(data)
        if word is not None and word.state == CLEAN and word.boot_id == self._disk.boot_id():
            if self._is_open_to(word.end) and self._known.catch_up_in(self._fd, word.end):
                self._lock.accepted = data
                return
            self._close_active()
            if self._fits(word.end):
                self._known.catch_up(word.end)
                self._open_active()
                self._lock.accepted = data
                return
        self._close_active()
        self._start_from_device(word)
        self._open_active()
        self._say(CLEAN)

    def _is_open_to(self, end: End) -> bool:
        """Whether the open segment is that of `end`, still stands there, and ends so."""
        return (
            self._fd >= 0
            and end.segment == self._known.end.segment
            and self._disk.size_at(self._fd, self._path) == end.byte_offset
        )

    def _fits(self, end: End) -> bool:
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

    def _say(self, state: str) -> None:
        self._lock.say(state, self._known.end)

    def _start_from_device(self, word: Word | None) -> None:
        if word is not None and word.boot_id == self._disk.boot_id():
            self._lock.say(WRITING, word.end)  # under our pid: who waits for us is told it
        settle_on_device(self._disk, self._home)
        found = find_end(self._disk, self._home, self._known.start)
        end = End(*found.position, found.tip.seq, found.tip.chain)
        if found.torn_bytes:
            # Whoever comes after a crash in here must start from the device again.
            self._lock.say(WRITING, end)
            cut_torn_tail(self._disk, self._home, end, found.torn_bytes)
        self._known.catch_up(end)

    def _open_active(self) -> None:
        if self._known.end.segment:
            self._path = self._home.segment_path(self._known.end.segment)
            try:
                self._fd = self._disk.open(self._path, writable=True)
            except FileNotFoundError:
                return  # it is compressed, so nothing is added to it: the next write rotates
            self._mend_link()

    def _mend_link(self) -> None:
        name = segment_name(self._known.end.segment)
        try:
            if self._disk.link_target(self._home.link_path) != name:
                self._disk.link(name, self._home.link_path)
        except OSError as error:  # a convenience: never a reason not to append
            logger.warning("link_not_mended path=%s error=%s", self._home.link_path, error)

    # -- writing

    def _now(self) -> str:
        return max(self._clock(), self._known.tip.recorded_at)

    def _write(self, piece: Slice) -> None:
        if self._fd < 0 or must_rotate(self._known.end.byte_offset, self._settings.segment_bytes):
            self._rotate()
        segment, start, _, _ = self._known.end
        tip = piece.tip
        end = End(segment, start + piece.bytes, tip.seq, tip.chain)
        # Put together now: whoever waits for the sync waits for what stands behind it.
        durable = self._lock.word(CLEAN, end)
        self._say(WRITING)
        try:
            write_all(self._disk, self._fd, b"".join(piece.lines), start)
        except OSError as error:
            self._undo(start)
            raise self._failed("the disk refused a write", error) from error
        self._sync(self._fd)
        self._known.tip, self._known.end = tip, end
        self._put_or_die(durable)
        piece.settle(self._known.window, segment, start)

    def _undo(self, start: int) -> None:
        """Takes back a write that failed, so that half a line is never followed by another."""
        try:
            self._disk.truncate(self._fd, start)
            self._disk.fdatasync(self._fd)
            self._say(CLEAN)
        except OSError as error:
            raise self._poisoned(f"a failed write could not be taken back: {error}") from error

    def _rotate(self) -> None:
        first_seq = self._known.tip.seq + 1
        if self.needs_mark:
            self._write_watermark()
        self._say(WRITING)
        path = self._home.segment_path(first_seq)
        try:
            fd = self._disk.create(path)
        except OSError as error:
            if first_seq in list_segments(self._disk, self._home):
                why = f"a new segment stands there that could not be used: {error}"
                raise self._poisoned(why) from error
            self._say(CLEAN)
            if self._fd < 0:
                raise self._failed("could not create the first segment", error) from error
            logger.warning("rotation_put_off segment=%s error=%s", segment_name(first_seq), error)
            return
        self._close_active()
        self._fd, self._path = fd, path
        self._known.end = self._known.end._replace(segment=first_seq, byte_offset=0)
        self._sync_names()
        self._mend_link()

    def _write_watermark(self) -> None:
        """The word says `writing` meanwhile: whoever finds it so syncs the watermark too."""
        self._say(WRITING)
        try:
            write_watermark(
                self._disk, self._home, self._known.end, sync=self._sync, sync_dir=self._sync_names
            )
            self._marked_seq = self._known.tip.seq
        except OSError as error:  # the disk is full: the next mark tries the same slot again
            logger.warning("watermark_put_off seq=%d error=%s", self._known.tip.seq, error)
        self._put_or_die(self._lock.word(CLEAN, self._known.end))

    def _sync(self, fd: int) -> None:
        """fdatasync; where it fails, nobody can say what the device holds. Raises LogPoisoned."""
        try:
            self._disk.fdatasync(fd)
        except OSError as error:
            raise self._poisoned(f"a sync failed: {error}") from error

    def _sync_names(self) -> None:
        """The same for the names in the log directory."""
        try:
            self._disk.fsync_dir(self._home.log_dir)
        except OSError as error:
            raise self._poisoned(f"the sync of a new name failed: {error}") from error

    def _put_or_die(self, word: bytes) -> None:
        try:
            self._lock.put(word)
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

    def _failed(self, what: str, error: OSError) -> AppendFailed:
        if error.errno in _FULL:
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


def _fail(groups: Iterable[Group], error: EventLogError) -> None:
    for group in groups:
        group.fail(error)
