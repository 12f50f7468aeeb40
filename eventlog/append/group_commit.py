"""Group commit: the first waiting thread leads, and commits every request queued behind it.

A lone append needs no second thread; a hundred concurrent ones share one sync. Callers that must
not run the commit themselves (asyncio, or a thread with a timeout) leave it to a background
thread, which also writes the watermark when the log is idle.

Invariant: at most one thread uses the writer at a time, and a leader that stops passes the
leadership on while requests are queued.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from eventlog.append.batch import AppendRequest
from eventlog.append.writer import Writer
from eventlog.errors import AppendTimeout, EventLogError, LogBusy, LogClosed

logger = logging.getLogger(__name__)

QUEUED_APPENDS_MAX = 10_000  # appends; with more the disk is minutes behind, and memory would grow
WATERMARK_AFTER_S = 0.8  # the watermark is durable within a second of the last append
WATERMARK_RETRY_S = 0.01  # while another thread commits, which takes a few ms

_LEAD = "lead"
_WATERMARK = "watermark"
_STOP = "stop"


Notify = Callable[[list["QueuedRequest"]], object]


class QueuedRequest:
    """One request in the queue.

    After each commit the leader calls `notify` once, with all settled requests that share it.
    """

    __slots__ = ("notify", "request")

    request: AppendRequest
    notify: Notify


class _QueuedThreadRequest(QueuedRequest):
    """The request of a thread, which waits until `lock` is released."""

    __slots__ = ("can_lead", "lock")

    def __init__(self, request: AppendRequest, *, can_lead: bool) -> None:
        self.request = request
        self.notify = _release_threads
        self.can_lead = can_lead
        self.lock = threading.Lock()
        self.lock.acquire()


def _release_threads(settled: list[QueuedRequest]) -> None:
    for queued in settled:
        assert isinstance(queued, _QueuedThreadRequest), "only they have this `notify`"
        if queued.lock.locked():  # else it was woken to lead, or notified before an interrupt
            queued.lock.release()


class GroupCommit:
    """The queue of append requests of one writer. Thread-safe."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._mutex = threading.Lock()
        self._queue: list[QueuedRequest] = []
        self._leader: object = None  # the leading thread's request, or a command
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
        queued = None
        try:
            with self._mutex:
                if self._closed is not None:
                    raise closed_error(self._closed)
                if self._leader is None and timeout_s is None:
                    self._leader = request
                elif len(self._queue) >= QUEUED_APPENDS_MAX:
                    raise _busy_error()
                else:
                    if timeout_s is not None:
                        self._ensure_leader()
                    queued = _QueuedThreadRequest(request, can_lead=timeout_s is None)
                    self._queue.append(queued)
            if queued is None:
                self._commit_queued(request)
            else:
                self._wait_until_settled(queued, timeout_s)
                if self._leader is request:  # it was woken to lead
                    self._commit_queued()
        except BaseException:
            if queued is not None:
                with self._mutex:
                    queued.can_lead = False
            raise
        finally:
            if self._leader is request:
                try:
                    self._pass_leadership(request)
                except BaseException:  # an interrupt
                    self._pass_leadership(request)
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

    def _wait_until_settled(self, queued: _QueuedThreadRequest, timeout_s: float | None) -> None:
        """Returns when the request is settled, or when its own thread must lead."""
        limit_s = -1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX)
        woken = queued.lock.acquire(timeout=limit_s)
        if not woken:
            raise AppendTimeout(
                f"the append did not return within {timeout_s:g} s: its outcome is unknown",
                do="retry with the same signal_id: an entry is never written twice",
            )

    # -- leading

    def _commit_queued(self, *own: AppendRequest) -> None:
        """Commits the leader's own request and all that are queued when the lock is taken."""
        drained: list[QueuedRequest] = []

        def take_requests() -> list[AppendRequest]:
            with self._mutex:
                taken, self._queue = self._queue, []
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
            if not self._queue:
                self._leader = None
                return
            for queued in self._queue:
                if isinstance(queued, _QueuedThreadRequest) and queued.can_lead:
                    self._leader = queued.request
                    queued.lock.release()
                    return
            self._send(_LEAD)
            self._leader = _LEAD

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
            if self._closed is not None:
                return None  # close() writes it
            if self._leader is not None:
                return WATERMARK_RETRY_S
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
    """Notifies the callers of settled requests."""
    notified: dict[Notify, list[QueuedRequest]] = {}
    for queued in drained:
        notified.setdefault(queued.notify, []).append(queued)
    for notify, settled in notified.items():
        notify(settled)


def closed_error(why: str) -> LogClosed:
    """The error of an append to a closed handle."""
    return LogClosed(why, do="open the log again: EventLog(home)")


def _busy_error() -> LogBusy:
    return LogBusy(
        f"{QUEUED_APPENDS_MAX} appends are queued already",
        do="nothing was written: append more slowly, or find out why the disk is slow",
    )
