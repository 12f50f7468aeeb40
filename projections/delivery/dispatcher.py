"""Dispatches queued signals to Alpine through a bounded in-flight window and a circuit breaker.

`add` queues jobs; the window hands them to ten senders; `run` evaluates the answers one at a
time and yields each finished job with its outcome. States of the circuit breaker:

    delivering  up to ten signals in flight, each with a few retries
      -> waiting    a signal has used up its retries, and nothing shows that other signals pass
      -> refused    401, 403, 404 or a redirect, or there is no key: key or address is wrong
      -> rejecting  20 signals in a row were rejected as invalid, none accepted
    waiting     probes at a growing interval, each with other signals and one more each round
    refused, rejecting   one probe every 15 minutes, or at once when the key changes
      -> delivering when a probe passes, or its signal proves to be a poison message

A signal that Alpine rejects as invalid is parked as `refused`, a poison message (poison.py) as
`failing`. During an outage nothing is parked.

Invariant: each job that was added is yielded with exactly one outcome, however often it was sent,
unless delivery is stopped first.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from typing import NamedTuple

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
from projections.alpine.credentials import KeySource
from projections.alpine.retry import DeliveryTiming, retry
from projections.delivery.job import Delivered, Job, KeepParked, Outcome, Park, ResendReason
from projections.delivery.poison import PoisonDetector
from projections.delivery.state import DeliveryState, StateChange
from projections.runtime.pause import wait_for_event

logger = logging.getLogger(__name__)

REJECTIONS_MAX = 20  # in a row: then the signals are not the cause
RESENDS_IN_FLIGHT_MAX = 3  # of the ten places: resends must not delay new signals


class _Attempted(NamedTuple):
    """The result of one job, by a sender or a probe."""

    job: Job
    answer: SendResult | None  # None: the circuit opened before it was sent
    is_poison: bool = False
    is_probe: bool = False


class Dispatcher:
    """Sends jobs through one client. For one event loop.

    `rejections`: how many in a row an earlier run has seen. `may_park` is set by the owner: whether
    one more failing signal may be parked.
    """

    def __init__(
        self,
        alpine: Alpine,
        key: KeySource,
        *,
        timing: DeliveryTiming | None = None,
        rejections: int = 0,
    ) -> None:
        self._alpine = alpine
        self._key = key
        self._timing = timing or DeliveryTiming()
        self._poison_detector = PoisonDetector(alpine)
        self._pending: deque[Job] = deque()
        self._resends: deque[Job] = deque()
        self._window: asyncio.Queue[Job] = asyncio.Queue()  # in flight, for the next free sender
        self._attempted: asyncio.Queue[_Attempted | None] = asyncio.Queue()  # None: state changed
        self._in_flight = 0
        self._resends_in_flight = 0
        self._window_size = 1  # until one answer shows that the key is not refused
        self._retry_after_until_s = 0.0  # nothing is sent before, as the server asked
        self._stopping = asyncio.Event()
        self._halt = asyncio.Event()  # set while nothing may be sent but probes
        self._prober_wake = asyncio.Event()  # the state changed, or a probe was asked for
        self._is_woken = False
        self.may_park = True
        self.rejections = rejections
        self.state = DeliveryState.DELIVERING
        self.last_error: str | None = None

    @property
    def outstanding(self) -> int:
        """Jobs without an outcome."""
        return len(self._pending) + len(self._resends) + self._in_flight

    @property
    def backlog(self) -> int:
        """New signals without an outcome."""
        return len(self._pending) + self._in_flight - self._resends_in_flight

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def is_open(self) -> bool:
        """Whether signals are sent, and not only probes."""
        return self.state is DeliveryState.DELIVERING

    def add(self, jobs: Iterable[Job]) -> None:
        """Queues jobs, in their order."""
        for job in jobs:
            self._queue_of(job).append(job)
        self._fill_window()

    def wake(self) -> None:
        """Probes now if only probes are sent: an operator may have fixed the cause."""
        if not self.is_open:
            self._is_woken = True
            self._prober_wake.set()

    def stop(self) -> None:
        """Ends `run`: nothing more is sent, and requests in flight are awaited."""
        self._stopping.set()
        self._halt.set()
        self._prober_wake.set()
        self._attempted.put_nowait(None)

    async def run(
        self, group: asyncio.TaskGroup
    ) -> AsyncGenerator[tuple[Job, Outcome] | StateChange, None]:
        """Sends until stopped; yields outcomes, and each change of state or last error.

        Its senders run in `group`; cancelling that abandons the requests in flight.
        """
        loops = [self._probe_loop(), *(self._send_loop() for _ in range(IN_FLIGHT_MAX))]
        tasks = [group.create_task(loop) for loop in loops]
        reported = (self.state, self.last_error)
        yield StateChange(*reported)
        while self._in_flight or not self.is_stopped:
            attempted = await self._attempted.get()
            outcome = None
            if attempted is not None:
                outcome = self._evaluate(attempted)
                self._leave_window(attempted.job)
            self._fill_window()
            if attempted is not None and outcome is not None:
                yield attempted.job, outcome
            if reported != (self.state, self.last_error):
                reported = (self.state, self.last_error)
                yield StateChange(*reported)
        for task in tasks:
            task.cancel()

    # -- queues and window

    def _queue_of(self, job: Job) -> deque[Job]:
        return self._pending if job.resend is None else self._resends

    def _requeue(self, job: Job, *, behind: bool = False) -> None:
        queue = self._queue_of(job)
        (queue.append if behind else queue.appendleft)(job)

    def _fill_window(self) -> None:
        while not self._halt.is_set() and self._in_flight < self._window_size:
            if self._resends and self._resends_in_flight < RESENDS_IN_FLIGHT_MAX:
                job = self._resends.popleft()
            elif self._pending:
                job = self._pending.popleft()
            else:
                return
            self._enter_window(job)
            self._window.put_nowait(job)

    def _enter_window(self, job: Job) -> None:
        self._in_flight += 1
        self._resends_in_flight += job.resend is not None

    def _leave_window(self, job: Job) -> None:
        self._in_flight -= 1
        self._resends_in_flight -= job.resend is not None

    # -- one signal

    async def _send_loop(self) -> None:
        while True:
            job = await self._window.get()
            self._attempted.put_nowait(await self._send(job))

    async def _send(self, job: Job) -> _Attempted:
        if self._halt.is_set():  # since the job entered the window
            return _Attempted(job, None)
        job.round_failed_at = None
        answer = await self._try(job)
        # A due one has failed so often that one try is enough.
        if isinstance(answer, Unavailable) and job.resend is not ResendReason.DUE:
            retry_policy = self._timing.retry_policy
            answer = await retry(answer, partial(self._try, job), retry_policy, self._halt)
        is_poison = self.is_open and await self._is_poison(job, answer, is_alone=False)
        return _Attempted(job, answer, is_poison)

    async def _try(self, job: Job, *, is_probe: bool = False) -> SendResult:
        """Sends a job once, and notes what the answer says about poison and the window."""
        if self._retry_after_until_s:
            await self._wait_retry_after()
            if self.is_stopped or not (self.is_open or is_probe):
                return Unavailable(kind=DOWN, status=None, detail="not sent: the circuit is open")
        job.attempts += 1
        attempt = self._poison_detector.attempt_started()
        answer = await self._alpine.send(job.body)
        self._poison_detector.attempt_ended(job, attempt, answer)
        if isinstance(answer, Unavailable) and answer.retry_after_s:
            until_s = time.monotonic() + answer.retry_after_s
            self._retry_after_until_s = max(self._retry_after_until_s, until_s)
        if self._window_size != IN_FLIGHT_MAX and not _is_refused(answer):
            self._window_size = IN_FLIGHT_MAX
            self._fill_window()
        return answer

    async def _wait_retry_after(self) -> None:
        while (left_s := self._retry_after_until_s - time.monotonic()) > 0:
            if await wait_for_event(self._stopping, left_s):
                return
        self._retry_after_until_s = 0.0

    async def _is_poison(self, job: Job, answer: SendResult, *, is_alone: bool) -> bool:
        if self.is_stopped or not self.may_park or job.is_parked:
            return False
        if not isinstance(answer, Unavailable) or answer.kind == REFUSED:
            return False
        return await self._poison_detector.is_poison(job, answer, is_alone=is_alone)

    # -- what an answer leads to

    def _evaluate(self, attempted: _Attempted) -> Outcome | None:
        """The outcome of a job; None when it is queued again, or delivery is stopped."""
        job, answer = attempted.job, attempted.answer
        match answer:
            case Stored() | Duplicate():
                self.rejections = 0
                self._set_state(DeliveryState.DELIVERING, None)
                return Delivered(is_duplicate=isinstance(answer, Duplicate))
            case _ if self.is_stopped:
                return None  # it is sent again after the next start
            case None:
                self._requeue(job)
                return None
            case _ if job.is_parked:
                return self._evaluate_parked(answer)
            case Rejected():
                return self._evaluate_rejected(job, answer)
            case Unavailable() if _is_refused(answer):
                self._requeue(job)
                self._window_size = 1
                self._set_state(DeliveryState.REFUSED, answer.detail)
                return None
            case Unavailable():
                return self._evaluate_unavailable(attempted, answer)

    def _evaluate_rejected(self, job: Job, answer: Rejected) -> Outcome | None:
        detail = f"{REJECTIONS_MAX} rejections in a row: {answer.status} {answer.body}"
        if self.rejections >= REJECTIONS_MAX:
            self._requeue(job, behind=True)
            self._set_state(DeliveryState.REJECTING, detail)
            return None
        self.rejections += 1
        if self.rejections >= REJECTIONS_MAX:
            self._set_state(DeliveryState.REJECTING, detail)
        else:
            self._set_state(DeliveryState.DELIVERING, None)  # the server is there, and answers
        return Park(kind=REFUSED, status=answer.status, body=answer.body)

    def _evaluate_parked(self, answer: Rejected | Unavailable) -> Outcome:
        """A parked signal changes the state only if its answer concerns all signals."""
        match answer:
            case Rejected(status=status, body=body):
                if self.state in (DeliveryState.WAITING, DeliveryState.REFUSED):
                    self._set_state(DeliveryState.DELIVERING, None)
                return Park(kind=REFUSED, status=status, body=body)
            case Unavailable(kind=kind, status=status, detail=detail) if kind == FAILING:
                return Park(kind=FAILING, status=status, body=detail)
            case Unavailable(status=status, detail=detail):
                if _is_refused(answer):
                    self._window_size = 1
                    self._set_state(DeliveryState.REFUSED, detail)
                return KeepParked(kind=FAILING, status=status, body=detail)

    def _evaluate_unavailable(self, attempted: _Attempted, answer: Unavailable) -> Outcome | None:
        job = attempted.job
        if attempted.is_poison and self.may_park:
            if attempted.is_probe:
                self._set_state(DeliveryState.DELIVERING, None)
            return Park(kind=FAILING, status=answer.status, body=answer.detail)
        if attempted.is_probe:
            self._requeue(job, behind=True)
            if not self.is_open:
                self._set_state(DeliveryState.WAITING, answer.detail)
        elif self.is_open and job.have_others_passed_in_round:
            self._requeue(job, behind=True)
        else:
            self._requeue(job)
            if self.is_open:  # otherwise its retries were cut short
                self._set_state(DeliveryState.WAITING, answer.detail)
        return None

    def _set_state(self, state: DeliveryState, error: str | None) -> None:
        self.last_error = error
        if state is self.state:
            return
        # The end of an outage is logged at the level of its beginning: a log shows both or neither.
        logger.warning("delivery_state state=%s%s", state, f" error={error}" if error else "")
        self.state = state
        if self.is_open and not self.is_stopped:
            self._halt.clear()
        else:
            self._halt.set()
        self._prober_wake.set()

    # -- probes

    async def _probe_loop(self) -> None:
        while not self.is_stopped:
            await self._halt.wait()
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
            if self._is_woken or self._key.has_changed() or time.monotonic() >= due_s:
                await self._probe(1)
                return

    async def _pause_in(self, state: DeliveryState, seconds: float) -> bool:
        """Waits, or until woken; False once the state is another one."""
        if self.state is state and not self._is_woken and not self.is_stopped:
            self._prober_wake.clear()
            await wait_for_event(self._prober_wake, seconds)
        return self.state is state and not self.is_stopped

    async def _probe(self, count: int) -> None:
        """Tries `count` signals once each; those that were never tried come first."""
        self._is_woken = False
        jobs = self._choose(count)
        if not jobs:
            if not self._in_flight:  # no undelivered signal is left
                self._set_state(DeliveryState.DELIVERING, None)
                self._attempted.put_nowait(None)
            return
        answers = await asyncio.gather(*(self._try(job, is_probe=True) for job in jobs))
        attempts: list[_Attempted] = []
        for job, answer in zip(jobs, answers, strict=True):
            # A signal that later ones overtook before a restart does not count as another that
            # could pass: a few poison messages would otherwise wait for each other until a new
            # signal comes.
            others = (other for other in (*jobs, *self._candidates()) if other is not job)
            is_alone = self._in_flight == len(jobs) and all(other.was_overtaken for other in others)
            is_poison = await self._is_poison(job, answer, is_alone=is_alone)
            attempts.append(_Attempted(job, answer, is_poison, is_probe=True))
        for attempt in attempts:
            self._attempted.put_nowait(attempt)

    def _candidates(self) -> list[Job]:
        return [*self._pending, *(job for job in self._resends if not job.is_parked)]

    def _choose(self, count: int) -> list[Job]:
        candidates = self._candidates() or list(self._resends)
        chosen = sorted(candidates, key=lambda job: job.attempts > 0)[:count]
        for job in chosen:
            self._queue_of(job).remove(job)
            job.round_failed_at = None
            self._enter_window(job)
        return chosen


def _is_refused(answer: SendResult) -> bool:
    return isinstance(answer, Unavailable) and answer.kind == REFUSED
