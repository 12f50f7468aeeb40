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
from projections.monitoring.health import UNHEALTHY, Health, HealthResult
from projections.monitoring.http_server import Address, HttpResponse, HttpServer
from projections.monitoring.snapshot import Snapshot, take_snapshot
from projections.runtime.projector import Projector

SAMPLE_INTERVAL_S = 5.0  # between two looks: a trouble's age is known so well
SAMPLE_FRESH_S = 0.2  # a look serves all who ask within this
JSON = "application/json"


class ListenConfig(NamedTuple):
    """Where to answer, and how long a trouble must last to be one."""

    address: Address
    unhealthy_after_s: float


@asynccontextmanager
async def serving_endpoints(
    home: Path, projectors: Sequence[Projector], listen: ListenConfig
) -> AsyncIterator[None]:
    """Answers for as long as the block lasts. Raises ProjectionError where it cannot listen."""
    try:
        from projections.monitoring import metrics
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"--listen needs a package that is not installed: {error.name}",
            do="install the extra `metrics` (`pip install '.[metrics]'` in the checkout)",
        ) from None
    sampler = SnapshotSampler(home, projectors, listen.unhealthy_after_s)

    async def respond(path: str) -> HttpResponse | None:
        match path:
            case "/health":
                return health_response(*await sampler.sample())
            case "/metrics":
                snapshot, _ = await sampler.sample()
                return HttpResponse(200, metrics.exposition(snapshot), metrics.CONTENT_TYPE)
        return None

    server = await HttpServer.open(listen.address, respond)
    sampling = asyncio.create_task(sampler.keep_sampling(), name="reporter")
    try:
        yield
    finally:
        await server.close()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


class SnapshotSampler:
    """Looks, and remembers what it needs to judge."""

    def __init__(
        self, home: Path, projectors: Sequence[Projector], unhealthy_after_s: float
    ) -> None:
        self._home = home
        self._projectors = projectors
        self._health = Health(unhealthy_after_s)
        self._sampling: asyncio.Task[tuple[Snapshot, HealthResult]] | None = None
        self._sampled_s = 0.0

    async def keep_sampling(self) -> None:
        """Looks again and again."""
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    async def sample(self) -> tuple[Snapshot, HealthResult]:
        """How things are now, or were a moment ago."""
        sampling = self._sampling
        is_fresh = time.monotonic() - self._sampled_s < SAMPLE_FRESH_S
        if sampling is None or (sampling.done() and not is_fresh):
            sampling = self._sampling = asyncio.create_task(self._take_sample())
        return await asyncio.shield(sampling)  # others wait for the same

    async def _take_sample(self) -> tuple[Snapshot, HealthResult]:
        snapshot = await take_snapshot(self._home, self._projectors)
        self._sampled_s = time.monotonic()
        return snapshot, self._health.evaluate(snapshot, now_s=self._sampled_s)


def health_response(snapshot: Snapshot, result: HealthResult) -> HttpResponse:
    """200 or 503, with reasons and figures."""
    body = {
        "status": result.status,
        "reasons": result.reasons,
        "log": asdict(snapshot.log) if snapshot.log is not None else None,
        "projections": {
            projection.name: {
                "checkpoint": projection.checkpoint,
                "lag_entries": projection.lag_entries,
                "lag_seconds": projection.lag_seconds,
            }
            for projection in snapshot.projections
        },
    }
    status = 503 if result.status == UNHEALTHY else 200
    return HttpResponse(status, orjson.dumps(body) + b"\n", JSON)
