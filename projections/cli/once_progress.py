"""The progress of `project --once`, on a terminal.

Invariant: it reads what the projections report, and never delays them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from eventlog import EventLog, EventLogError
from eventlog.plumbing import progress_bar, run_in_thread
from projections.runtime.home_log import last_entry_seq
from projections.runtime.supervisor import Supervisor

POLL_S = 0.1  # between two reads of the checkpoints


@asynccontextmanager
async def showing_progress(home: Path, supervisors: Sequence[Supervisor]) -> AsyncIterator[None]:
    """Shows how many entries were applied, of those that were missing, while the block runs."""
    names = ", ".join(supervisor.name for supervisor in supervisors)
    with progress_bar(f"projecting {names}", "entry") as progress:
        if not progress.is_shown:
            yield
            return
        end_seq = await run_in_thread(lambda: _last_seq(home))

        def report() -> None:
            applied = sum(supervisor.counters.entries for supervisor in supervisors)
            missing = sum(
                max(0, end_seq - supervisor.checkpoint.seq)
                for supervisor in supervisors
                if supervisor.checkpoint is not None
            )
            if applied:
                progress(applied, applied + missing, applied)

        async def report_repeatedly() -> None:
            while True:
                await asyncio.sleep(POLL_S)
                report()

        task = asyncio.create_task(report_repeatedly(), name="progress")
        try:
            yield
        finally:
            task.cancel()
            report()


def _last_seq(home: Path) -> int:
    try:
        with EventLog(home) as log:
            return last_entry_seq(log)
    except (EventLogError, OSError):
        return 0  # the projectors meet the same error, and report it
