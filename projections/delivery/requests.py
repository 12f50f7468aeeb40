"""Operator requests: retries, replays and discards, executed by the process that delivers.

They are written into `data/alpine.db`, where the delivering daemon finds them. Without a daemon
they are executed here, under the lease, so that one process delivers in any case.

Invariant: a request without an outcome stays in the outbox.
"""

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from projections.delivery.lease import DeliveryLease
from projections.delivery.outbox import DISCARD, DISCARDED, DUPLICATE, GONE, PARKED, STORED, Outbox
from projections.delivery.projection import AlpineConfig, AlpineProjection, open_outbox
from projections.delivery.state import DeliveryState
from projections.errors import ProjectionError, ProjectionStalled

POLL_S = 0.05
STUCK_S = 3.0  # the probe that our request causes has ended by then
PROGRESS_S_MAX = 60.0  # a delivering daemon completes some request within this


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    """Counts of signals by outcome."""

    asked: int
    stored: int = 0  # by Alpine
    duplicate: int = 0  # Alpine had them before
    parked: int = 0  # tried, and not accepted
    discarded: int = 0
    gone: int = 0  # not parked, or no signal
    left: int = 0  # not executed yet: the next delivery does it


async def execute_request(
    home: Path,
    config: AlpineConfig,
    what: str,
    seqs: Iterable[int],
    *,
    make_projection: Callable[[AlpineConfig], AlpineProjection] = AlpineProjection,
) -> RequestCounts:
    """Requests `what` for these signals; returns when it is done or cannot be done now.

    Raises ProjectionError when no process delivers and this one cannot.
    """
    requester = secrets.token_hex(8)
    with closing(open_outbox(home)) as outbox:
        try:
            outbox.request(requester, what, seqs)
            await _wait_until_done(home, config, what, requester, outbox, make_projection)
            counts = outbox.outcomes(requester)
            outbox.delete_answered(requester)
        except sqlite3.Error as error:
            raise ProjectionError(
                f"the delivery state cannot be used: {error}", where=str(home / "data")
            ) from error
    return RequestCounts(
        asked=sum(counts.values()),
        stored=counts.get(STORED, 0),
        duplicate=counts.get(DUPLICATE, 0),
        parked=counts.get(PARKED, 0),
        discarded=counts.get(DISCARDED, 0),
        gone=counts.get(GONE, 0),
        left=counts.get(None, 0),
    )


async def _wait_until_done(
    home: Path,
    config: AlpineConfig,
    what: str,
    requester: str,
    outbox: Outbox,
    make_projection: Callable[[AlpineConfig], AlpineProjection],
) -> None:
    daemon_wait = _DaemonWait()
    while left := outbox.outcomes(requester).get(None, 0):
        lock = DeliveryLease.take(home)
        if lock is None:  # a daemon delivers
            if daemon_wait.is_over(left, str(outbox.state().get("state"))):
                return
            await asyncio.sleep(POLL_S)
            continue
        if what == DISCARD:
            try:
                outbox.execute_discards(requester)
            finally:
                lock.release()
            continue
        lock.release()
        if config.disabled is not None:
            outbox.cancel_requests(requester)
            config.require_valid()
            raise ProjectionError(
                f"nothing is delivered: {config.disabled}",
                where=str(home),
                do="set ALPINE_API_URL and ALPINE_API_KEY_FILE, or start the daemon "
                "(`eventlog project alpine`) with them",
            )
        if not await _deliver(home, make_projection(config)):
            return


async def _deliver(home: Path, projection: AlpineProjection) -> bool:
    """Executes the requests in this process; False while Alpine accepts nothing."""
    try:
        await projection.open(home)
    except ProjectionStalled:
        await asyncio.sleep(POLL_S)
        return True  # another process has begun to deliver, or the disk is full for now
    try:
        await projection.drain()
        return True
    except ProjectionStalled:
        return False
    finally:
        await projection.close()


class _DaemonWait:
    """Decides how long to wait for a daemon to execute our requests."""

    def __init__(self) -> None:
        self._left = -1
        self._since_s = self._delivering_s = time.monotonic()

    def is_over(self, left: int, state: str) -> bool:
        now_s = time.monotonic()
        if left != self._left:
            self._left, self._since_s = left, now_s
        if state == DeliveryState.DELIVERING:
            self._delivering_s = now_s
        return now_s - self._since_s > PROGRESS_S_MAX or now_s - self._delivering_s > STUCK_S
