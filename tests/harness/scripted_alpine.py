"""A scripted Alpine client without a network, for tests of delivery.

Invariant: it implements the real interface and records every request.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from projections.alpine.contract import (
    DOWN,
    FAILING,
    REFUSED,
    Rejected,
    SendResult,
    Stored,
    Unavailable,
)
from projections.alpine.retry import DeliveryTiming, RetryPolicy

BAD_REQUEST = Rejected(status=400, body="Signal hash verification failed")
SERVER_ERROR = Unavailable(kind=FAILING, status=500, detail="500 Internal server error")
UNREACHABLE = Unavailable(kind=DOWN, status=None, detail="no answer: ConnectError")
RATE_LIMITED = Unavailable(kind=DOWN, status=429, detail="429")
WRONG_KEY = Unavailable(kind=REFUSED, status=401, detail="401 Invalid or missing API key")


FAST_TIMING = DeliveryTiming(
    retry_policy=RetryPolicy(first_s=0.0005, max_s=0.001),
    probe_s_min=0.001,
    probe_s_max=0.002,
    slow_probe_s=0.002,
    key_poll_s=0.001,
    failing_s_min=0.005,
    failing_s_max=0.02,
    tick_s=0.002,
    once_s=0.1,
)


@dataclass(kw_only=True)
class ScriptedAlpine:
    """Answers each signal with the result of `answer_to`; `sent` has the signals it received."""

    answer_to: Callable[[int], SendResult] = lambda _: Stored()
    healthy: bool = True
    delay_s: float = 0.0
    sent: list[int] = field(default_factory=list)
    started_s: list[float] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    health_checks: int = 0

    async def send(self, body: bytes) -> SendResult:
        seq = number_of(body)
        self.sent.append(seq)
        self.started_s.append(time.monotonic())
        self.in_flight["now"] += 1
        self.in_flight["max"] = max(self.in_flight["max"], self.in_flight["now"])
        try:
            await asyncio.sleep(self.delay_s)
            return self.answer_to(seq)
        finally:
            self.in_flight["now"] -= 1

    async def is_healthy(self) -> bool:
        self.health_checks += 1
        await asyncio.sleep(0)
        return self.healthy

    async def close(self) -> None:
        pass


def number_of(body: bytes) -> int:
    """The number of a signal: 7 for `a_signal(7)`. A bare number is returned as it is."""
    parsed = orjson.loads(body)
    return parsed if isinstance(parsed, int) else int(parsed["signal_id"].removeprefix("s-"))
