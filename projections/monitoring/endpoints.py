"""Serves `/health` and `/metrics` of a running daemon.

A snapshot is taken every few seconds, so that the start of a failure is known, and for each
request. Only one snapshot is taken at a time: a disk that hangs blocks one thread, however many
requests wait for it.

Invariant: it only reads, and does not slow the projectors down.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from projections.errors import ProjectionError
from projections.hosts import is_loopback
from projections.monitoring.health import Health, HealthResult
from projections.monitoring.snapshot import Snapshot, take_snapshot
from projections.runtime.supervisor import Supervisor
from projections.serving.address import Address, host_names

logger = logging.getLogger(__name__)

SAMPLE_INTERVAL_S = 5.0  # the age of a failure is known to this precision
SAMPLE_FRESH_S = 0.2  # requests within this time get the same snapshot


class ListenConfig(NamedTuple):
    """The address to serve, and how long a failure must persist before it is reported."""

    address: Address
    unhealthy_after_s: float
    names: tuple[str, ...] = ()  # further host names under which clients address it


@asynccontextmanager
async def serving_endpoints(
    home: Path, supervisors: Sequence[Supervisor], listen: ListenConfig
) -> AsyncIterator[None]:
    """Serves the endpoints during the block. Raises ProjectionError if it cannot listen."""
    try:
        from projections.monitoring.routes import make_app
        from projections.serving.server import serving
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"--listen needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[metrics]'`, or `pip install '.[metrics]'` in a"
            " checkout",
        ) from None
    sampler = SnapshotSampler(home, supervisors, listen.unhealthy_after_s)
    address, names = listen.address, host_names(listen.address, listen.names)
    async with serving(make_app(sampler.sample), address, names=names):
        if not is_loopback(address.host):
            logger.warning(
                "listening_unauthenticated address=%s: anyone who can reach it can read the "
                "metrics; restrict access by a firewall or a proxy",
                address,
            )
        sampling = asyncio.create_task(sampler.keep_sampling(), name="health-sampler")
        try:
            yield
        finally:
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
