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

Invariant: each parcel that was taken ends in exactly one call of `on_done`, however often it was
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
    Duplicate,
    Rejected,
    SendResult,
    Stored,
    Unavailable,
)
from projections.alpine.retry import DeliveryTiming, send_with_retries
from projections.delivery.job import Delivered, Job, KeepParked, Outcome, Park, ResendReason
from projections.delivery.poison import PoisonDetector
from projections.runtime.condition import Condition

logger = logging.getLogger(__name__)

REJECTIONS_MAX = 20  # in a row: then it is not the signals
RESENDS_IN_FLIGHT_MAX = 3  # of the ten places: what is sent again holds up nothing new


class DeliveryState(StrEnum):
    """What delivery is doing; the words of `eventlog status`."""

    DELIVERING = "delivering"
    WAITING = "waiting"
    REFUSED = "refused"
    REJECTING = "rejecting"


class Dispatcher:
    """Sends parcels through one client. For one event loop.

    `on_done` is called for each parcel that is done; `on_state` when the state or the last error
    changes. `may_park` says whether one more failing signal may be parked. `rejections`: how many
    in a row an earlier courier has seen.
    """

    def __init__(
        self,
        alpine: Alpine,
        *,
        on_done: Callable[[Job, Outcome], object],
        on_state: Callable[[DeliveryState, str | None], object],
        may_park: Callable[[], bool],
        key_has_changed: Callable[[], bool],
        timing: DeliveryTiming | None = None,
        rejections: int = 0,
    ) -> None:
        self._alpine = alpine
        self._on_done = on_done
        self._on_state = on_state
        self._poison_detector = PoisonDetector(alpine, may_park)
        self._key_has_changed = key_has_changed
        self._timing = timing or DeliveryTiming()
        self._pending: deque[Job] = deque()
        self._resends: deque[Job] = deque()
        self._in_flight = 0
        self._resends_in_flight = 0
        self._window_size = 1  # until one answer shows that the key is not refused
        self._stopped = False
        self._is_woken = False
        self._halt = asyncio.Event()  # set while nothing may be sent but probes
        self._retry_after_until_s = 0.0  # the server asked to be left alone so long
        self._last_reported: tuple[DeliveryState, str | None] | None = None
        self.condition = Condition()
        self.rejections = rejections
        self.state = DeliveryState.DELIVERING

    @property
    def outstanding(self) -> int:
        """Parcels that are not settled."""
        return len(self._resends) + self.backlog

    @property
    def backlog(self) -> int:
        """The same without errands that have not begun."""
        return len(self._pending) + self._in_flight

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped

    @property
    def is_open(self) -> bool:
        """Whether more than probes is sent."""
        return self.state is DeliveryState.DELIVERING

    def add(self, jobs: Iterable[Job]) -> None:
        """Takes parcels, in their order."""
        for job in jobs:
            (self._pending if job.resend is None else self._resends).append(job)
        self.condition.notify()

    def wake(self) -> None:
        """Probes now, if nothing but probes is sent: a person has mended something."""
        self._is_woken = not self.is_open
        self.condition.notify()

    def stop(self) -> None:
        """Ends `run`: nothing more is sent, and answers under way are waited for."""
        self._stopped = True
        self._halt.set()
        self.condition.notify()

    async def run(self) -> None:
        """Delivers until stopped. To abandon requests under way, cancel it."""
        self._report_state(self.state, None)
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT_MAX):
                group.create_task(self._send_loop())
            group.create_task(self._probe_while_closed())

    async def until_idle_or_stuck(self) -> None:
        """Returns when nothing is outstanding, when nothing but probes is sent, or when stopped."""
        await self.condition.until(
            lambda: self._stopped or not self.outstanding or not self.is_open
        )

    # -- one signal

    async def _send_loop(self) -> None:
        while not self._stopped:
            job = self._take()
            if job is None:
                await self.condition.until(lambda: self._stopped or self._has_work())
                continue
            try:
                answer = await self._send(job)
                if self._is_wanted(answer):
                    await self._handle_result(job, answer)
            finally:
                self._release(job)

    def _is_wanted(self, answer: SendResult) -> bool:
        """Once stopped, only what passed counts: the rest is sent again after the next start."""
        return not self._stopped or isinstance(answer, Stored | Duplicate)

    def _has_work(self) -> bool:
        if not self.is_open or self._in_flight >= self._window_size:
            return False
        return bool(self._pending) or self._may_run_resend()

    def _may_run_resend(self) -> bool:
        return bool(self._resends) and self._resends_in_flight < RESENDS_IN_FLIGHT_MAX

    def _take(self) -> Job | None:
        if not self._has_work():
            return None
        from_resends = self._may_run_resend()
        return self._acquire((self._resends if from_resends else self._pending).popleft())

    def _acquire(self, job: Job) -> Job:
        self._in_flight += 1
        self._resends_in_flight += job.resend is not None
        return job

    def _release(self, job: Job) -> None:
        self._in_flight -= 1
        self._resends_in_flight -= job.resend is not None
        self.condition.notify()

    async def _send(self, job: Job) -> SendResult:
        job.round_failed_at = None
        if job.resend is ResendReason.DUE:  # it has failed so often that one try is enough
            return await self._try(job)
        return await send_with_retries(
            partial(self._try, job), self._timing.retry_policy, self._halt
        )

    async def _try(self, job: Job, *, is_probe: bool = False) -> SendResult:
        """One try, and what it tells about whose fault a failure is."""
        if self._retry_after_until_s:
            await self._wait_retry_after()
            if self._stopped or not (self.is_open or is_probe):
                return Unavailable(kind=DOWN, status=None, detail="it was not its turn any more")
        job.attempts += 1
        attempt = self._poison_detector.attempt_started()
        answer = await self._alpine.send(job.body)
        self._poison_detector.attempt_ended(job, attempt, answer)
        if isinstance(answer, Unavailable) and answer.retry_after_s:
            until_s = time.monotonic() + answer.retry_after_s
            self._retry_after_until_s = max(self._retry_after_until_s, until_s)
        is_refused = isinstance(answer, Unavailable) and answer.kind == REFUSED
        if self._window_size != IN_FLIGHT_MAX and not is_refused:
            self._window_size = IN_FLIGHT_MAX
            self.condition.notify()
        return answer

    async def _wait_retry_after(self) -> None:
        while not self._stopped:
            left_s = self._retry_after_until_s - time.monotonic()
            if left_s <= 0:
                self._retry_after_until_s = 0.0
                return
            await self._pause(left_s)

    # -- what an answer leads to

    async def _handle_result(self, job: Job, answer: SendResult) -> None:
        match answer:
            case Stored() | Duplicate():
                self._handle_delivered(job, answer)
            case _ if job.is_parked:
                self._handle_parked_result(job, answer)
            case Rejected():
                self._handle_rejected(job, answer)
            case Unavailable(kind=kind) if kind == REFUSED:
                self._requeue(job)
                self._window_size = 1
                self._set_state(DeliveryState.REFUSED, answer.detail)
            case Unavailable():
                await self._handle_unavailable(job, answer)

    def _handle_delivered(self, job: Job, answer: Stored | Duplicate) -> None:
        self.rejections = 0
        self._on_done(job, Delivered(is_duplicate=isinstance(answer, Duplicate)))
        self._set_state(DeliveryState.DELIVERING, None)

    def _handle_rejected(self, job: Job, answer: Rejected) -> None:
        detail = f"{REJECTIONS_MAX} rejections in a row: {answer.status} {answer.body}"
        if self.rejections >= REJECTIONS_MAX:
            self._requeue(job, behind=True)
            self._set_state(DeliveryState.REJECTING, detail)
            return
        self.rejections += 1
        self._on_done(job, Park(kind=REFUSED, status=answer.status, body=answer.body))
        if self.rejections >= REJECTIONS_MAX:
            self._set_state(DeliveryState.REJECTING, detail)
        else:
            self._set_state(DeliveryState.DELIVERING, None)  # it answers, and judges: it is there

    def _handle_parked_result(self, job: Job, answer: Rejected | Unavailable) -> None:
        """Nothing that is parked decides about the others, but for what says that none can pass."""
        match answer:
            case Rejected(status=status, body=body):
                self._on_done(job, Park(kind=REFUSED, status=status, body=body))
                if self.state in (DeliveryState.WAITING, DeliveryState.REFUSED):
                    self._set_state(DeliveryState.DELIVERING, None)
            case Unavailable(kind=kind, status=status, detail=detail) if kind == FAILING:
                self._on_done(job, Park(kind=FAILING, status=status, body=detail))
            case Unavailable(kind=kind, status=status, detail=detail):
                self._on_done(job, KeepParked(kind=FAILING, status=status, body=detail))
                if kind == REFUSED:
                    self._window_size = 1
                    self._set_state(DeliveryState.REFUSED, detail)

    async def _handle_unavailable(self, job: Job, answer: Unavailable) -> None:
        if not self.is_open:  # others have found out meanwhile; its retries were cut short
            self._requeue(job)
        elif await self._poison_detector.is_poison(job, answer, is_alone=False):
            self._on_done(job, Park(kind=FAILING, status=answer.status, body=answer.detail))
        elif job.have_others_passed_in_round:
            self._requeue(job, behind=True)
        else:
            self._requeue(job)
            if self.is_open:
                self._set_state(DeliveryState.WAITING, answer.detail)

    def _requeue(self, job: Job, *, behind: bool = False) -> None:
        queue = self._pending if job.resend is None else self._resends
        (queue.append if behind else queue.appendleft)(job)

    def _set_state(self, state: DeliveryState, error: str | None) -> None:
        if state is not self.state:
            level = logging.INFO if state is DeliveryState.DELIVERING else logging.WARNING
            logger.log(level, "delivery_state state=%s error=%s", state, error)
        self.state = state
        if self.is_open and not self._stopped:
            self._halt.clear()
        else:
            self._halt.set()
        self._report_state(state, error)
        self.condition.notify()

    def _report_state(self, state: DeliveryState, error: str | None) -> None:
        if (state, error) != self._last_reported:
            self._last_reported = (state, error)
            self._on_state(state, error)

    # -- probes

    async def _probe_while_closed(self) -> None:
        while not self._stopped:
            await self.condition.until(lambda: self._stopped or not self.is_open)
            if self.state is DeliveryState.WAITING:
                await self._probe_until_it_passes()
            elif not self.is_open:
                await self._probe_slowly(self.state)

    async def _probe_until_it_passes(self) -> None:
        interval_s, count = self._timing.probe_s_min, 1
        while await self._pause_in(DeliveryState.WAITING, interval_s):
            await self._probe(count)
            interval_s = min(1.5 * interval_s, self._timing.probe_s_max)
            count = min(count + 1, IN_FLIGHT_MAX)

    async def _probe_slowly(self, state: DeliveryState) -> None:
        due_s = time.monotonic() + self._timing.slow_probe_s
        while await self._pause_in(state, self._timing.key_poll_s):
            if self._is_woken or self._key_has_changed() or time.monotonic() >= due_s:
                await self._probe(1)
                return

    async def _pause_in(self, state: DeliveryState, seconds: float) -> bool:
        """Waits, or until nudged; False when the state is another one by then."""
        await self._pause(seconds, lambda: self._is_woken or self.state is not state)
        return self.state is state and not self._stopped

    async def _probe(self, count: int) -> None:
        """One try each at `count` signals; those that were never tried before come first."""
        self._is_woken = False
        jobs = [self._acquire(job) for job in self._choose(count)]
        if not jobs:
            if not self._in_flight:
                self._set_state(DeliveryState.DELIVERING, None)  # nothing is left that did not pass
            return
        try:
            tries = (self._try(job, is_probe=True) for job in jobs)
            answers = await asyncio.gather(*tries)
            for job, answer in zip(jobs, answers, strict=True):
                if self._is_wanted(answer):
                    await self._handle_probe_result(job, answer, jobs)
        finally:
            for job in jobs:
                self._release(job)

    def _candidates(self) -> list[Job]:
        return [*self._pending, *(job for job in self._resends if not job.is_parked)]

    def _choose(self, count: int) -> list[Job]:
        candidates = self._candidates() or list(self._resends)
        chosen = sorted(candidates, key=lambda job: job.attempts > 0)[:count]
        for job in chosen:
            (self._pending if job.resend is None else self._resends).remove(job)
            job.round_failed_at = None
        return chosen

    async def _handle_probe_result(self, job: Job, answer: SendResult, probed: list[Job]) -> None:
        if job.is_parked or not isinstance(answer, Unavailable) or answer.kind == REFUSED:
            await self._handle_result(job, answer)
            return
        # What others overtook before a restart is no other that could pass: after a kill a few that
        # are to blame would wait for each other until something new comes.
        others = [other for other in (*probed, *self._candidates()) if other is not job]
        is_alone = self._in_flight == len(probed) and all(p.was_overtaken for p in others)
        if await self._poison_detector.is_poison(job, answer, is_alone=is_alone):
            self._on_done(job, Park(kind=FAILING, status=answer.status, body=answer.detail))
            self._set_state(DeliveryState.DELIVERING, None)
            return
        self._requeue(job, behind=True)
        if not self.is_open:
            self._set_state(DeliveryState.WAITING, answer.detail)

    async def _pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.condition.until(lambda: self._stopped or is_over())
