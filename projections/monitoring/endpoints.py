"""What a daemon answers to `/health` and `/metrics`.

It looks every few seconds by itself, so that it knows since when a trouble is there, and once more
for a question. One look at a time: a disk that hangs holds up one thread, however many ask.

Invariant: it only reads; the projectors do not notice it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import orjson

from projections.errors import ProjectionError
from projections.monitoring.health import UNHEALTHY, Health, Verdict
from projections.monitoring.http_server import Address, Answer, Listener
from projections.monitoring.snapshot import Vitals, take
from projections.runtime.projector import Projector

LOOK_S = 5.0  # between two looks: a trouble's age is known so well
FRESH_S = 0.2  # a look serves all who ask within this
JSON = "application/json"


class Listen(NamedTuple):
    """Where to answer, and how long a trouble must last to be one."""

    address: Address
    unhealthy_after_s: float


@asynccontextmanager
async def reporting(
    home: Path, projectors: Sequence[Projector], listen: Listen
) -> AsyncIterator[None]:
    """Answers for as long as the block lasts. Raises ProjectionError where it cannot listen."""
    try:
        from projections.monitoring import metrics
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"--listen needs a package that is not installed: {error.name}",
            do="install the extra `metrics` (`pip install '.[metrics]'` in the checkout)",
        ) from None
    reporter = Reporter(home, projectors, listen.unhealthy_after_s)

    async def answer(path: str) -> Answer | None:
        match path:
            case "/health":
                return health_answer(*await reporter.look())
            case "/metrics":
                vitals, _ = await reporter.look()
                return Answer(200, metrics.exposition(vitals), metrics.CONTENT_TYPE)
        return None

    listener = await Listener.open(listen.address, answer)
    looking = asyncio.create_task(reporter.keep_looking(), name="reporter")
    try:
        yield
    finally:
        await listener.close()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


class Reporter:
    """Looks, and remembers what it needs to judge."""

    def __init__(self, home: Path, projectors: Sequence[Projector], after_s: float) -> None:
        self._home = home
        self._projectors = projectors
        self._health = Health(after_s)
        self._looking: asyncio.Task[tuple[Vitals, Verdict]] | None = None
        self._looked_s = 0.0

    async def keep_looking(self) -> None:
        """Looks again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> tuple[Vitals, Verdict]:
        """How things are now, or were a moment ago."""
        looking = self._looking
        is_fresh = time.monotonic() - self._looked_s < FRESH_S
        if looking is None or (looking.done() and not is_fresh):
            looking = self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(looking)  # others wait for the same

    async def _look(self) -> tuple[Vitals, Verdict]:
        vitals = await take(self._home, self._projectors)
        self._looked_s = time.monotonic()
        return vitals, self._health.judge(vitals, now_s=self._looked_s)


def health_answer(vitals: Vitals, verdict: Verdict) -> Answer:
    """200 or 503, with reasons and figures."""
    body = {
        "status": verdict.status,
        "reasons": verdict.reasons,
        "log": asdict(vitals.log) if vitals.log is not None else None,
        "projections": {
            vital.name: {
                "checkpoint": vital.checkpoint,
                "lag_entries": vital.lag_entries,
                "lag_seconds": vital.lag_seconds,
            }
            for vital in vitals.projections
        },
    }
    status = 503 if verdict.status == UNHEALTHY else 200
    return Answer(status, orjson.dumps(body) + b"\n", JSON)
