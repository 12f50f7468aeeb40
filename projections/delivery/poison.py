"""Whose fault is it that a signal does not pass: its own, or the server's?

A signal that answers 500 through all its retries is to blame when others pass:

- when another passed between its first try and its last: its request began after this one had
  failed, and was answered before this one was tried again;
- when another passed in that way since it first failed at all, or it is the only one there is
  beside those that others overtook before a restart, and Alpine says twice that it is healthy. A
  dozen such signals in a row would otherwise wait for each other for ever.

One that gets no answer at all is to blame after five such rounds, since that is hardly ever the
signal's fault; 429 never is. In an outage nothing passes, so nobody is to blame.

Invariant: without an answer that shows that the server was there meanwhile, no signal is to blame.
"""

from typing import NamedTuple

from projections.alpine.client import Alpine
from projections.alpine.contract import DOWN, FAILING, Duplicate, SendResult, Stored, Unavailable
from projections.delivery.job import Job

DOWN_ROUNDS_MAX = 5
TOO_MANY_REQUESTS = 429


class Attempt(NamedTuple):
    """A request under way, in ticks of our clock: one a request, and one an answer."""

    started: int
    newest_pass: int  # when the newest request began that had passed by then


class PoisonDetector:
    """Notes each request and its answer."""

    def __init__(self, alpine: Alpine) -> None:
        self._alpine = alpine
        self._now = 0
        self._newest_pass = -1

    def attempt_started(self) -> Attempt:
        """A request begins."""
        self._now += 1
        return Attempt(self._now, self._newest_pass)

    def attempt_ended(self, job: Job, attempt: Attempt, answer: SendResult) -> None:
        """It was answered."""
        self._now += 1
        match answer:
            case Stored() | Duplicate():
                self._newest_pass = max(self._newest_pass, attempt.started)
            case Unavailable():
                if job.failed_at is None:
                    job.failed_at = self._now
                if job.round_failed_at is None:
                    job.round_failed_at = self._now
                job.have_others_passed = attempt.newest_pass > job.failed_at
                job.have_others_passed_in_round = attempt.newest_pass > job.round_failed_at

    async def is_poison(self, job: Job, answer: Unavailable, *, is_alone: bool) -> bool:
        """Whether this signal is to blame. `is_alone`: no other is there that could pass."""
        if answer.status == TOO_MANY_REQUESTS:
            return False
        if not job.have_others_passed_in_round:
            is_suspect = job.have_others_passed or (is_alone and answer.kind == FAILING)
            if not is_suspect or not await self._is_healthy():
                return False
        job.down_rounds += answer.kind == DOWN
        return answer.kind == FAILING or job.down_rounds >= DOWN_ROUNDS_MAX

    async def _is_healthy(self) -> bool:
        return await self._alpine.is_healthy() and await self._alpine.is_healthy()
