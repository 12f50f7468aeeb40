"""Writes the run files: `run/<projection>.json` names the process that runs a projection.

A pid alone says nothing across containers and restarts. So the process holds the lock of the file
as long as it runs the projection; a file without a lock was left by one that has ended.

Invariant: the process that holds the lock of a run file is the one that the file names.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from eventlog import EventLogError
from projections.run_directory import STOPPED, RunState, run_file_name, run_lock

logger = logging.getLogger(__name__)

RETRY_S = 1.0  # between two tries at a file that another process holds, or that has no space


class RunFile:
    """The run file of one projection, held by this process once no other one holds it."""

    def __init__(self, home: Path, projection: str, pending: asyncio.Event) -> None:
        self._lock = run_lock(home, run_file_name(projection))
        self._pending = pending  # set when a later flush must be tried
        self._state: RunState | None = None
        self._is_taken = False
        self._has_write_failed = False
        self.is_pending = True  # not taken yet, or not written since the last change

    def report(self, *, state: str, since: str, reason: str | None) -> None:
        """Writes the state, now or once the file is free or there is space."""
        new = RunState(state=state, pid=os.getpid(), since=since, reason=reason)
        if new != self._state:
            self._state = new
            self.is_pending = True
            with suppress(EventLogError):  # the home was moved: the projections report it
                self.flush()
            if self.is_pending:
                self._pending.set()

    def flush(self) -> None:
        """Takes the file if it is free, and writes the state into it.

        Raises UnsafePath, and ProjectionError where the home is not there.
        """
        try:
            self._is_taken = self._is_taken or self._lock.try_take()
            if self._is_taken and self._state is not None:
                self._lock.write(json.dumps(self._state.to_json()).encode() + b"\n")
                self.is_pending = False
        except OSError as error:  # such as a full disk, which stops no projection
            if not self._has_write_failed:
                logger.warning("run_file_not_written error=%s", error)
            self._has_write_failed = True
            return
        if self._has_write_failed and not self.is_pending:
            logger.warning("run_file_written_again")
            self._has_write_failed = False

    def release(self) -> None:
        """Writes that the projection has stopped, and lets another process take the file."""
        if self._is_taken and self._state is not None:
            since = datetime.now(UTC).isoformat(timespec="microseconds")
            self._state = replace(self._state, state=STOPPED, since=since, reason=None)
            with suppress(EventLogError):
                self.flush()
        self._lock.drop()


@asynccontextmanager
async def holding_run_files(home: Path, names: Sequence[str]) -> AsyncIterator[dict[str, RunFile]]:
    """Holds the run files of these projections while the block runs, and yields them by name.

    A file that another process holds is taken once that process has ended. Raises UnsafePath, and
    ProjectionError where the home is not there.
    """
    pending = asyncio.Event()
    files = {name: RunFile(home, name, pending) for name in names}
    task = None
    try:
        for file in files.values():
            file.flush()
        task = asyncio.create_task(_flush_later(list(files.values()), pending), name="run files")
        yield files
    finally:
        if task is not None:
            task.cancel()
        for file in files.values():
            file.release()


async def _flush_later(files: list[RunFile], pending: asyncio.Event) -> None:
    while True:
        await pending.wait()
        pending.clear()
        await asyncio.sleep(RETRY_S)
        for file in files:
            if file.is_pending:
                with suppress(EventLogError):  # the home was moved: the projections report it
                    file.flush()
        if any(file.is_pending for file in files):
            pending.set()
