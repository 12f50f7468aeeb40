"""The retry policy and the intervals of delivery, with their defaults.

Invariant: they decide when a signal is sent, never whether.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import tenacity

from projections.alpine.contract import REFUSED, SendResult, Unavailable
from projections.runtime.pause import wait_for_event


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of retries of one signal in a row, and the pauses before them."""

    retries_max: int = 3
    first_s: float = 0.2  # upper limit of the first pause; it doubles
    max_s: float = 5.0


class _RetryNeeded(Exception):
    """An answer that is worth another try."""


async def retry(
    answer: SendResult,
    send: Callable[[], Awaitable[SendResult]],
    retry_policy: RetryPolicy,
    halt: asyncio.Event,
) -> SendResult:
    """Sends again after `answer`, a few times: exponential back-off, full jitter.

    `halt` ends it. An answer that another try cannot change is not retried, nor one whose
    Retry-After is longer than the longest pause.
    """

    def is_retryable() -> bool:
        return (
            isinstance(answer, Unavailable)
            and answer.kind != REFUSED
            and answer.retry_after_s <= retry_policy.max_s
            and not halt.is_set()
        )

    if not is_retryable():
        return answer

    async def pause(seconds: float) -> None:
        await wait_for_event(halt, seconds)

    is_first = True

    async def attempt() -> None:
        nonlocal answer, is_first
        if not is_first and not halt.is_set():
            answer = await send()
        is_first = False
        if is_retryable():
            raise _RetryNeeded

    # A new instance for each call: one that tasks share miscounts attempts.
    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(1 + retry_policy.retries_max),
        wait=tenacity.wait_random_exponential(
            multiplier=retry_policy.first_s, max=retry_policy.max_s
        ),
        retry=tenacity.retry_if_exception_type(_RetryNeeded),
        sleep=pause,
        reraise=True,
    )
    with suppress(_RetryNeeded):
        await retrying(attempt)
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTiming:
    """The intervals of delivery, in seconds."""

    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    probe_s_min: float = 5.0  # between probes while the state is waiting, growing
    probe_s_max: float = 60.0
    slow_probe_s: float = 900.0  # the same while it is refused or rejecting
    key_poll_s: float = 1.0  # between checks whether the key has changed
    failing_s_min: float = 60.0  # between retries of a signal parked as failing, growing
    failing_s_max: float = 6 * 3600.0
    tick_s: float = 0.5  # between checks for due retries and operator requests
    once_s: float = 13.0  # `--once` waits so long in state waiting: for two probes
