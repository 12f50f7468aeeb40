"""Who is sent to Alpine next, and whose fault it is when it does not pass.

States, and what leads from one to the next:

    delivering  up to ten signals under way, each with a few retries
      -> waiting    a signal has used up its retries, and nothing tells that others pass
      -> refused    401, 403, 404 or a redirect, or there is no key: the key or the address is wrong
      -> rejecting  20 signals in a row were refused as invalid, none accepted
    waiting     probes at a growing interval, each with other signals and one more each round
    refused, rejecting   one probe every 15 minutes, or at once when the key changes
      -> delivering when a probe passes, or is judged on its own

A signal that Alpine calls invalid is parked as `refused`; one that is itself to blame for not
passing (fault.py) as `failing`. In an outage nothing is parked.

Invariant: each parcel that was taken ends in exactly one call of `settled`, however often it was
sent, unless delivery is stopped before.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from functools import partial

from projections.alpine.client import IN_FLIGHT_MAX, Alpine
from projections.alpine.contract import (
    DOWN,
    FAILING,
    REFUSED,
    Accepted,
    Answer,
    Duplicate,
    Rejected,
    Unavailable,
)
from projections.alpine.retry import Timing, patiently
from projections.delivery.job import Delivered, Errand, Kept, Outcome, Parcel, Park
from projections.delivery.poison import Faults
from projections.runtime.condition import Changes

logger = logging.getLogger(__name__)

REJECTIONS_MAX = 20  # in a row: then it is not the signals
ERRANDS_IN_FLIGHT_MAX = 3  # of the ten places: what is sent again holds up nothing new


class State(StrEnum):
    """What delivery is doing; the words of `eventlog status`."""

    DELIVERING = "delivering"
    WAITING = "waiting"
    REFUSED = "refused"
    REJECTING = "rejecting"


class Courier:
    """Sends parcels through one client. For one event loop.

    `settled` is called for each parcel that is done; `said` when the state or the last error
    changes. `may_park` says whether one more failing signal may be parked. `rejections`: how many
    in a row an earlier courier has seen.
    """

    def __init__(
        self,
        alpine: Alpine,
        *,
        settled: Callable[[Parcel, Outcome], object],
        said: Callable[[State, str | None], object],
        may_park: Callable[[], bool],
        key_has_changed: Callable[[], bool],
        timing: Timing | None = None,
        rejections: int = 0,
    ) -> None:
        self._alpine = alpine
        self._settled = settled
        self._said = said
        self._faults = Faults(alpine, may_park)
        self._key_has_changed = key_has_changed
        self._timing = timing or Timing()
        self._pending: deque[Parcel] = deque()
        self._errands: deque[Parcel] = deque()
        self._under_way = 0
        self._errands_under_way = 0
        self._places = 1  # until one answer shows that the key is not refused
        self._stopped = False
        self._is_nudged = False
        self._halt = asyncio.Event()  # set while nothing may be sent but probes
        self._hold_until_s = 0.0  # the server asked to be left alone so long
        self._last_said: tuple[State, str | None] | None = None
        self.changes = Changes()
        self.rejections = rejections
        self.state = State.DELIVERING

    @property
    def outstanding(self) -> int:
        """Parcels that are not settled."""
        return len(self._errands) + self.backlog

    @property
    def backlog(self) -> int:
        """The same without errands that have not begun."""
        return len(self._pending) + self._under_way

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped

    @property
    def is_open(self) -> bool:
        """Whether more than probes is sent."""
        return self.state is State.DELIVERING

    def add(self, parcels: Iterable[Parcel]) -> None:
        """Takes parcels, in their order."""
        for parcel in parcels:
            (self._pending if parcel.errand is None else self._errands).append(parcel)
        self.changes.happened()

    def nudge(self) -> None:
        """Probes now, if nothing but probes is sent: a person has mended something."""
        self._is_nudged = not self.is_open
        self.changes.happened()

    def stop(self) -> None:
        """Ends `run`: nothing more is sent, and answers under way are waited for."""
        self._stopped = True
        self._halt.set()
        self.changes.happened()

    async def run(self) -> None:
        """Delivers until stopped. To abandon requests under way, cancel it."""
        self._say(self.state, None)
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT_MAX):
                group.create_task(self._work())
            group.create_task(self._probe_while_closed())

    async def until_idle_or_stuck(self) -> None:
        """Returns when nothing is outstanding, when nothing but probes is sent, or when stopped."""
        await self.changes.until(lambda: self._stopped or not self.outstanding or not self.is_open)

    # -- one signal

    async def _work(self) -> None:
        while not self._stopped:
            parcel = self._take()
            if parcel is None:
                await self.changes.until(lambda: self._stopped or self._has_work())
                continue
            try:
                answer = await self._send(parcel)
                if self._is_wanted(answer):
                    await self._judge(parcel, answer)
            finally:
                self._put_down(parcel)

    def _is_wanted(self, answer: Answer) -> bool:
        """Once stopped, only what passed counts: the rest is sent again after the next start."""
        return not self._stopped or isinstance(answer, Accepted | Duplicate)

    def _has_work(self) -> bool:
        if not self.is_open or self._under_way >= self._places:
            return False
        return bool(self._pending) or self._may_run_errand()

    def _may_run_errand(self) -> bool:
        return bool(self._errands) and self._errands_under_way < ERRANDS_IN_FLIGHT_MAX

    def _take(self) -> Parcel | None:
        if not self._has_work():
            return None
        from_errands = self._may_run_errand()
        return self._pick_up((self._errands if from_errands else self._pending).popleft())

    def _pick_up(self, parcel: Parcel) -> Parcel:
        self._under_way += 1
        self._errands_under_way += parcel.errand is not None
        return parcel

    def _put_down(self, parcel: Parcel) -> None:
        self._under_way -= 1
        self._errands_under_way -= parcel.errand is not None
        self.changes.happened()

    async def _send(self, parcel: Parcel) -> Answer:
        parcel.round_failed_at = None
        if parcel.errand is Errand.DUE:  # it has failed so often that one try is enough
            return await self._try(parcel)
        return await patiently(partial(self._try, parcel), self._timing.patience, self._halt)

    async def _try(self, parcel: Parcel, *, is_probe: bool = False) -> Answer:
        """One try, and what it tells about whose fault a failure is."""
        if self._hold_until_s:
            await self._hold()
            if self._stopped or not (self.is_open or is_probe):
                return Unavailable(kind=DOWN, status=None, detail="it was not its turn any more")
        parcel.attempts += 1
        tried = self._faults.begins()
        answer = await self._alpine.send(parcel.body)
        self._faults.ended(parcel, tried, answer)
        if isinstance(answer, Unavailable) and answer.retry_after_s:
            until_s = time.monotonic() + answer.retry_after_s
            self._hold_until_s = max(self._hold_until_s, until_s)
        is_refused = isinstance(answer, Unavailable) and answer.kind == REFUSED
        if self._places != IN_FLIGHT_MAX and not is_refused:
            self._places = IN_FLIGHT_MAX
            self.changes.happened()
        return answer

    async def _hold(self) -> None:
        while not self._stopped:
            left_s = self._hold_until_s - time.monotonic()
            if left_s <= 0:
                self._hold_until_s = 0.0
                return
            await self._pause(left_s)

    # -- what an answer leads to

    async def _judge(self, parcel: Parcel, answer: Answer) -> None:
        match answer:
            case Accepted() | Duplicate():
                self._passes(parcel, answer)
            case _ if parcel.is_parked:
                self._stays_parked(parcel, answer)
            case Rejected():
                self._rejects(parcel, answer)
            case Unavailable(kind=kind) if kind == REFUSED:
                self._put_back(parcel)
                self._places = 1
                self._turn(State.REFUSED, answer.detail)
            case Unavailable():
                await self._does_not_pass(parcel, answer)

    def _passes(self, parcel: Parcel, answer: Accepted | Duplicate) -> None:
        self.rejections = 0
        self._settled(parcel, Delivered(is_duplicate=isinstance(answer, Duplicate)))
        self._turn(State.DELIVERING, None)

    def _rejects(self, parcel: Parcel, answer: Rejected) -> None:
        detail = f"{REJECTIONS_MAX} rejections in a row: {answer.status} {answer.body}"
        if self.rejections >= REJECTIONS_MAX:
            self._put_back(parcel, behind=True)
            self._turn(State.REJECTING, detail)
            return
        self.rejections += 1
        self._settled(parcel, Park(kind=REFUSED, status=answer.status, body=answer.body))
        if self.rejections >= REJECTIONS_MAX:
            self._turn(State.REJECTING, detail)
        else:
            self._turn(State.DELIVERING, None)  # it answers, and judges: it is there

    def _stays_parked(self, parcel: Parcel, answer: Rejected | Unavailable) -> None:
        """Nothing that is parked decides about the others, but for what says that none can pass."""
        match answer:
            case Rejected(status=status, body=body):
                self._settled(parcel, Park(kind=REFUSED, status=status, body=body))
                if self.state in (State.WAITING, State.REFUSED):
                    self._turn(State.DELIVERING, None)
            case Unavailable(kind=kind, status=status, detail=detail) if kind == FAILING:
                self._settled(parcel, Park(kind=FAILING, status=status, body=detail))
            case Unavailable(kind=kind, status=status, detail=detail):
                self._settled(parcel, Kept(kind=FAILING, status=status, body=detail))
                if kind == REFUSED:
                    self._places = 1
                    self._turn(State.REFUSED, detail)

    async def _does_not_pass(self, parcel: Parcel, answer: Unavailable) -> None:
        if not self.is_open:  # others have found out meanwhile; its retries were cut short
            self._put_back(parcel)
        elif await self._faults.is_its_own(parcel, answer, is_alone=False):
            self._settled(parcel, Park(kind=FAILING, status=answer.status, body=answer.detail))
        elif parcel.have_others_passed_in_round:
            self._put_back(parcel, behind=True)
        else:
            self._put_back(parcel)
            if self.is_open:
                self._turn(State.WAITING, answer.detail)

    def _put_back(self, parcel: Parcel, *, behind: bool = False) -> None:
        queue = self._pending if parcel.errand is None else self._errands
        (queue.append if behind else queue.appendleft)(parcel)

    def _turn(self, state: State, error: str | None) -> None:
        if state is not self.state:
            level = logging.INFO if state is State.DELIVERING else logging.WARNING
            logger.log(level, "delivery_state state=%s error=%s", state, error)
        self.state = state
        if self.is_open and not self._stopped:
            self._halt.clear()
        else:
            self._halt.set()
        self._say(state, error)
        self.changes.happened()

    def _say(self, state: State, error: str | None) -> None:
        if (state, error) != self._last_said:
            self._last_said = (state, error)
            self._said(state, error)

    # -- probes

    async def _probe_while_closed(self) -> None:
        while not self._stopped:
            await self.changes.until(lambda: self._stopped or not self.is_open)
            if self.state is State.WAITING:
                await self._probe_until_it_passes()
            elif not self.is_open:
                await self._probe_slowly(self.state)

    async def _probe_until_it_passes(self) -> None:
        interval_s, count = self._timing.probe_s_min, 1
        while await self._pause_in(State.WAITING, interval_s):
            await self._probe(count)
            interval_s = min(1.5 * interval_s, self._timing.probe_s_max)
            count = min(count + 1, IN_FLIGHT_MAX)

    async def _probe_slowly(self, state: State) -> None:
        due_s = time.monotonic() + self._timing.slow_probe_s
        while await self._pause_in(state, self._timing.key_poll_s):
            if self._is_nudged or self._key_has_changed() or time.monotonic() >= due_s:
                await self._probe(1)
                return

    async def _pause_in(self, state: State, seconds: float) -> bool:
        """Waits, or until nudged; False when the state is another one by then."""
        await self._pause(seconds, lambda: self._is_nudged or self.state is not state)
        return self.state is state and not self._stopped

    async def _probe(self, count: int) -> None:
        """One try each at `count` signals; those that were never tried before come first."""
        self._is_nudged = False
        parcels = [self._pick_up(parcel) for parcel in self._choose(count)]
        if not parcels:
            if not self._under_way:
                self._turn(State.DELIVERING, None)  # nothing is left that did not pass
            return
        try:
            tries = (self._try(parcel, is_probe=True) for parcel in parcels)
            answers = await asyncio.gather(*tries)
            for parcel, answer in zip(parcels, answers, strict=True):
                if self._is_wanted(answer):
                    await self._judge_probe(parcel, answer, parcels)
        finally:
            for parcel in parcels:
                self._put_down(parcel)

    def _candidates(self) -> list[Parcel]:
        return [*self._pending, *(parcel for parcel in self._errands if not parcel.is_parked)]

    def _choose(self, count: int) -> list[Parcel]:
        candidates = self._candidates() or list(self._errands)
        chosen = sorted(candidates, key=lambda parcel: parcel.attempts > 0)[:count]
        for parcel in chosen:
            (self._pending if parcel.errand is None else self._errands).remove(parcel)
            parcel.round_failed_at = None
        return chosen

    async def _judge_probe(self, parcel: Parcel, answer: Answer, probed: list[Parcel]) -> None:
        if parcel.is_parked or not isinstance(answer, Unavailable) or answer.kind == REFUSED:
            await self._judge(parcel, answer)
            return
        # What others overtook before a restart is no other that could pass: after a kill a few that
        # are to blame would wait for each other until something new comes.
        others = [other for other in (*probed, *self._candidates()) if other is not parcel]
        is_alone = self._under_way == len(probed) and all(p.was_overtaken for p in others)
        if await self._faults.is_its_own(parcel, answer, is_alone=is_alone):
            self._settled(parcel, Park(kind=FAILING, status=answer.status, body=answer.detail))
            self._turn(State.DELIVERING, None)
            return
        self._put_back(parcel, behind=True)
        if not self.is_open:
            self._turn(State.WAITING, answer.detail)

    async def _pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changes.until(lambda: self._stopped or is_over())
