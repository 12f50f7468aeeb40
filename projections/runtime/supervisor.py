"""Supervises one projection: makes it, runs it, and restarts it after a failure, with back-off.

The projections of a daemon are isolated by it: whatever one of them raises is its own failure, with
a reason that `status`, `/health` and `/metrics` show, and the others go on.

Invariant: only damage of the log itself, or its loss, leaves `run`; a failure of the projection is
kept in `failure` until the restarted projection has applied a batch, or has none to apply.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog import EventLogError, LogCorrupt, LogDiverged, LogNotFound
from eventlog.plumbing import printable
from projections.errors import ProjectionError
from projections.projection import (
    Checkpoint,
    Drainable,
    Projection,
    RequestCounters,
    RequestMetered,
)
from projections.run_directory import FAILED, RUNNING
from projections.runtime.batcher import Pace
from projections.runtime.containment import contained, is_cancelled
from projections.runtime.home_log import require_log
from projections.runtime.pause import wait_for_event
from projections.runtime.projector import BatchCounters, Projector
from projections.runtime.registry import make_projection

if TYPE_CHECKING:
    from eventlog.plumbing import LogWatch

logger = logging.getLogger(__name__)

RESTART_S_MIN, RESTART_S_MAX = 1.0, 300.0  # before a restart; doubled after each failure
STABLE_S = 60.0  # after a run of so long, the next failure counts as the first
REASON_CHARS_MAX = 500  # of a foreign error, which may have any length


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a projection has failed."""

    error: EventLogError  # names the projection: what, where, what to do
    reason: str  # without that name
    kind: str  # the class of the error: a metric holds no text
    is_foreign: bool  # not one of our errors: its text may be anything


class Supervisor:
    """Runs the projection `name` of one home until it is stopped, through all its failures.

    `on_change` is called after each batch, and each time `state` or `failure` changes.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        pace: Pace | None = None,
        on_change: Callable[["Supervisor"], object] | None = None,
        make: Callable[[str], Projection] = make_projection,
        watch: "LogWatch | None" = None,
    ) -> None:
        self._home = home
        self._pace = pace
        self._on_change = on_change
        self._make = make
        self._watch = watch
        self._stop = asyncio.Event()
        self._projector: Projector | None = None  # None before it runs, and between two runs
        self.name = name
        self.failure: Failure | None = None
        self.since = ""  # when `state` began, as RFC 3339 text; set by `run`
        self.counters = BatchCounters()  # of all runs
        self._is_external = False

    # -- what it shows

    @property
    def state(self) -> str:
        """RUNNING or FAILED."""
        return RUNNING if self.failure is None else FAILED

    @property
    def has_started(self) -> bool:
        """Whether `run` was called."""
        return bool(self.since)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    @property
    def is_external(self) -> bool:
        """Whether the projection depends on another service: see Drainable."""
        return self._is_external

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint; None while the projection is not open."""
        return self._projector.checkpoint if self._projector is not None else None

    @property
    def stalled(self) -> str | None:
        """Why the last try at a batch was put off."""
        return self._projector.stalled if self._projector is not None else None

    @property
    def is_watched(self) -> bool | None:
        """Whether file events arrive; None: not known."""
        return self._projector.is_watched if self._projector is not None else None

    @property
    def has_caught_up(self) -> bool:
        """Whether it has reached the end that the log had when the projection was opened."""
        return self._projector is not None and self._projector.has_caught_up

    @property
    def requests(self) -> RequestCounters | None:
        """The counters of requests to another service, where it sends any."""
        projection: object = self._projector.projection if self._projector is not None else None
        return projection.requests if isinstance(projection, RequestMetered) else None

    def __str__(self) -> str:
        """One line of status."""
        if self.failure is not None:
            return f"{self.name} has failed: {self.failure.reason}"
        return (
            str(self._projector) if self._projector is not None else f"{self.name} is not open yet"
        )

    def is_healthy(self, last_seq: int) -> bool:
        """Whether it moves, or has a reason not to, such as the pause before a restart."""
        return self._projector is None or self._projector.is_healthy(last_seq)

    # -- what it does

    def stop(self) -> None:
        """Ends the intake; the batch in progress is committed."""
        self._stop.set()
        projector = self._projector
        if projector is not None:
            try:
                projector.stop()
            except BaseException as error:  # noqa: BLE001  # of the projection
                logger.warning("stop_failed projection=%s error=%s", self.name, _text_of(error))

    async def run(self, *, once: bool = False) -> None:
        """Runs the projection until stopped; with `once`, up to the end of the log, or one failure.

        Raises LogCorrupt, LogDiverged and LogNotFound of the log itself.
        """
        self.since = _now()
        self._report_change()
        restart_s = RESTART_S_MIN
        while not self._stop.is_set():
            started_s = time.monotonic()
            error = await self._run_once(once=once)
            if error is None or once:
                return
            if time.monotonic() - started_s >= STABLE_S:
                restart_s = RESTART_S_MIN
            await wait_for_event(self._stop, restart_s)
            restart_s = min(2 * restart_s, RESTART_S_MAX)

    async def _run_once(self, *, once: bool) -> BaseException | None:
        """Runs it to its end, and returns the error that ended it. Raises those of the log."""
        projector: Projector | None = None
        has_log = False
        try:
            require_log(self._home)
            has_log = True
            projector = await self._make_projector()
            await projector.run(once=once)
        except BaseException as error:
            if not has_log and isinstance(error, LogCorrupt | LogDiverged | LogNotFound):
                raise
            if projector is not None and projector.log_error is not None:
                raise projector.log_error from None
            if isinstance(error, GeneratorExit | asyncio.CancelledError) and is_cancelled():
                raise
            self._projector = None
            self._fail(error, once=once)
            return error
        return None

    async def _make_projector(self) -> Projector:
        async def make() -> Projection:
            return self._make(self.name)

        projection = await contained(make)
        self._is_external = isinstance(projection, Drainable)
        self._projector = Projector(
            self._home,
            projection,
            pace=self._pace,
            on_progress=self._on_progress,
            counters=self.counters,
            watch=self._watch,
        )
        if self._stop.is_set():  # meanwhile
            self.stop()
        return self._projector

    def _on_progress(self, _checkpoint: Checkpoint) -> None:
        projector = self._projector
        assert projector is not None, "it is the projector that reports"
        if self.failure is not None and (projector.has_applied or projector.has_caught_up):
            # At the level of the failure, so that a log shows both or neither.
            logger.error("projection_recovered projection=%s", self.name)
            self.failure, self.since = None, _now()
        self._report_change()

    def _fail(self, error: BaseException, *, once: bool) -> None:
        failure = _failure(self.name, error)
        is_new = self.failure is None or self.failure.reason != failure.reason
        if self.failure is None:
            self.since = _now()
        self.failure = failure
        # With `once` the command prints the error at its end, and repetitions are not news.
        level = logging.ERROR if is_new and not once else logging.INFO
        logger.log(
            level,
            "projection_failed projection=%s error=%s",
            self.name,
            failure.reason,
            exc_info=error if logger.isEnabledFor(logging.INFO) else None,
        )
        self._report_change()

    def _report_change(self) -> None:
        if self._on_change is not None:
            self._on_change(self)


def _failure(name: str, error: BaseException) -> Failure:
    if isinstance(error, EventLogError):
        what, where, do = error.what, error.where, error.do
        reason = str(error)
    else:
        what, where = reason, do = _text_of(error), ""
    return Failure(
        error=ProjectionError(f"the projection {name!r} failed: {what}", where=where, do=do),
        reason=reason,
        kind=type(error).__name__,
        is_foreign=not isinstance(error, EventLogError),
    )


def _text_of(error: BaseException) -> str:
    text = ""
    with suppress(Exception):  # a foreign __str__ may raise anything
        text = printable(str(error))
    if len(text) > REASON_CHARS_MAX:
        text = text[: REASON_CHARS_MAX - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
