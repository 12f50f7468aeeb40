"""Compresses closed segments beside the projections, if the operator asked for it.

The work is done in a thread: zstd and SHA-256 run there while the projections go on.

Invariant: an error here is logged once, and stops no projection.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventlog import EventLogError, compress_log
from eventlog.plumbing import run_in_thread
from projections.runtime.pause import wait_for_event

logger = logging.getLogger(__name__)

INTERVAL_S = 60.0  # a segment of 64 MiB takes longer to fill
STOP_S_MAX = 5.0  # compression stops at the next frame; reading back goes to the end


class _StopRequested(Exception):
    """The daemon was asked to stop."""


@asynccontextmanager
async def compress_in_background(
    home: Path, *, once: bool, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Compresses while the block runs; with `once`, one round to its end."""
    task = asyncio.create_task(_compression_loop(home, once=once, stop=stop), name="compress")
    stopping = asyncio.create_task(stop.wait())
    try:
        yield
        if once:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        await asyncio.wait({task}, timeout=STOP_S_MAX)
        for one in (task, stopping):
            one.cancel()


async def _compression_loop(home: Path, *, once: bool, stop: asyncio.Event) -> None:
    def raise_if_stopped(_done: int, _total: int) -> None:
        if stop.is_set():
            raise _StopRequested

    last_logged = ""
    while not stop.is_set():
        problem = ""
        try:
            report = await run_in_thread(lambda: compress_log(home, progress=raise_if_stopped))
            problem = "; ".join(f"{left.segment} stays: {left.problem}" for left in report.damaged)
        except _StopRequested:
            return
        except (EventLogError, OSError) as error:
            problem = str(error)
        if problem and problem != last_logged:
            logger.error("not_compressed problem=%s", problem)
        elif last_logged and not problem:  # at the level of its beginning
            logger.error("compressed_again")
        last_logged = problem
        if once:
            return
        await wait_for_event(stop, INTERVAL_S)
