"""Distinguishes a poison message from an outage of the server.

A signal that is answered with 500 through all its retries is a poison message when others pass:

- Another signal passed during this round of retries: its request began after this signal had
  failed, and was answered before this signal was tried again.
- Another signal passed in that way since this one first failed at all, or no other signal is left
  (those that were overtaken before a restart do not count), and two health checks succeed. A
  dozen poison messages in a row would otherwise wait for each other for ever.

A signal without any answer is a poison message only after five such rounds, since the signal is
hardly ever the cause; 429 never makes one. In an outage nothing passes, so no signal is poison.

Invariant: no signal is poison unless an answer shows that the server was there meanwhile.
"""

from typing import NamedTuple

from projections.alpine.client import Alpine
from projections.alpine.contract import DOWN, FAILING, Duplicate, SendResult, Stored, Unavailable
from projections.delivery.job import Job

DOWN_ROUNDS_MAX = 5
TOO_MANY_REQUESTS = 429


class Attempt(NamedTuple):
    """A request in flight. The clock ticks once per request and once per answer."""

    started: int
    newest_pass: int  # start of the latest request that had passed by then


class PoisonDetector:
    """Notes each request and its answer."""

    def __init__(self, alpine: Alpine) -> None:
        self._alpine = alpine
        self._now = 0
        self._newest_pass = -1

    def attempt_started(self) -> Attempt:
        """Notes that a request begins."""
        self._now += 1
        return Attempt(self._now, self._newest_pass)

    def attempt_ended(self, job: Job, attempt: Attempt, answer: SendResult) -> None:
        """Notes its answer, on the job too."""
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
        """Whether the signal is a poison message. `is_alone`: no other signal could pass."""
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
