"""Group commit: the first waiting thread leads, and commits every request queued behind it.

A lone append needs no second thread; a hundred concurrent ones share one sync. Callers that must
not run the commit themselves (asyncio, or a thread with a timeout) leave it to a background
thread, which also writes the watermark when the log is idle.

The threads of one commit wait at one gate, which the leader opens once: each thread that passes
lets the next one pass. So they do not all run for the interpreter's lock at the same moment.

A thread in which a signal handler runs does not pass, and delays the others until the background
thread finds out, which checks when the watermark is due.

Invariant: at most one thread uses the writer at a time, and a leader that stops passes the
leadership on while requests are queued.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence

from eventlog.append.batch import AppendRequest
from eventlog.append.waiting import Gate, GateRequest, Notify, QueuedRequest, TimedRequest
from eventlog.append.writer import Writer
from eventlog.errors import EventLogError, LogBusy, LogClosed, LogPoisoned

logger = logging.getLogger(__name__)

QUEUED_APPENDS_MAX = 10_000  # appends; with more the disk is minutes behind, and memory would grow
WATERMARK_AFTER_S = 0.8  # the watermark is durable within a second of the last append
# While another thread commits, or those of a commit pass their gate: both take a few ms.
WATERMARK_RETRY_S = 0.01
UNSETTLED_RETRY_S = 0.0005  # after an interrupt only

_LEAD = "lead"
_WATERMARK = "watermark"
_STOP = "stop"


class GroupCommit:
    """The queue of append requests of one writer. Thread-safe."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._mutex = threading.Lock()
        self._queue: list[QueuedRequest] = []
        self._gate: Gate | None = None  # of the threads in the queue
        self._passing: Gate | None = None  # of the threads of the last commit
        self._seen_gate: Gate | None = None  # that led when the watermark was last due
        # The leading thread's request, or a command; a gate where one of its threads is to lead, or
        # where those of the last commit are still to pass.
        self._leader: object = None
        self._closed: str | None = None
        self._thread: threading.Thread | None = None
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._watermark_scheduled = False

    @property
    def created_log(self) -> bool:
        """Whether there was no log, and the first commit created it."""
        return self._writer.created_log

    def run(self, request: AppendRequest, timeout_s: float | None = None) -> None:
        """Commits a request and returns. Raises AppendTimeout, LogBusy and LogClosed."""
        gate = timed = None
        try:
            with self._mutex:
                if self._closed is not None:
                    raise closed_error(self._closed)
                if self._leader is None and timeout_s is None:
                    self._leader = request
                elif len(self._queue) >= QUEUED_APPENDS_MAX:
                    raise _busy_error()
                elif timeout_s is None:
                    if self._gate is None:
                        self._gate = Gate()
                    self._queue.append(GateRequest(request, self._gate))
                    gate = self._gate
                    gate.waiting += 1  # no call in between, after which an interrupt may come
                else:
                    self._ensure_leader()
                    timed = TimedRequest(request)
                    self._queue.append(timed)
            if gate is not None:
                self._wait_at(gate, request)
            elif timed is not None and timeout_s is not None:
                timed.wait(timeout_s)
            else:
                self._commit_queued(request)
        finally:
            try:
                self._end_run(request, gate)
            except BaseException:  # an interrupt
                self._end_run(request, gate)
                raise

    def submit(self, queued: Sequence[QueuedRequest]) -> None:
        """Queues requests and returns at once; `notify` reports the result. Raises LogClosed."""
        with self._mutex:
            if self._closed is not None:
                raise closed_error(self._closed)
            self._ensure_leader()
            self._queue.extend(queued)

    def close(self) -> None:
        """Commits what is queued, writes the watermark, and stops the thread. Idempotent."""
        with self._mutex:
            if self._closed is not None:
                return
            self._closed = "this log handle is closed"
        self._acquire_leadership()
        try:
            self._commit_queued()
            self._writer.close()
        finally:
            self._commands.put(_STOP)
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()

    def after_fork(self, why: str) -> None:
        """Refuses appends in a forked child. Takes no lock: its holder is not in the child."""
        self._mutex = threading.Lock()
        self._closed = why
        self._writer.drop()

    # -- waiting

    def _wait_at(self, gate: Gate, request: AppendRequest) -> None:
        """Returns when the request is settled, perhaps by a commit of this thread."""
        while True:
            with gate.lock:
                if self._leader is gate and not request.is_settled:
                    with self._mutex:
                        self._leader = request
                    self._commit_queued()
            if request.is_settled or self._leader is None:
                return
            # A leader that was interrupted before its commit has left the gate open.
            time.sleep(UNSETTLED_RETRY_S)

    def _end_run(self, request: AppendRequest, gate: Gate | None) -> None:
        """Ends the waiting and the leadership of a thread: a second call does no harm.

        A gate that counts too few threads is safe: one that passes it unsettled tries again.
        """
        if gate is not None:
            with self._mutex:
                gate.waiting -= 1
                if self._leader is gate and gate.waiting <= 0:
                    self._choose_leader()
        if self._leader is request:
            self._pass_leadership(request)

    # -- leading

    def _commit_queued(self, *own: AppendRequest) -> None:
        """Commits the leader's own request and all that are queued when the lock is taken."""
        drained: list[QueuedRequest] = []

        def take_requests() -> list[AppendRequest]:
            with self._mutex:
                taken, self._queue = self._queue, []
                self._gate, self._passing = None, self._gate
                drained.extend(taken)
            return [*own, *[queued.request for queued in drained]]

        if not own and not self._queue:
            return
        try:
            self._writer.commit(take_requests)
        finally:
            if drained:
                try:
                    _notify_settled(drained)
                except BaseException:  # an interrupt
                    _notify_settled(drained)
                    raise
        if not self._watermark_scheduled and self._writer.needs_watermark:
            self._watermark_scheduled = True
            try:
                self._send(_WATERMARK)
            except LogBusy as error:  # close() writes it
                logger.warning("watermark_deferred error=%s", error)

    def _pass_leadership(self, leader: object) -> None:
        """Ends the leadership of `leader`, if it still leads: a second call does no harm."""
        with self._mutex:
            if self._leader is not leader:
                return
            passing = self._passing
            if passing is not None and passing.waiting > 0:
                self._leader = passing  # the last thread that passes goes on: most append again
            else:
                self._choose_leader()

    def _choose_leader(self) -> None:
        """Chooses the next leader, if requests are queued. The caller holds the mutex."""
        gate = self._gate
        if not self._queue:
            self._leader = None
        elif gate is not None and gate.waiting > 0:
            self._leader = gate  # the first thread that passes leads
            if not gate.is_open:  # not by open(): an interrupt may come where a function begins
                gate.is_open = True
                gate.lock.release()
        else:
            self._send(_LEAD)
            self._leader = _LEAD

    def _go_on_without_late_threads(self) -> None:
        """Goes on if the same gate leads as at the last call. The caller holds the mutex."""
        gate = self._leader if isinstance(self._leader, Gate) else None
        is_late = gate is not None and gate is self._seen_gate
        if is_late and gate is self._passing:
            self._choose_leader()
        elif is_late:
            self._commands.put(_LEAD)
            self._leader = _LEAD
        self._seen_gate = self._leader if isinstance(self._leader, Gate) else None

    def _ensure_leader(self) -> None:
        self._start_thread()  # also while another thread leads, which may pass leadership to it
        if self._leader is None:
            self._send(_LEAD)
            self._leader = _LEAD

    def _acquire_leadership(self) -> None:
        """Waits for the leadership."""
        while True:
            with self._mutex:
                if self._leader is None:
                    self._leader = _STOP
                    return
            time.sleep(0.0005)

    # -- the thread

    def _send(self, command: str) -> None:
        self._start_thread()
        self._commands.put(command)

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run_thread, name="eventlog", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise LogBusy(
                f"no thread could be started: {error}",
                do="nothing was written: see the limits of this account, or append without a "
                "timeout and not by asyncio",
            ) from error
        self._thread = thread

    def _run_thread(self) -> None:
        watermark_at_s: float | None = None
        while True:
            timeout_s = (
                None if watermark_at_s is None else max(0.0, watermark_at_s - time.monotonic())
            )
            try:
                command = self._commands.get(timeout=timeout_s)
            except queue.Empty:
                retry_s = self._write_watermark()
                watermark_at_s = None if retry_s is None else time.monotonic() + retry_s
                continue
            if command == _LEAD:
                self._lead_commit()
            elif command == _WATERMARK:
                watermark_at_s = time.monotonic() + WATERMARK_AFTER_S
            else:
                return

    def _lead_commit(self) -> None:
        with self._mutex:
            if self._leader is not _LEAD:
                return  # the command was sent twice, because of an interrupt
        try:
            self._commit_queued()
        except Exception:  # each request has its error, and a bug has poisoned the writer
            logger.exception("commit_failed")
        finally:
            self._pass_leadership(_LEAD)

    def _write_watermark(self) -> float | None:
        """Writes the watermark unless a thread leads; returns after how long to try again."""
        with self._mutex:
            self._go_on_without_late_threads()
            if self._leader is not None and self._leader is not _STOP:
                return WATERMARK_RETRY_S
            if self._closed is not None:
                return None  # close() writes it
            self._leader = _WATERMARK
        try:
            self._watermark_scheduled = False
            self._writer.flush_watermark()
            return WATERMARK_AFTER_S if self._writer.needs_watermark else None
        except EventLogError as error:
            logger.warning("watermark_deferred error=%s", error)
            return WATERMARK_AFTER_S
        except Exception:  # a bug; the thread must go on, because appends need it
            logger.exception("watermark_failed")
            return None
        finally:
            self._pass_leadership(_WATERMARK)


def _notify_settled(drained: list[QueuedRequest]) -> None:
    """Notifies the callers of requests, each of which has its results or an error."""
    notified: dict[Notify, list[QueuedRequest]] = {}
    for queued in drained:
        if not queued.request.is_settled:  # a second interrupt came while the first was handled
            queued.request.fail(_interrupted_error())
        notified.setdefault(queued.notify, []).append(queued)
    for notify, settled in notified.items():
        notify(settled)


def closed_error(why: str) -> LogClosed:
    """The error of an append to a closed handle."""
    return LogClosed(why, do="open the log again: EventLog(home)")


def _interrupted_error() -> LogPoisoned:
    return LogPoisoned(
        "the append was interrupted, and its outcome is unknown",
        do="open the log again and retry with the same signal_id: an entry is never written twice",
    )


def _busy_error() -> LogBusy:
    return LogBusy(
        f"{QUEUED_APPENDS_MAX} appends are queued already",
        do="nothing was written: append more slowly, or find out why the disk is slow",
    )
