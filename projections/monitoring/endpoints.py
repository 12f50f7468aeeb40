"""Serves `/health` and `/metrics` of a running daemon.

A snapshot is taken every few seconds, so that the start of a failure is known, and for each
request. Only one snapshot is taken at a time: a disk that hangs blocks one thread, however many
requests wait for it.

Invariant: it only reads, and does not slow the projectors down.
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
from projections.monitoring.health import UNHEALTHY, Health, HealthResult, failure_reason
from projections.monitoring.http_server import Address, HttpResponse, HttpServer
from projections.monitoring.snapshot import ProjectionSnapshot, Snapshot, take_snapshot
from projections.run_directory import FAILED, RUNNING
from projections.runtime.supervisor import Supervisor

SAMPLE_INTERVAL_S = 5.0  # the age of a failure is known to this precision
SAMPLE_FRESH_S = 0.2  # requests within this time get the same snapshot
JSON = "application/json"


class ListenConfig(NamedTuple):
    """The address to serve, and how long a failure must persist before it is reported."""

    address: Address
    unhealthy_after_s: float


@asynccontextmanager
async def serving_endpoints(
    home: Path, supervisors: Sequence[Supervisor], listen: ListenConfig
) -> AsyncIterator[None]:
    """Serves the endpoints during the block. Raises ProjectionError if it cannot listen."""
    try:
        from projections.monitoring import metrics
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"--listen needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[metrics]'`, or `pip install '.[metrics]'` in a"
            " checkout",
        ) from None
    sampler = SnapshotSampler(home, supervisors, listen.unhealthy_after_s)

    async def respond(path: str) -> HttpResponse | None:
        match path:
            case "/health":
                return health_response(*await sampler.sample())
            case "/metrics":
                snapshot, _ = await sampler.sample()
                return HttpResponse(200, metrics.exposition(snapshot), metrics.CONTENT_TYPE)
        return None

    server = await HttpServer.open(listen.address, respond)
    sampling = asyncio.create_task(sampler.keep_sampling(), name="health-sampler")
    try:
        yield
    finally:
        await server.close()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


class SnapshotSampler:
    """Takes snapshots and evaluates the health over them."""

    def __init__(
        self, home: Path, supervisors: Sequence[Supervisor], unhealthy_after_s: float
    ) -> None:
        self._home = home
        self._supervisors = supervisors
        self._health = Health(unhealthy_after_s)
        self._sampling: asyncio.Task[tuple[Snapshot, HealthResult]] | None = None
        self._sampled_s = 0.0

    async def keep_sampling(self) -> None:
        """Takes a snapshot every SAMPLE_INTERVAL_S, until it is cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    async def sample(self) -> tuple[Snapshot, HealthResult]:
        """A snapshot that is at most SAMPLE_FRESH_S old, and its health."""
        sampling = self._sampling
        is_fresh = time.monotonic() - self._sampled_s < SAMPLE_FRESH_S
        if sampling is None or (sampling.done() and not is_fresh):
            sampling = self._sampling = asyncio.create_task(self._take_sample())
        return await asyncio.shield(sampling)  # other requests wait for the same task

    async def _take_sample(self) -> tuple[Snapshot, HealthResult]:
        snapshot = await take_snapshot(self._home, self._supervisors)
        self._sampled_s = time.monotonic()
        return snapshot, self._health.evaluate(snapshot, now_s=self._sampled_s)


def health_response(snapshot: Snapshot, result: HealthResult) -> HttpResponse:
    """The answer to /health: status 200 or 503, the reasons and the lag of each projection."""
    body = {
        "status": result.status,
        "reasons": result.reasons,
        "log": asdict(snapshot.log) if snapshot.log is not None else None,
        "projections": {
            projection.name: {
                "checkpoint": projection.checkpoint,
                "lag_entries": projection.lag_entries,
                "lag_seconds": projection.lag_seconds,
                "state": _state(snapshot, projection),
                "reason": failure_reason(projection),
            }
            for projection in snapshot.projections
        },
    }
    status = 503 if result.status == UNHEALTHY else 200
    return HttpResponse(status, orjson.dumps(body) + b"\n", JSON)


def _state(snapshot: Snapshot, projection: ProjectionSnapshot) -> str | None:
    """The state of a projection in this process; None while it waits for the log."""
    if snapshot.is_waiting:
        return None
    return RUNNING if projection.failure is None else FAILED
