"""The append path: lock, catch up or recover, stamp, write, sync, and only then acknowledge.

Steps of a commit; `segment_writer` has those of a write:

    flock; catch up              see what other processes appended, or recover
    refuse a fenced home         another home continues its stream
    refuse a replica             its lines come from a stream
    stamp seq, batch, chain      under the lock, after catching up
    write, fdatasync             one durable write a batch
    unlock; return receipts

Invariant: a receipt is given only for an entry whose fdatasync returned 0, in a file whose name
is durable, while the lock record said `writing`.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from eventlog.append.batch import AppendRequest, BatchBuilder
from eventlog.append.segment_writer import SegmentWriter, WriterSettings
from eventlog.append.warning_log import WarningLog
from eventlog.errors import EventLogError, LogDiverged, LogFenced, LogIsReplica
from eventlog.storage.disk import Disk
from eventlog.storage.fence_file import refuse_fenced
from eventlog.storage.home import Home
from eventlog.storage.replica_file import refuse_replica


class Writer(SegmentWriter):
    """Appends to one log for one process. Not thread-safe: GroupCommit serialises its callers."""

    def __init__(
        self, disk: Disk, home: Home, clock: Callable[[], str], settings: WriterSettings, pid: int
    ) -> None:
        super().__init__(disk, home, settings, pid)
        self._clock = clock
        self._warning_log = WarningLog()

    def commit(self, take_requests: Callable[[], list[AppendRequest]]) -> None:
        """Makes requests durable, in order, and settles each with receipts or an error.

        `take_requests` is called once the lock is held, so that requests queued until then are
        included. Raises only what is no EventLogError, such as an interrupt: then this writer is
        poisoned.
        """
        taken_requests: list[AppendRequest] | None = None
        try:
            self._lock_and_catch_up()
            try:
                self._refuse_other_home()
                taken_requests = take_requests()
                state = self._state
                now = max(self._clock(), state.tip.recorded_at)
                builder = BatchBuilder(state.tip, now, state.dedupe_window, state.read_stored)
                for request in taken_requests:
                    builder.add(request)
                for write_batch in builder.batches:
                    self._write(write_batch)
            finally:
                self._lock.release()
            if builder.warned:
                self._warning_log.report(builder.warned, now)
        except LogDiverged as error:
            _fail_requests(
                take_requests() if taken_requests is None else taken_requests,
                self._reason_of(error),
            )
        except EventLogError as error:
            _fail_requests(take_requests() if taken_requests is None else taken_requests, error)
        except OSError as error:
            failed = self._append_failed("the log could not be read or written", error)
            _fail_requests(take_requests() if taken_requests is None else taken_requests, failed)
        except BaseException:
            poisoned = self._poisoned("an append was interrupted")
            _fail_requests(take_requests() if taken_requests is None else taken_requests, poisoned)
            with suppress(OSError):
                self._lock.drop()  # the interrupt may have come just before the release
            raise

    def flush_watermark(self) -> None:
        """Writes the durable watermark, if it lags; not where `rejoin` has cut this log."""
        try:
            super().flush_watermark()
        except LogDiverged as error:
            if self._reason_of(error) is error:
                raise

    def _refuse_other_home(self) -> None:
        """Raises LogFenced or LogIsReplica where another home appends to this log."""
        refuse_fenced(self._disk, self._home)
        refuse_replica(self._disk, self._home)

    def _reason_of(self, error: LogDiverged) -> EventLogError:
        """The error of a log that was cut by `rejoin` while this handle was open."""
        try:
            self._refuse_other_home()
        except (LogFenced, LogIsReplica) as reason:
            return reason
        except OSError:
            pass
        return error


def _fail_requests(requests: Iterable[AppendRequest], error: EventLogError) -> None:
    for request in requests:
        request.fail(error)
