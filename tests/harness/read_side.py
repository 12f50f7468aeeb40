"""Small verbs for tests of the read side: append, project, run a projector.

    append(home, a_signal(1))
    project(home)                     catches up, as `eventlog project sqlite --once` does
    async with running(Projector(...)) as task:
        await until_async(lambda: checkpoint_seq_of(projector) == 1)

Invariant: they use the public interface only.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from eventlog import EventLog, EventLogError
from projections import Pace, Projector
from projections.sqlite.projection import SqliteProjection
from tests.harness.deadline import DEADLINE_S


def append(home: Path, *items: Mapping[str, object], segment_bytes: int = 1 << 20) -> None:
    """Appends items in one durable write."""
    with EventLog(home, segment_bytes=segment_bytes) as log:
        log.append_many(items)


def project(home: Path, pace: Pace | None = None) -> None:
    """Brings the SQLite table up to the end of the log."""
    asyncio.run(Projector(home, SqliteProjection(), pace=pace).run(once=True))


@asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the projector as a daemon does, and stops it at the end of the block."""
    task = asyncio.create_task(projector.run())
    try:
        yield task
    finally:
        projector.stop()
        with suppress(EventLogError):
            await asyncio.wait_for(task, DEADLINE_S)


def checkpoint_seq_of(projector: Projector) -> int:
    """The seq of the checkpoint; -1 before the projector has one."""
    return projector.checkpoint.seq if projector.checkpoint is not None else -1
