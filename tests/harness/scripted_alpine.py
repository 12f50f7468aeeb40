"""An Alpine that answers as it is told, without a network: for the courier and what stands on it.

Invariant: it implements the real interface, and notes every request.
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
    Accepted,
    Answer,
    Rejected,
    Unavailable,
)
from projections.alpine.retry import Patience, Timing

BAD = Rejected(status=400, body="Signal hash verification failed")
FAILS = Unavailable(kind=FAILING, status=500, detail="500 Internal server error")
GONE = Unavailable(kind=DOWN, status=None, detail="no answer: ConnectError")
BUSY = Unavailable(kind=DOWN, status=429, detail="429")
WRONG_KEY = Unavailable(kind=REFUSED, status=401, detail="401 Invalid or missing API key")


AT_ONCE = Timing(
    patience=Patience(first_s=0.0005, max_s=0.001),
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
class Script:
    """An Alpine that answers each signal as `says` says; `sent` is what it got."""

    says: Callable[[int], Answer] = lambda _: Accepted()
    healthy: bool = True
    takes_s: float = 0.0
    sent: list[int] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    health_checks: int = 0

    async def send(self, body: bytes) -> Answer:
        seq = number_of(body)
        self.sent.append(seq)
        self.begun_s.append(time.monotonic())
        self.in_flight["now"] += 1
        self.in_flight["max"] = max(self.in_flight["max"], self.in_flight["now"])
        try:
            await asyncio.sleep(self.takes_s)
            return self.says(seq)
        finally:
            self.in_flight["now"] -= 1

    async def is_healthy(self) -> bool:
        self.health_checks += 1
        await asyncio.sleep(0)
        return self.healthy

    async def close(self) -> None:
        pass


def number_of(body: bytes) -> int:
    """The number of a signal: of `a_signal(7)` it is 7. A bare number stands for itself."""
    parsed = orjson.loads(body)
    return parsed if isinstance(parsed, int) else int(parsed["signal_id"].removeprefix("s-"))
