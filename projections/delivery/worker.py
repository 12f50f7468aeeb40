"""One run of delivery, from `open` to `close`: between the log, the courier and the file.

Entries come in through `take`, errands (what is due, and what a person asked for) from the file;
the courier carries them; what it settles is stored a moment later, in one transaction.

Invariant: whatever is lost with the process before it is stored is sent again, and nothing else.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from eventlog import Entry, EventLogError
from projections.alpine.client import Alpine
from projections.alpine.contract import body_of
from projections.alpine.credentials import KeySource
from projections.alpine.retry import Timing
from projections.delivery import outbox as file
from projections.delivery.ack_tracker import Ledger
from projections.delivery.dispatcher import Courier, State
from projections.delivery.job import Delivered, Errand, Kept, Outcome, Parcel, Park, parked_row
from projections.delivery.outbox import Outbox, Unsaved
from projections.delivery.resends import Errands, read_signals
from projections.sqlite.file import is_damage, set_aside

logger = logging.getLogger(__name__)

WINDOW_MAX = 1_000  # signals taken over and not done: a hundred times what is under way
SPAN_MAX = 200_000  # entries above the checkpoint: bounds memory while one signal does not pass
FLUSH_S = 0.05  # what is done is stored so soon; a crash in between costs a repeated request
FLUSH_FAILED_S = 1.0  # the same where it could not be stored
BUSY_S_MAX = 0.5  # for somebody else's transaction; then what is done is stored a second later
FAILING_MAX = 1_000  # failing signals that are parked; more are an outage, not signals
STOP_S_MAX = 2.0  # requests under way when asked to stop; then they are abandoned


class Shift:
    """See above. For one event loop; `end` must be called once it was started."""

    def __init__(
        self,
        home: Path,
        outbox: Outbox,
        alpine: Alpine,
        key: KeySource,
        timing: Timing,
        died: Callable[[BaseException], object] | None,
    ) -> None:
        self._home = home
        outbox.wait_at_most(BUSY_S_MAX)
        self._outbox = outbox
        self._alpine = alpine
        self._timing = timing
        self._died = died
        self.ledger = Ledger(outbox.checkpoint(), outbox.done_above())
        self._done_until = max(outbox.done_above(), default=0)
        self._behind: list[Parcel] = []  # not done, and no later signal was seen that is
        self._unsaved = Unsaved()
        self._errands = Errands(self.ledger, self._unsaved.answered)
        self._looking = asyncio.Lock()  # what a look has begun is on its way when it ends
        self._failing = outbox.failing_count()
        rejections = outbox.state()["rejections"]
        assert isinstance(rejections, int)
        self._courier = Courier(
            alpine,
            settled=self._settled,
            said=self._said,
            may_park=lambda: self._failing < FAILING_MAX,
            key_has_changed=key.has_changed,
            timing=timing,
            rejections=rejections,
        )
        self._last_error: str | None = None
        self._is_changed = asyncio.Event()  # since the last save
        self._is_full = False  # the last save failed
        self.file_lost = asyncio.Event()  # what it said is unknown: delivery must begin anew
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to deliver."""
        self._task = asyncio.create_task(self._live(), name="delivery")
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Sends nothing more."""
        self._courier.stop()

    async def end(self) -> None:
        """Waits a little for answers under way, stores what is done, gives everything back."""
        assert self._task is not None, "it was started"
        self._courier.stop()
        try:
            await asyncio.wait({self._task}, timeout=STOP_S_MAX)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._alpine.close()
        finally:
            self._flush()
            with suppress(sqlite3.Error):
                self._outbox.say(state=file.STOPPED, last_error=self._last_error)
            self._outbox.close()

    @property
    def described(self) -> str:
        """State and last error, for a message."""
        state = str(self._courier.state)
        return f"{state}, {self._last_error}" if self._last_error else state

    def figures(self) -> dict[str, object]:
        """What status shows of the file."""
        return self._outbox.figures()

    def take(self, entries: Sequence[Entry]) -> None:
        """Takes a batch of the log over."""
        parcels: list[Parcel] = []
        for entry in entries:
            self.ledger.take(entry.seq, entry.chain)
            if self.ledger.is_done(entry.seq):
                if entry.event == "signal" and self._behind and self._parked(entry.seq) is None:
                    for parcel in self._behind:
                        parcel.was_overtaken = True
                    self._behind.clear()
                continue
            if entry.event == "signal":
                packed = self._packed(entry)
                parcels += packed
                if entry.seq < self._done_until:
                    self._behind += packed
            else:
                self.ledger.finish(entry.seq)
        self.ledger.move_on()
        self._is_changed.set()
        self._courier.add(parcels)

    def _packed(self, entry: Entry, errand: Errand | None = None) -> list[Parcel]:
        """The signal as a parcel; none, but a parked row, for what Alpine could only refuse."""
        parcel = Parcel(
            seq=entry.seq,
            signal_id=str(entry.payload.get("signal_id")),
            body=b"",
            errand=errand,
        )
        try:
            parcel.body = body_of(entry.payload)
            return [parcel]
        except KeyError as error:  # it was not written through the door
            what = f"it is no whole signal: {error} is missing"
            self._settled(parcel, Park(kind=file.REFUSED, status=None, body=what))
            return []

    async def is_there_room(self) -> bool:
        """Waits until another batch may be taken, or it is stopped; False: nothing passes."""
        courier = self._courier

        def is_room() -> bool:
            return courier.backlog < WINDOW_MAX and self.ledger.span <= SPAN_MAX

        await courier.changes.until(lambda: courier.is_stopped or not courier.is_open or is_room())
        self._raise_if_dead()
        return courier.is_stopped or is_room()

    async def drain(self) -> int:
        """Returns when all is done, or nothing passes: how many are left. 0 when stopped."""
        courier = self._courier
        while True:
            await self._tick()
            await courier.until_idle_or_stuck()
            await self._wait_for_probes()
            self._raise_if_dead()
            self._flush()
            if courier.is_stopped:
                return 0
            if courier.outstanding and courier.is_open:
                continue  # it passes again
            if courier.outstanding or not (self._looking.locked() or self._is_more_asked()):
                return courier.outstanding

    async def _wait_for_probes(self) -> None:
        """While nothing passes, for a time: a short outage ends, and who is to blame is found."""
        courier = self._courier
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.once_s):
                while courier.state is State.WAITING and not courier.is_stopped:
                    await courier.changes.until(
                        lambda: courier.is_stopped or courier.state is not State.WAITING
                    )

    def _is_more_asked(self) -> bool:
        with suppress(sqlite3.Error):
            return not self.file_lost.is_set() and self._errands.is_any_asked(self._outbox)
        return False

    # -- the tasks

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._keep_flushing()),
                group.create_task(self._keep_ticking()),
            ]
            await self._courier.run()
            for helper in helpers:
                helper.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._courier.stop()  # whoever waits for it must not wait for ever
        logger.error("delivery_died error=%s", _innermost(error))
        if self._died is not None:
            self._died(_innermost(error))

    def _raise_if_dead(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            if error is not None:
                raise _innermost(error)

    async def _keep_flushing(self) -> None:
        while True:
            await self._is_changed.wait()
            await asyncio.sleep(FLUSH_FAILED_S if self._is_full else FLUSH_S)
            self._flush()

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(self._timing.tick_s)
            await self._tick()

    async def _tick(self) -> None:
        """Looks at what is due, and at what was asked for."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        self._flush()  # what was parked a moment ago can be asked for
        if self.file_lost.is_set():
            return
        try:
            self._failing = self._outbox.failing_count()
            errands = self._errands.collect(self._outbox, with_due=self._courier.is_open)
        except sqlite3.Error as error:
            logger.debug("errands_not_read error=%s", error)  # the next save says what is wrong
            return
        if self._unsaved.answered:
            self._is_changed.set()
        if not errands:
            return
        try:
            found = await asyncio.to_thread(read_signals, self._home, errands)
        except EventLogError as error:
            logger.warning("errands_not_read error=%s", error)
            found = {}
        for seq in errands.keys() - found.keys():
            self._errands.ended(seq, file.GONE)
        for seq in sorted(found):
            self._courier.add(self._packed(found[seq], errands[seq]))
        if Errand.RETRY in errands.values():
            self._courier.nudge()

    # -- what is settled

    def _settled(self, parcel: Parcel, outcome: Outcome) -> None:
        seq = parcel.seq
        is_new = self.ledger.finish(seq)
        match outcome:
            case Delivered(is_duplicate=is_duplicate):
                self._errands.ended(seq, file.DUPLICATE if is_duplicate else file.STORED)
                was_parked = parcel.errand is not None and self._parked(seq) is not None
                self._unsaved.delivered += is_new or was_parked
                if was_parked:
                    self._unsaved.park.pop(seq, None)
                    self._unsaved.unpark.add(seq)
            case Park() | Kept():
                self._errands.ended(seq, file.PARKED)
                self._park(parcel, outcome)
        self.ledger.move_on()
        self._is_changed.set()

    def _park(self, parcel: Parcel, outcome: Park | Kept) -> None:
        old = self._parked(parcel.seq) if parcel.errand is not None else None
        if parcel.is_parked and (old is None or old.kind == file.DISCARDED):
            return  # a person gave it up meanwhile
        row = parked_row(parcel, outcome, old, now_s=time.time(), timing=self._timing)
        self._unsaved.unpark.discard(parcel.seq)
        self._unsaved.park[parcel.seq] = row
        was_failing = old is not None and old.kind == file.FAILING
        self._failing += (row.kind == file.FAILING) - was_failing
        if old is None or old.kind != row.kind:
            logger.warning("parked seq=%d kind=%s status=%s", row.seq, row.kind, row.status)

    def _parked(self, seq: int) -> file.Parked | None:
        if seq in self._unsaved.unpark:
            return None
        with suppress(sqlite3.Error):
            return self._unsaved.park.get(seq) or self._outbox.parked(seq)
        return None

    def _said(self, state: State, error: str | None) -> None:
        self._last_error = error
        with suppress(sqlite3.Error):
            self._outbox.say(state=str(state), last_error=error)

    # -- the file

    def _flush(self) -> None:
        """Stores what was done since; while the disk is full it is kept, and tried again."""
        if self.file_lost.is_set():
            return
        if not self._outbox.is_in_place():
            self._begin_anew("it was deleted or replaced")
            return
        if not self._is_changed.is_set():
            return
        self._is_changed.clear()
        try:
            self._outbox.save(
                self.ledger.checkpoint,
                self.ledger.unsaved,
                self._unsaved,
                self._courier.rejections,
            )
        except sqlite3.Error as error:
            if is_damage(error):
                self._outbox.close()
                set_aside(file.outbox_path(self._home))
                self._begin_anew(str(error))
                return
            if not self._is_full:
                logger.warning("delivery_not_stored error=%s", error)
            self._is_full = True
            self._is_changed.set()
            return
        if self._is_full:
            logger.warning("delivery_stored_again")
        self._is_full = False
        self.ledger.unsaved.clear()
        self._unsaved.clear()

    def _begin_anew(self, why: str) -> None:
        """Makes an empty file, so that status tells the truth; delivery begins from seq 1."""
        logger.warning("delivery_state_lost reason=%s: all is sent again", why)
        self.file_lost.set()
        self._outbox.close()
        with suppress(sqlite3.Error, OSError):
            self._outbox = Outbox.open(file.outbox_path(self._home))
            self._outbox.wait_at_most(BUSY_S_MAX)
            self._outbox.say(state=str(self._courier.state), last_error=self._last_error)


def _innermost(error: BaseException) -> BaseException:
    """What one of the tasks raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
