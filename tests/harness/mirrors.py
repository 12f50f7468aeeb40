"""Runs the mirror of a home in this process, against real servers or a scripted stream.

    mirror_once(home, server.settings("main"))        what `project mirror --once` does
    async with mirroring(home, settings) as mirror:   what the daemon does
        await until_async(lambda: mirror.seq == 5)

Invariant: no mirror outlives the block or the call that runs it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventlog.plumbing import MirrorRecord, StreamSettings, open_stream, read_mirror_record
from projections.projection import Checkpoint, Projection
from projections.replication.mirror import MirrorProjection, Opener
from projections.runtime.batcher import Pace
from projections.runtime.projector import Projector
from projections.runtime.supervisor import Supervisor

LOOK_S = SETTLE_S = 0.05


def a_mirror(
    settings: StreamSettings, opener: Opener = open_stream, settle_s: float = SETTLE_S
) -> MirrorProjection:
    """A mirror that looks at the end of the stream twenty times a second."""
    return MirrorProjection(settings, open_engine=opener, look_s=LOOK_S, settle_s=settle_s)


def mirror_once(
    home: Path,
    settings: StreamSettings,
    opener: Opener = open_stream,
    *,
    batch_entries: int = 1000,
    once_stall_s: float = 0.2,
) -> Checkpoint:
    """Mirrors what the log holds, and returns the checkpoint. Raises what ends it."""
    pace = Pace(batch_entries=batch_entries, once_stall_s=once_stall_s)
    projector = Projector(home, a_mirror(settings, opener), pace=pace)
    asyncio.run(projector.run(once=True))
    assert projector.checkpoint is not None
    return projector.checkpoint


@asynccontextmanager
async def mirroring(
    home: Path,
    settings: StreamSettings,
    opener: Opener = open_stream,
    *,
    settle_s: float = SETTLE_S,
) -> AsyncIterator["RunningMirror"]:
    """A mirror that runs, restarted after a failure as in the daemon."""

    def make(_name: str) -> Projection:
        return a_mirror(settings, opener, settle_s)

    failures: list[str] = []

    def note(changed: Supervisor) -> None:
        if changed.failure is not None and changed.failure.reason not in failures:
            failures.append(changed.failure.reason)

    supervisor = Supervisor(home, "mirror", make=make, on_change=note)
    task = asyncio.create_task(supervisor.run())
    try:
        yield RunningMirror(home, supervisor, failures)
    finally:
        supervisor.stop()
        await task


class RunningMirror:
    """A mirror that runs in a task."""

    def __init__(self, home: Path, supervisor: Supervisor, failures: list[str]) -> None:
        self._home = home
        self.supervisor = supervisor
        self.failures = failures  # the reasons of all so far, also where it runs again

    @property
    def seq(self) -> int:
        """The seq of its checkpoint; -1 while it is not open."""
        checkpoint = self.supervisor.checkpoint
        return -1 if checkpoint is None else checkpoint.seq

    @property
    def acked(self) -> int:
        """What the stream has acknowledged by the record of the home; 0 where there is none yet."""
        record = read_mirror_record(self._home)
        return 0 if record is None else record.acked

    @property
    def state(self) -> str | None:
        """Its state by the record of the home."""
        record = read_mirror_record(self._home)
        return None if record is None else record.state


def record_of(home: Path) -> MirrorRecord:
    """The record of a home that has one."""
    record = read_mirror_record(home)
    assert record is not None, "there is no record"
    return record
