"""The delivery worker: one run of delivery, from `open` to `close` of the projection.

New signals come in through `take`, resends from the outbox. The dispatcher sends them and yields
their outcomes; the worker stores those a moment later, in one transaction.

Invariant: an outcome that a crash takes before it is stored costs a repeated request, nothing else.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eventlog import Entry, EventLogError, UnsafePath
from eventlog.plumbing import is_shortage, run_in_thread
from projections.alpine.client import Alpine
from projections.alpine.contract import body_of
from projections.alpine.credentials import KeySource
from projections.alpine.retry import DeliveryTiming
from projections.delivery import outbox
from projections.delivery.ack_tracker import AckTracker
from projections.delivery.dispatcher import Dispatcher
from projections.delivery.job import (
    Delivered,
    Job,
    KeepParked,
    Outcome,
    Park,
    ResendReason,
    parked_row,
)
from projections.delivery.outbox import Outbox, UnsavedChanges
from projections.delivery.outbox_rows import ParkedSignal
from projections.delivery.resends import ResendQueue, read_signals
from projections.delivery.state import DeliveryState, StateChange
from projections.sqlite.file import is_damage, set_aside

logger = logging.getLogger(__name__)

BACKLOG_MAX = 1_000  # new signals without an outcome: a hundred times the in-flight window
SPAN_MAX = 200_000  # entries above the checkpoint: bounds memory while one signal does not pass
FLUSH_S = 0.05  # until outcomes are stored; a crash before that repeats their requests
FLUSH_FAILED_S = 1.0  # the same after a failed write
BUSY_S_MAX = 0.5  # for another process's transaction; then the write is tried a second later
FAILING_MAX = 1_000  # signals parked as failing; more mean an outage, not poison messages
STOP_S_MAX = 2.0  # for requests in flight after a stop; then they are abandoned


class DeliveryWorker:
    """Runs delivery for one home. For one event loop; after `start`, `end` must be called."""

    def __init__(
        self,
        home: Path,
        outbox: Outbox,
        alpine: Alpine,
        key: KeySource,
        timing: DeliveryTiming,
    ) -> None:
        self._home = home
        outbox.set_busy_timeout(BUSY_S_MAX)
        self._outbox = outbox
        self._alpine = alpine
        self._timing = timing
        self.ack_tracker = AckTracker(outbox.checkpoint(), outbox.done_above())
        self._done_until = max(outbox.done_above(), default=0)
        self._unfinished: list[Job] = []  # not done; no later signal seen yet is done
        self._unsaved = UnsavedChanges()
        self._resends = ResendQueue(self.ack_tracker, self._unsaved.request_outcomes)
        self._tick_lock = asyncio.Lock()  # held until what a tick collected is queued
        rejections = outbox.state()["rejections"]
        assert isinstance(rejections, int)
        self._dispatcher = Dispatcher(alpine, key, timing=timing, rejections=rejections)
        self._set_failing_count(outbox.failing_count())
        self._progress = asyncio.Event()  # an outcome, a change of state, or the end
        self._is_changed = asyncio.Event()  # since the last save
        self._has_save_failed = False
        self.file_lost = asyncio.Event()  # the outbox is lost: delivery must begin again
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts delivery."""
        self._task = asyncio.create_task(self._run(), name="delivery")
        self._task.add_done_callback(self._on_task_end)

    def stop(self) -> None:
        """Ends sending; requests in flight are awaited by `end`."""
        self._dispatcher.stop()
        self._progress.set()

    async def end(self) -> None:
        """Waits briefly for requests in flight, stores outcomes, closes client and outbox."""
        assert self._task is not None, "it was started"
        self.stop()
        try:
            await asyncio.wait({self._task}, timeout=STOP_S_MAX)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._alpine.close()
        finally:
            self._flush()
            with suppress(sqlite3.Error):
                last_error = self._dispatcher.last_error
                self._outbox.write_state(state=outbox.STOPPED, last_error=last_error)
            self._outbox.close()

    @property
    def description(self) -> str:
        """State and last error, for an error text."""
        state, last_error = str(self._dispatcher.state), self._dispatcher.last_error
        return f"{state}, {last_error}" if last_error else state

    def figures(self) -> dict[str, object]:
        """The figures of the outbox for `eventlog status`."""
        return self._outbox.figures()

    def take(self, entries: Sequence[Entry]) -> None:
        """Queues the signals of a batch; facts are done at once."""
        jobs: list[Job] = []
        for entry in entries:
            self.ack_tracker.take(entry.seq, entry.chain)
            if self.ack_tracker.is_done(entry.seq):
                if entry.event == "signal" and self._unfinished and self._parked(entry.seq) is None:
                    for job in self._unfinished:
                        job.was_overtaken = True
                    self._unfinished.clear()
                continue
            if entry.event == "signal":
                jobs_of_entry = self._jobs_of(entry)
                jobs += jobs_of_entry
                if entry.seq < self._done_until:
                    self._unfinished += jobs_of_entry
            else:
                self.ack_tracker.mark_done(entry.seq)
        self.ack_tracker.advance()
        self._is_changed.set()
        self._dispatcher.add(jobs)

    def _jobs_of(self, entry: Entry, resend: ResendReason | None = None) -> list[Job]:
        """The job for a signal; none, but a parked row, for one that lacks a required field."""
        job = Job(
            seq=entry.seq,
            signal_id=str(entry.payload.get("signal_id")),
            body=b"",
            resend=resend,
        )
        try:
            job.body = body_of(entry.payload)
            return [job]
        except KeyError as error:  # its line was written without our validation
            what = f"the signal is incomplete: {error} is missing"
            self._complete(job, Park(kind=outbox.REFUSED, status=None, body=what))
            return []

    async def wait_for_room(self) -> bool:
        """Waits until another batch may be taken, or delivery stops; False: the circuit is open."""
        dispatcher = self._dispatcher

        def has_room() -> bool:
            return dispatcher.backlog < BACKLOG_MAX and self.ack_tracker.entries_tracked <= SPAN_MAX

        await self._until(lambda: not dispatcher.is_open or has_room())
        self._raise_if_failed()
        return dispatcher.is_stopped or has_room()

    async def drain(self) -> int:
        """Returns how many jobs are left: 0 when all are done or delivery stops, else the circuit
        is open.
        """
        dispatcher = self._dispatcher
        while True:
            await self._tick()
            await self._until(lambda: not dispatcher.outstanding or not dispatcher.is_open)
            with suppress(TimeoutError):  # a short outage ends, and poison messages are found
                async with asyncio.timeout(self._timing.once_s):
                    await self._until(lambda: dispatcher.state is not DeliveryState.WAITING)
            self._raise_if_failed()
            self._flush()
            if dispatcher.is_stopped:
                return 0
            if dispatcher.outstanding and dispatcher.is_open:
                continue  # it passes again
            if dispatcher.outstanding or not (
                self._tick_lock.locked() or self._has_open_requests()
            ):
                return dispatcher.outstanding

    async def _until(self, predicate: Callable[[], bool]) -> None:
        """Returns when the predicate holds, or delivery is stopped."""
        while not (self._dispatcher.is_stopped or predicate()):
            self._progress.clear()
            await self._progress.wait()

    async def wait_until_lost(self) -> None:
        """Returns when the outbox is lost; raises the error that ended delivery meanwhile."""
        assert self._task is not None, "it was started"
        lost = asyncio.ensure_future(self.file_lost.wait())
        try:
            await asyncio.wait({lost, self._task}, return_when=asyncio.FIRST_COMPLETED)
            self._raise_if_failed()
            await lost  # or for ever: delivery was stopped
        finally:
            lost.cancel()

    def _has_open_requests(self) -> bool:
        with suppress(sqlite3.Error):
            return not self.file_lost.is_set() and self._resends.has_open_requests(self._outbox)
        return False

    # -- the tasks

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._flush_loop()),
                group.create_task(self._tick_loop()),
            ]
            async for event in self._dispatcher.run(group):
                match event:
                    case StateChange():
                        self._store_state()
                    case (job, outcome):
                        self._complete(job, outcome)
                self._progress.set()
            for helper in helpers:
                helper.cancel()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self.stop()  # ends `wait_for_room` and `drain`, which raise the error

    def _raise_if_failed(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            if error is not None:
                raise _root_error(error)

    async def _flush_loop(self) -> None:
        while True:
            await self._is_changed.wait()
            await asyncio.sleep(FLUSH_FAILED_S if self._has_save_failed else FLUSH_S)
            self._flush()

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(self._timing.tick_s)
            await self._tick()

    async def _tick(self) -> None:
        """Collects due retries and operator requests."""
        async with self._tick_lock:
            await self._collect_resends()

    async def _collect_resends(self) -> None:
        self._flush()  # a request may be for a signal that was parked a moment ago
        if self.file_lost.is_set():
            return
        try:
            self._outbox.check_schema()
            self._set_failing_count(self._outbox.failing_count())
            resends = self._resends.collect(self._outbox, with_due=self._dispatcher.is_open)
        except sqlite3.Error as error:
            if is_damage(error):
                self._set_aside_outbox(error)
                return
            logger.debug("resends_not_read error=%s", error)  # the next save logs the cause
            return
        if self._unsaved.request_outcomes:
            self._is_changed.set()
        if not resends:
            return
        found = await self._read_resends(resends)
        for seq in resends.keys() - found.keys():
            self._resends.complete(seq, outbox.GONE)
        for seq in sorted(found):
            self._dispatcher.add(self._jobs_of(found[seq], resends[seq]))
        if ResendReason.RETRY in resends.values():
            self._dispatcher.wake()

    async def _read_resends(self, resends: Mapping[int, ResendReason]) -> dict[int, Entry]:
        """The signals of these seqs; waits while the system has no thread or descriptor left."""
        while True:
            try:
                return await run_in_thread(lambda: read_signals(self._home, resends))
            except (EventLogError, OSError) as error:
                logger.warning("resends_not_read error=%s", error)
                if not is_shortage(error):
                    return {}
            await asyncio.sleep(self._timing.tick_s)

    # -- outcomes

    def _complete(self, job: Job, outcome: Outcome) -> None:
        seq = job.seq
        is_new = self.ack_tracker.mark_done(seq)
        match outcome:
            case Delivered(is_duplicate=is_duplicate):
                self._resends.complete(seq, outbox.DUPLICATE if is_duplicate else outbox.STORED)
                was_parked = job.resend is not None and self._parked(seq) is not None
                self._unsaved.delivered += is_new or was_parked
                if was_parked:
                    self._unsaved.park.pop(seq, None)
                    self._unsaved.unpark.add(seq)
            case Park() | KeepParked():
                self._resends.complete(seq, outbox.PARKED)
                self._park(job, outcome)
        self.ack_tracker.advance()
        self._is_changed.set()

    def _park(self, job: Job, outcome: Park | KeepParked) -> None:
        old = self._parked(job.seq) if job.resend is not None else None
        if job.is_parked and (old is None or old.kind == outbox.DISCARDED):
            return  # an operator discarded it meanwhile
        row = parked_row(job, outcome, old, now_s=time.time(), timing=self._timing)
        self._unsaved.unpark.discard(job.seq)
        self._unsaved.park[job.seq] = row
        was_failing = old is not None and old.kind == outbox.FAILING
        self._set_failing_count(self._failing + (row.kind == outbox.FAILING) - was_failing)
        if old is None or old.kind != row.kind:
            logger.warning("parked seq=%d kind=%s status=%s", row.seq, row.kind, row.status)

    def _parked(self, seq: int) -> ParkedSignal | None:
        if seq in self._unsaved.unpark:
            return None
        with suppress(sqlite3.Error):
            return self._unsaved.park.get(seq) or self._outbox.parked(seq)
        return None

    def _set_failing_count(self, count: int) -> None:
        self._failing = count
        self._dispatcher.may_park = count < FAILING_MAX

    def _store_state(self) -> None:
        state, last_error = str(self._dispatcher.state), self._dispatcher.last_error
        with suppress(sqlite3.Error):
            self._outbox.write_state(state=state, last_error=last_error)

    # -- the outbox

    def _flush(self) -> None:
        """Stores what has changed; after a failed write it is kept, and tried again."""
        if self.file_lost.is_set():
            return
        if not self._outbox.is_in_place():
            self._reset_outbox("it was deleted or replaced")
            return
        if not self._is_changed.is_set():
            return
        self._is_changed.clear()
        try:
            self._outbox.save(
                self.ack_tracker.checkpoint,
                self.ack_tracker.unsaved,
                self._unsaved,
                self._dispatcher.rejections,
            )
        except sqlite3.Error as error:
            if is_damage(error):
                self._set_aside_outbox(error)
                return
            if not self._has_save_failed:
                logger.warning("delivery_not_stored error=%s", error)
            self._has_save_failed = True
            self._is_changed.set()
            return
        if self._has_save_failed:
            logger.warning("delivery_stored_again")
        self._has_save_failed = False
        self.ack_tracker.unsaved.clear()
        self._unsaved.clear()

    def _set_aside_outbox(self, error: sqlite3.Error) -> None:
        self._outbox.close()
        set_aside(outbox.outbox_path(self._home))
        self._reset_outbox(str(error))

    def _reset_outbox(self, why: str) -> None:
        """Replaces the outbox by an empty one, as status must show; delivery begins from seq 1."""
        logger.warning("delivery_state_lost reason=%s: all signals are sent again", why)
        self.file_lost.set()
        self._outbox.close()
        with suppress(sqlite3.Error, OSError, UnsafePath):
            self._outbox = Outbox.open(outbox.outbox_path(self._home))
            self._outbox.set_busy_timeout(BUSY_S_MAX)
            self._store_state()


def _root_error(error: BaseException) -> BaseException:
    """The error behind an exception group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
