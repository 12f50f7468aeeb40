"""The parts of a running console, which its handlers share.

Invariant: nothing here changes the home.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventlog.plumbing import run_in_thread
from projections.web.answers import Redactor
from projections.web.live import LiveStatus, Streams
from projections.web.outcomes.cache import Outcomes
from projections.web.pages import load_static
from projections.web.views.live_log import LiveLog
from projections.web.views.moment import Moments
from projections.web.views.signals import SignalCount
from projections.web.views.vitals import Vitals
from projections.web.workers import Workers


class Console:
    """The state of one console."""

    def __init__(self, home: Path, *, is_read_only: bool) -> None:
        self.home = home = home.absolute()  # so that every text has it in the form that is replaced
        self.is_read_only = is_read_only
        self.static = load_static()
        self.redactor = Redactor(home)
        self.workers = Workers()
        self.moments = Moments(home)
        self.signal_count = SignalCount(home)
        self.outcomes = Outcomes(home)
        self.log = LiveLog(home)
        self.vitals = Vitals(home, self.log, self.redactor, is_read_only=is_read_only)
        self.streams = Streams(
            self.log,
            LiveStatus(
                self.vitals.whole,
                self.vitals.point,
                lambda: self.vitals.number,
                self.vitals.problem,
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows the log and samples the status during the block. Raises LogNotFound."""
        await run_in_thread(self.log.load)
        await self.vitals.sample()
        tasks = {
            "the log is not followed": asyncio.create_task(self.log.follow()),
            "the status is not read": asyncio.create_task(self.vitals.keep_sampling()),
        }
        self.vitals.tasks_problem = lambda: _ended(tasks)
        try:
            yield
        finally:
            self.log.stop()
            self.outcomes.end()
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)


def _ended(tasks: dict[str, "asyncio.Task[None]"]) -> str | None:
    """The first background task that has ended, and its error; None while all run."""
    for name, task in tasks.items():
        if task.done():
            error = None if task.cancelled() else task.exception()
            return f"{name}: {'it was cancelled' if error is None else type(error).__name__}"
    return None
