"""The run files: `run/<projection>.json` names the process that runs a projection.

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
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from eventlog import EventLogError
from eventlog.plumbing import FileLock
from projections.run_directory import RUN_FILE_SUFFIX, run_lock

logger = logging.getLogger(__name__)

RETRY_S = 1.0  # between two tries at a file that another process holds, or that has no space
RUNNING = "running"  # the state of a projection whose file is locked


@asynccontextmanager
async def holding_run_files(home: Path, names: Sequence[str]) -> AsyncIterator[None]:
    """Holds the run files of these projections while the block runs.

    A file that another process holds is taken once that process has ended. Raises UnsafePath, and
    ProjectionError where the home is not there.
    """
    since = datetime.now(UTC).isoformat(timespec="microseconds")
    report = json.dumps({"pid": os.getpid(), "since": since, "state": RUNNING})
    locks = [run_lock(home, f"{quote(name, safe='')}{RUN_FILE_SUFFIX}") for name in names]
    task = None
    try:
        left = [lock for lock in locks if not _take(lock, report)]
        task = asyncio.create_task(_take_later(left, report), name="run files")
        yield
    finally:
        if task is not None:
            task.cancel()
        for lock in locks:
            lock.drop()


def _take(lock: FileLock, report: str) -> bool:
    """Takes the file if it is free, and writes the report into it."""
    try:
        if not lock.try_take():
            return False
        lock.write(report.encode() + b"\n")
    except OSError as error:  # such as a full disk, which stops no projection
        logger.warning("run_file_not_written error=%s", error)
        lock.drop()
        return False
    return True


async def _take_later(locks: list[FileLock], report: str) -> None:
    while locks:
        await asyncio.sleep(RETRY_S)
        with suppress(EventLogError):  # the home was moved: the projections report it
            locks = [lock for lock in locks if not _take(lock, report)]
