"""Who is sent to Alpine next, and whose fault it is when it does not pass.

States, and what leads from one to the next:

    delivering  up to ten signals under way, each with a few retries
      -> waiting    a signal ran out of retries, and none has passed since it first failed
      -> refused    401, 403, 404 or a redirect: the key or the address is wrong
      -> rejecting  20 signals in a row were refused as invalid, none accepted
    waiting     probes at a growing interval, each with another signal and one more each round
      -> delivering when one passes
    refused, rejecting   one probe every 15 minutes, or at once when the key changes
      -> delivering when one passes

A signal is parked as `refused` when Alpine calls it invalid, and as `failing` when it keeps failing
while others pass. In an outage nothing is parked.

Invariant: each signal that was taken ends in exactly one call of `settled`, however often it was
sent.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from projections.alpine import (
    DOWN,
    FAILING,
    IN_FLIGHT_MAX,
    REFUSED,
    Accepted,
    AlpineClient,
    Answer,
    Duplicate,
    Rejected,
    Unavailable,
)

logger = logging.getLogger(__name__)

REJECTIONS_MAX = 20  # in a row: then it is not the signals
ROUNDS_MAX = 5  # through all retries without an answer, while others pass: then it is the signal


class State(StrEnum):
    """What delivery is doing; the words of `eventlog status`."""

    DELIVERING = "delivering"
    WAITING = "waiting"
    REFUSED = "refused"
    REJECTING = "rejecting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The intervals of probes, in seconds."""

    probe_s_min: float = 5.0
    probe_s_max: float = 60.0
    slow_probe_s: float = 900.0
    key_poll_s: float = 1.0


@dataclass(slots=True, kw_only=True)
class Parcel:
    """One signal on its way."""

    seq: int
    signal_id: str
    body: bytes
    attempts: int = 0
    rounds: int = 0  # through all retries, while others passed
    passed_at_failure: int | None = None  # how many had passed when it first failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Alpine has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """It is put aside: invalid (REFUSED) or never passing (FAILING)."""

    kind: str
    status: int | None
    body: str


Outcome = Delivered | Park
Settled = Callable[[Parcel, Outcome], object]


class Courier:
    """Sends parcels through one client. For one event loop.

    `settled` is called for each parcel that is done; `said` when the state or the last error
    changes. `may_park` says whether one more failing signal may be parked.
    """

    def __init__(
        self,
        client: AlpineClient,
        *,
        settled: Settled,
        said: Callable[[State, str | None], object],
        may_park: Callable[[], bool],
        key_stamp: Callable[[], object],
        timing: Timing | None = None,
    ) -> None:
        self._client = client
        self._settled = settled
        self._said = said
        self._may_park = may_park
        self._key_stamp = key_stamp
        self._timing = timing or Timing()
        self._pending: deque[Parcel] = deque()
        self._under_way = 0
        self._passed = 0
        self._rejections = 0
        self._changed = asyncio.Condition()
        self._stop = asyncio.Event()
        self._asked_wait_s = 0.0  # by the server's last Retry-After
        self.state = State.DELIVERING

    @property
    def outstanding(self) -> int:
        """Parcels that are not settled."""
        return len(self._pending) + self._under_way

    async def add(self, parcels: list[Parcel]) -> None:
        """Takes parcels, in their order."""
        self._pending.extend(parcels)
        await self._wake()

    async def run(self) -> None:
        """Delivers until stopped; what is under way then is abandoned, and sent again later."""
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT_MAX):
                group.create_task(self._work())
            group.create_task(self._probe_while_closed())

    async def stop(self) -> None:
        """Ends `run`."""
        self._stop.set()
        await self._wake()

    async def wait_until_idle_or_stuck(self) -> None:
        """Returns when nothing is outstanding, or delivery has stopped passing."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._stop.is_set() or not self.outstanding or not self._is_open()
            )

    async def wait_for_room(self, count: int) -> None:
        """Returns when fewer than `count` are outstanding, or when stopped."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._stop.is_set() or self.outstanding < count)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _is_open(self) -> bool:
        return self.state is State.DELIVERING

    async def _work(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._stop.is_set() or (self._is_open() and bool(self._pending))
                )
            if self._stop.is_set():
                return
            if not (self._is_open() and self._pending):
                continue  # another worker was faster
            parcel = self._pending.popleft()
            self._under_way += 1
            try:
                answer = await self._client.send_patiently(
                    parcel.body, self._stop, on_failure=partial(self._failed, parcel)
                )
                if not self._stop.is_set() or isinstance(answer, Accepted | Duplicate):
                    self._judge(parcel, answer)
            finally:
                self._under_way -= 1
            await self._wake()

    def _failed(self, parcel: Parcel) -> None:
        parcel.attempts += 1
        if parcel.passed_at_failure is None:
            parcel.passed_at_failure = self._passed

    def _judge(self, parcel: Parcel, answer: Answer) -> None:
        """Whose fault is it? The rule stands in the module's docstring."""
        match answer:
            case Accepted() | Duplicate():
                self._passes(parcel)
            case Rejected():
                self._rejects(parcel, answer)
            case Unavailable(kind=kind) if kind == REFUSED:
                self._pending.appendleft(parcel)
                self._turn(State.REFUSED, answer.detail)
            case Unavailable():
                self._does_not_pass(parcel, answer)

    def _passes(self, parcel: Parcel) -> None:
        self._passed += 1
        self._rejections = 0
        self._settled(parcel, Delivered())
        self._turn(State.DELIVERING, None)

    def _rejects(self, parcel: Parcel, answer: Rejected) -> None:
        if self.state is State.REJECTING or self._rejections >= REJECTIONS_MAX:
            self._pending.append(parcel)
            return
        self._rejections += 1
        self._settled(parcel, Park(kind=REFUSED, status=answer.status, body=answer.body))
        if self._rejections >= REJECTIONS_MAX:
            detail = f"{REJECTIONS_MAX} rejections in a row: {answer.status} {answer.body}"
            self._turn(State.REJECTING, detail)
        elif not self._is_open():
            self._turn(State.DELIVERING, None)  # it answers, and judges: it is there

    def _does_not_pass(self, parcel: Parcel, answer: Unavailable) -> None:
        passed_since = self._passed - (parcel.passed_at_failure or 0)
        if parcel.passed_at_failure is None or passed_since == 0:
            self._pending.appendleft(parcel)
            self._asked_wait_s = answer.retry_after_s or 0.0
            if self.state in (State.DELIVERING, State.WAITING):
                self._turn(State.WAITING, answer.detail)
            return
        parcel.rounds += 1
        if (answer.kind == FAILING or parcel.rounds >= ROUNDS_MAX) and self._may_park():
            self._park_failing(parcel, answer)
        else:
            parcel.passed_at_failure = None
            self._pending.append(parcel)

    def _park_failing(self, parcel: Parcel, answer: Unavailable) -> None:
        self._settled(parcel, Park(kind=FAILING, status=answer.status, body=answer.detail))

    def _turn(self, state: State, error: str | None) -> None:
        if state is not self.state:
            level = logging.INFO if state is State.DELIVERING else logging.WARNING
            logger.log(level, "delivery_state state=%s error=%s", state, error)
        elif error is None or state is State.WAITING:
            return
        self.state = state
        self._said(state, error)

    # -- probes

    async def _probe_while_closed(self) -> None:
        while not self._stop.is_set():
            async with self._changed:
                await self._changed.wait_for(lambda: self._stop.is_set() or not self._is_open())
            if self.state is State.WAITING:
                await self._probe_until_it_passes()
            elif not self._is_open():
                await self._probe_slowly()

    async def _probe_until_it_passes(self) -> None:
        interval_s, count = self._timing.probe_s_min, 1
        while self.state is State.WAITING and not self._stop.is_set():
            await self._pause(max(interval_s, self._asked_wait_s))
            self._asked_wait_s = 0.0
            await self._probe(count)
            interval_s = min(1.5 * interval_s, self._timing.probe_s_max)
            count = min(count + 1, IN_FLIGHT_MAX)

    async def _probe_slowly(self) -> None:
        stamp = self._key_stamp()
        due_s = time.monotonic() + self._timing.slow_probe_s
        while self._key_stamp() == stamp and time.monotonic() < due_s:
            await self._pause(min(self._timing.key_poll_s, self._timing.slow_probe_s))
            if self._stop.is_set():
                return
        await self._probe(1)

    async def _probe(self, count: int) -> None:
        """One try each at `count` signals from the front; what fails goes to the back."""
        parcels = [self._pending.popleft() for _ in range(min(count, len(self._pending)))]
        self._under_way += len(parcels)
        try:
            answers = await asyncio.gather(*(self._client.send(parcel.body) for parcel in parcels))
            for parcel, answer in zip(parcels, answers, strict=True):
                parcel.attempts += 1
                await self._judge_probe(parcel, answer)
        finally:
            self._under_way -= len(parcels)
        await self._wake()

    async def _judge_probe(self, parcel: Parcel, answer: Answer) -> None:
        match answer:
            case Accepted() | Duplicate():
                self._passes(parcel)
            case Rejected():
                self._rejects(parcel, answer)
            case Unavailable(kind=kind):
                alone = not self._pending and self._under_way == 1
                if kind == FAILING and alone and await self._others_would_pass():
                    self._park_failing(parcel, answer)
                    self._turn(State.DELIVERING, None)
                    return
                parcel.passed_at_failure = None
                self._pending.append(parcel)
                self._asked_wait_s = max(self._asked_wait_s, answer.retry_after_s or 0.0)
                if not self._is_open():
                    state = State.REFUSED if kind == REFUSED else State.WAITING
                    self._turn(state, answer.detail)

    async def _others_would_pass(self) -> bool:
        """With one signal alone, the server's health stands for the others."""
        if not self._may_park():
            return False
        return await self._client.is_healthy() and await self._client.is_healthy()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass


__all__ = [
    "DOWN",
    "Courier",
    "Delivered",
    "Outcome",
    "Parcel",
    "Park",
    "State",
    "Timing",
]
