"""Group commit: the thread that finds no commit under way writes for all that queue up meanwhile.

A lone append costs no thread hop; a hundred concurrent ones share one sync. Callers that must not
be held up by the commit itself (asyncio, or a thread with a timeout) leave it to a thread of ours,
which also writes the watermark when the log has been quiet.

Invariant: at most one thread uses the writer at a time, and whoever stops leading hands over to
somebody who waits.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from eventlog.append.batch import Group
from eventlog.append.writer import Writer
from eventlog.errors import AppendTimeout, EventLogError, LogBusy, LogClosed

logger = logging.getLogger(__name__)

WAITING_MAX = 10_000  # appends; beyond it the disk is behind by minutes, and memory would grow
MARK_AFTER_S = 0.8  # the watermark is to be durable within a second of the last append
MARK_RETRY_S = 0.01  # while somebody commits; they are done within a few ms

_LEAD = "lead"
_MARK = "mark"
_STOP = "stop"


Notify = Callable[[list["Waiting"]], object]


class Waiting:
    """One group in the queue. Its caller learns that it is settled by `notify`, called once a
    commit, from the leader's thread, with all that share it.
    """

    __slots__ = ("group", "notify")

    group: Group
    notify: Notify


class _WaitingThread(Waiting):
    """A thread that waits for its group until `lock` is released."""

    __slots__ = ("can_lead", "lock")

    def __init__(self, group: Group, *, can_lead: bool) -> None:
        self.group = group
        self.notify = _release
        self.can_lead = can_lead
        self.lock = threading.Lock()
        self.lock.acquire()


def _release(settled: list[Waiting]) -> None:
    for waiting in settled:
        assert isinstance(waiting, _WaitingThread), "only they are put there with this"
        if waiting.lock.locked():  # else it was woken to lead, or is told for the second time
            waiting.lock.release()


class Committer:
    """The queue before one writer. Thread-safe."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._mutex = threading.Lock()
        self._waiting: list[Waiting] = []
        self._leader: object = None  # the group of the thread that leads, or one of the orders
        self._closed: str | None = None
        self._thread: threading.Thread | None = None
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._mark_ordered = False

    def run(self, group: Group, timeout_s: float | None = None) -> None:
        """Returns when the group is settled; AppendTimeout, LogBusy and LogClosed are raised."""
        waiting = None
        try:
            with self._mutex:
                if self._closed is not None:
                    raise _closed(self._closed)
                if self._leader is None and timeout_s is None:
                    self._leader = group
                elif len(self._waiting) >= WAITING_MAX:
                    raise _busy()
                else:
                    if timeout_s is not None:
                        self._lead_by_thread_unless_led()
                    waiting = _WaitingThread(group, can_lead=timeout_s is None)
                    self._waiting.append(waiting)
            if waiting is None:
                self._commit_waiting(group)
            else:
                self._wait(waiting, timeout_s)
                if self._leader is group:  # woken to lead, not because it is settled
                    self._commit_waiting()
        except BaseException:
            if waiting is not None:
                with self._mutex:
                    waiting.can_lead = False
            raise
        finally:
            if self._leader is group:
                try:
                    self._hand_over(group)
                except BaseException:  # an interrupt, anywhere in it
                    self._hand_over(group)
                    raise

    def submit(self, waiting: Sequence[Waiting]) -> None:
        """Queues groups whose callers are woken by their own means. Raises LogClosed."""
        with self._mutex:
            if self._closed is not None:
                raise _closed(self._closed)
            self._lead_by_thread_unless_led()
            self._waiting.extend(waiting)

    def close(self) -> None:
        """Ends after all that waits is settled; then the watermark is current. Idempotent."""
        with self._mutex:
            if self._closed is not None:
                return
            self._closed = "this log handle is closed"
        self._take_over()
        try:
            self._commit_waiting()
            self._writer.close()
        finally:
            self._orders.put(_STOP)
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()

    def disown(self) -> None:
        """In a forked child: nothing here is ours any more. Takes no lock: its holder is gone."""
        self._mutex = threading.Lock()
        self._closed = "this log handle was opened before the process forked"
        self._writer.drop()

    def _wait(self, waiting: _WaitingThread, timeout_s: float | None) -> None:
        """Returns when the group is settled, or is to be led by its own caller."""
        limit_s = -1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX)
        woken = waiting.lock.acquire(timeout=limit_s)
        if not woken:
            raise AppendTimeout(
                f"the append did not end within {timeout_s:g} s: its outcome is unknown",
                do="retry with the same signal_id: it is never written twice",
            )

    # -- leading

    def _commit_waiting(self, *own: Group) -> None:
        """Commits the leader's own group, and all that wait by the time that the lock is held."""
        batch: list[Waiting] = []

        def take() -> list[Group]:
            with self._mutex:
                taken, self._waiting = self._waiting, []
                batch.extend(taken)
            return [*own, *[waiting.group for waiting in batch]]

        if not own and not self._waiting:
            return
        try:
            self._writer.commit(take)
        finally:
            try:
                _tell(batch)
            except BaseException:  # an interrupt, anywhere in it
                _tell(batch)
                raise
        if not self._mark_ordered and self._writer.needs_mark:
            self._mark_ordered = True
            try:
                self._order(_MARK)
            except LogBusy as error:  # close() writes it
                logger.warning("watermark_put_off error=%s", error)

    def _hand_over(self, leader: object) -> None:
        """Ends the lead of `leader`, if it still has it: may be called again after an interrupt."""
        with self._mutex:
            if self._leader is not leader:
                return
            if not self._waiting:
                self._leader = None
                return
            for waiting in self._waiting:
                if isinstance(waiting, _WaitingThread) and waiting.can_lead:
                    self._leader = waiting.group
                    waiting.lock.release()
                    return
            self._order(_LEAD)
            self._leader = _LEAD

    def _lead_by_thread_unless_led(self) -> None:
        self._start_thread()  # also where somebody leads: they may have to hand over to it
        if self._leader is None:
            self._order(_LEAD)
            self._leader = _LEAD

    def _take_over(self) -> None:
        """Waits for the leadership."""
        while True:
            with self._mutex:
                if self._leader is None:
                    self._leader = _STOP
                    return
            time.sleep(0.0005)

    # -- the thread

    def _order(self, order: str) -> None:
        self._start_thread()
        self._orders.put(order)

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="eventlog", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise LogBusy(
                f"no thread could be started: {error}",
                do="nothing was written: see the limits of this account, or append without a "
                "timeout and not by asyncio",
            ) from error
        self._thread = thread

    def _work(self) -> None:
        mark_at_s: float | None = None
        while True:
            timeout_s = None if mark_at_s is None else max(0.0, mark_at_s - time.monotonic())
            try:
                order = self._orders.get(timeout=timeout_s)
            except queue.Empty:
                retry_s = self._mark()
                mark_at_s = None if retry_s is None else time.monotonic() + retry_s
                continue
            if order == _LEAD:
                self._lead()
            elif order == _MARK:
                mark_at_s = time.monotonic() + MARK_AFTER_S
            else:
                return

    def _lead(self) -> None:
        with self._mutex:
            if self._leader is not _LEAD:
                return  # ordered twice, because of an interrupt
        try:
            self._commit_waiting()
        except Exception:  # what went wrong is in each group, and a bug has poisoned the writer
            logger.exception("commit_failed")
        finally:
            self._hand_over(_LEAD)

    def _mark(self) -> float | None:
        """Writes the watermark if nobody leads; returns in how many seconds to try again."""
        with self._mutex:
            if self._closed is not None:
                return None  # close() writes it
            if self._leader is not None:
                return MARK_RETRY_S
            self._leader = _MARK
        try:
            self._mark_ordered = False
            self._writer.mark()
            return MARK_AFTER_S if self._writer.needs_mark else None
        except EventLogError as error:
            logger.warning("watermark_put_off error=%s", error)
            return MARK_AFTER_S
        except Exception:  # a bug: the thread is needed by those who append
            logger.exception("watermark_failed")
            return None
        finally:
            self._hand_over(_MARK)


def _tell(batch: list[Waiting]) -> None:
    """Wakes all whose groups were settled."""
    notified: dict[Notify, list[Waiting]] = {}
    for waiting in batch:
        notified.setdefault(waiting.notify, []).append(waiting)
    for notify, settled in notified.items():
        notify(settled)


def _closed(why: str) -> LogClosed:
    return LogClosed(why, do="open the log anew: EventLog(home)")


def _busy() -> LogBusy:
    return LogBusy(
        f"{WAITING_MAX} appends are waiting already",
        do="nothing was written: slow down, or see why the disk is slow",
    )
