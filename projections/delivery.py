"""The projection that delivers signals to Alpine: at least once, with the hash as idempotency key.

It shares the daemon loop with the others, but its effect takes longer than `apply`: `apply` only
takes a batch over, in memory, and returns. What is stored is a checkpoint below which all is done
(delivered, parked, or no signal), and the seqs above it that are done. The checkpoint that `open`
returns is that one, so after a restart the loop gives the entries above it again, and those that
are done already are passed over. There is one sender a home, by flock on `data/alpine.lock`; a
second daemon stands by until the first one ends.

Invariant: no entry is below the stored checkpoint before Alpine has answered for it, or parked it.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eventlog import Entry, EventLog
from projections import outbox
from projections.alpine import AlpineClient, body_of
from projections.courier import Courier, Delivered, Outcome, Parcel, Park, State, Timing
from projections.errors import ProjectionStalled
from projections.keys import KeySource
from projections.outbox import Outbox, Parked, outbox_path
from projections.projection import Checkpoint

logger = logging.getLogger(__name__)

NAME = outbox.NAME
DISABLED, STOPPED, STANDBY = "disabled", "stopped", "standby"
WINDOW_MAX = 1_000  # signals taken over and not done: a hundred times what is under way
SPAN_MAX = 200_000  # entries above the checkpoint: bounds memory while one signal does not pass
FLUSH_S = 0.02  # what is done is stored so often; a crash in between costs a repeated request
FLUSH_ENTRIES_MAX = 200
TICK_S = 0.5  # between two looks at what is due, or was asked for
STANDBY_POLL_S = 0.5
FAILING_MAX = 1_000  # failing signals that are parked; more are an outage, not signals
FAILING_RETRY_S_FIRST, FAILING_RETRY_S_MAX = 60.0, 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpineConfig:
    """Where Alpine is; `disabled` says why nothing is sent."""

    url: str
    key: KeySource
    disabled: str | None = None


class _Slot(NamedTuple):
    """An entry above the checkpoint."""

    seq: int
    chain: str


class AlpineProjection:
    """Delivers the signals of one home."""

    name = NAME

    def __init__(self, config: AlpineConfig, *, timing: Timing | None = None) -> None:
        self._config = config
        self._timing = timing
        self._stopping = asyncio.Event()

    async def open(self, home: Path) -> Checkpoint:
        """Waits until no other daemon sends; returns the checkpoint below which all is done."""
        self._home = home
        self._lock_fd = await self._take_lock(home)
        self._outbox = Outbox(outbox_path(home))
        self._checkpoint = self._outbox.checkpoint()
        self._done = self._outbox.done_above()
        self._fresh_done: set[int] = set()  # not stored yet
        self._park: dict[int, Parked] = {}
        self._unpark: set[int] = set()
        self._delivered = 0
        self._window: deque[_Slot] = deque()
        self._extra: dict[int, int] = {}  # seq of what was asked for or is due: id of the request
        self._failing = len(self._outbox.parked(outbox.FAILING))
        self._tasks: list[asyncio.Task[None]] = []
        if self._config.disabled is not None:
            logger.warning("delivery_disabled reason=%s", self._config.disabled)
            self._outbox.say(state=DISABLED, last_error=self._config.disabled)
            return self._checkpoint
        self._client = AlpineClient(self._config.url, self._config.key)
        self._courier = Courier(
            self._client,
            settled=self._settled,
            said=self._said,
            may_park=lambda: self._failing < FAILING_MAX,
            key_stamp=self._config.key.stamp,
            timing=self._timing,
        )
        self._said(State.DELIVERING, None)
        self._tasks = [
            asyncio.create_task(self._courier.run(), name="courier"),
            asyncio.create_task(self._keep_flushing(), name="flush"),
            asyncio.create_task(self._keep_ticking(), name="tick"),
        ]
        return self._checkpoint

    async def apply(
        self,
        entries: Sequence[Entry],
        *,
        before: Checkpoint,  # noqa: ARG002  # what is stored is what is done, not what was taken
        after: Checkpoint,  # noqa: ARG002
    ) -> None:
        """Takes a batch over; waits while too much is not done. See the module's docstring."""
        if self._config.disabled is not None:
            await self._stopping.wait()
        parcels: list[Parcel] = []
        for entry in entries:
            self._window.append(_Slot(entry.seq, entry.chain))
            parcel = _parcel(entry) if entry.seq not in self._done else None
            if parcel is None:
                self._done.add(entry.seq)
            else:
                parcels.append(parcel)
        await self._courier.add(parcels)
        self._move_on()
        while len(self._window) > SPAN_MAX and not self._stopping.is_set():
            self._raise_of_tasks()
            await asyncio.sleep(TICK_S)
        await self._courier.wait_for_room(WINDOW_MAX)
        self._raise_of_tasks()
        if self._stopping.is_set():
            raise ProjectionStalled("delivery was asked to stop")

    async def drain(self) -> None:
        """Returns when all that was taken is done; ProjectionStalled when nothing passes."""
        if self._config.disabled is not None:
            raise ProjectionStalled(
                f"nothing is delivered: {self._config.disabled}", where=str(self._home)
            )
        await self._tick()
        await self._courier.wait_until_idle_or_stuck()
        self._flush()
        self._raise_of_tasks()
        if self._courier.outstanding and not self._stopping.is_set():
            raise ProjectionStalled(
                f"{self._courier.outstanding} signals are not delivered: {self._courier.state}",
                where=self._config.url,
                do="see `eventlog status`; a daemon (`eventlog project alpine`) goes on trying",
            )

    def stop(self) -> None:
        """Whatever waits in here returns soon."""
        self._stopping.set()
        if getattr(self, "_courier", None) is not None:
            self._stop_task = asyncio.ensure_future(self._courier.stop())

    async def status(self) -> Mapping[str, object]:
        """What the file says; lags are added by `eventlog status`."""
        return self._outbox.figures()

    async def close(self) -> None:
        """Abandons what is under way, stores what is done, and lets another daemon send."""
        if self._tasks:
            await self._courier.stop()
            _, late = await asyncio.wait(self._tasks[:1], timeout=1.0)
            for task in (*late, *self._tasks[1:]):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._flush()
            await self._client.close()
        self._outbox.say(state=STOPPED)
        self._outbox.close()
        os.close(self._lock_fd)

    async def _take_lock(self, home: Path) -> int:
        path = home / "data" / "alpine.lock"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        is_said = False
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                except BlockingIOError:
                    if not is_said:
                        logger.warning("standby another daemon delivers home=%s", home)
                        is_said = True
                await asyncio.sleep(STANDBY_POLL_S)
        except BaseException:
            os.close(fd)
            raise

    # -- what is done

    def _settled(self, parcel: Parcel, outcome: Outcome) -> None:
        seq = parcel.seq
        match outcome:
            case Delivered():
                self._delivered += 1
                self._unpark.add(seq)
                self._park.pop(seq, None)
            case Park():
                self._park_parcel(parcel, outcome)
        self._extra.pop(seq, None)
        if seq > self._checkpoint.seq and seq not in self._done:
            self._done.add(seq)
            self._fresh_done.add(seq)
            self._move_on()
        if isinstance(outcome, Park) or len(self._fresh_done) >= FLUSH_ENTRIES_MAX:
            self._flush()

    def _park_parcel(self, parcel: Parcel, outcome: Park) -> None:
        now_s = time.time()
        old = next((p for p in self._outbox.parked() if p.seq == parcel.seq), None)
        attempts = parcel.attempts + (old.attempts if old is not None else 0) or 1
        next_at = None
        if outcome.kind == outbox.FAILING:
            tries = min(attempts.bit_length() + 2 * attempts, 30)
            delay_s = FAILING_RETRY_S_FIRST * 2 ** min(tries // 4, 20)
            next_at = now_s + min(delay_s, FAILING_RETRY_S_MAX)
            self._failing += 1 if old is None or old.kind != outbox.FAILING else 0
        self._unpark.discard(parcel.seq)
        self._park[parcel.seq] = Parked(
            parcel.seq,
            parcel.signal_id,
            outcome.kind,
            outcome.status,
            outcome.body,
            attempts,
            old.first_at if old is not None else now_s,
            now_s,
            next_at,
        )
        logger.warning("parked seq=%d kind=%s status=%s", parcel.seq, outcome.kind, outcome.status)

    def _move_on(self) -> None:
        """Moves the checkpoint over what is done without a gap."""
        last = None
        while self._window and self._window[0].seq in self._done:
            last = self._window.popleft()
            self._done.discard(last.seq)
            self._fresh_done.discard(last.seq)
        if last is not None:
            self._checkpoint = Checkpoint(projection=NAME, seq=last.seq, chain=last.chain)

    def _flush(self) -> None:
        """Stores what was done since; when the disk is full it is kept, and tried again."""
        try:
            self._outbox.save(
                self._checkpoint,
                done=self._fresh_done,
                park=self._park.values(),
                unpark=self._unpark,
                delivered=self._delivered,
            )
        except sqlite3.Error as error:
            logger.warning("delivery_not_stored error=%s", error)
            return
        self._fresh_done.clear()
        self._park.clear()
        self._unpark.clear()
        self._delivered = 0

    def _said(self, state: State, error: str | None) -> None:
        with suppress(sqlite3.Error):
            self._outbox.say(state=str(state), last_error=error)

    def _raise_of_tasks(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _keep_flushing(self) -> None:
        stored = self._checkpoint.seq
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._fresh_done or self._delivered or self._checkpoint.seq != stored:
                self._flush()
                stored = self._checkpoint.seq

    # -- what is due, and what was asked for

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            with suppress(sqlite3.Error):
                await self._tick()

    async def _tick(self) -> None:
        seqs: list[int] = []
        for number, what, seq in self._outbox.asked():
            if what == outbox.DISCARD:
                self._outbox.discard(seq)
                self._outbox.answered([number])
            elif seq not in self._extra and len(self._extra) < WINDOW_MAX:
                self._extra[seq] = number
                seqs.append(seq)
                self._outbox.answered([number])
        if self._courier.state is State.DELIVERING:
            for parked in self._outbox.due(time.time(), WINDOW_MAX):
                if parked.seq not in self._extra:
                    self._extra[parked.seq] = 0
                    seqs.append(parked.seq)
        self._failing = len(self._outbox.parked(outbox.FAILING))
        if seqs:
            await self._courier.add(await asyncio.to_thread(self._read_parcels, seqs))

    def _read_parcels(self, seqs: list[int]) -> list[Parcel]:
        found: list[Parcel] = []
        with EventLog(self._home) as log:
            for seq in seqs:
                entry = next(log.read(after=seq - 1), None)
                parcel = _parcel(entry) if entry is not None and entry.seq == seq else None
                if parcel is not None:
                    found.append(parcel)
        return found


def _parcel(entry: Entry) -> Parcel | None:
    """A signal as it is sent; None for another event, or for what is no whole signal."""
    if entry.event != "signal":
        return None
    try:
        body = body_of(entry.payload)
    except KeyError:
        return None  # not written through the door: Alpine could only refuse it
    return Parcel(seq=entry.seq, signal_id=str(entry.payload["signal_id"]), body=body)
