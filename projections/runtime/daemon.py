"""The daemon: runs one or more projections in one process, each supervised on its own.

It waits for the log of its home, and ends when it is stopped or when the log itself is damaged.

Invariant: a projection never stops silently, and a failing one stops no other.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from eventlog import EventLog, EventLogError, LogNotFound, ThreadUnavailable
from eventlog.plumbing import LogWatch, printable, run_in_thread
from projections.projection import Checkpoint
from projections.run_directory import warn_of_older_daemon
from projections.runtime.batcher import Pace
from projections.runtime.home_log import WAITING_TEXT, require_log, wait_for_log
from projections.runtime.run_files import RunFile, holding_run_files
from projections.runtime.stop_signals import ignore_stop_signals, stop_by_signal
from projections.runtime.supervisor import Supervisor
from projections.runtime.systemd import Notifier

logger = logging.getLogger(__name__)  # start, ready, caught up, stopping, stopped: nothing else

STOP_S_MAX = 7.0  # for the work in progress at a stop; then it is abandoned
STATUS_S = 5.0  # between two status lines for systemd; WatchdogSec= must be a few times that

# A context that runs something beside the projections of a daemon.
Service = Callable[[Sequence[Supervisor], asyncio.Event], AbstractAsyncContextManager[None]]


class Services(NamedTuple):
    """What runs beside the projections."""

    from_start: Sequence[Service] = ()  # also while there is no log
    with_log: Sequence[Service] = ()


def run(
    home: Path,
    names: list[str],
    pace: Pace,
    *,
    once: bool,
    notify_socket: str | None,
    services: Services | None = None,
) -> None:
    """Runs the projections until SIGTERM or SIGINT, or with `once` until they have caught up.

    Without `once` it waits for the log, and restarts a projection that fails. With `once` it does
    all it can, and then raises the errors of the projections that failed: a single error, or an
    ExceptionGroup of them. Both raise LogCorrupt and LogDiverged for damage of the log itself, and
    the error of a service.
    """
    with nullcontext() if once else suppress(LogNotFound):
        require_log(home)  # before anything starts
    daemon = _Daemon(home, names, pace, once=once, notifier=Notifier(notify_socket))
    try:
        asyncio.run(daemon.run(services or Services()))
    finally:
        ignore_stop_signals()
    errors = daemon.errors()
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} projections failed", errors)


class _Daemon:
    """One run of the daemon."""

    def __init__(
        self, home: Path, names: list[str], pace: Pace, *, once: bool, notifier: Notifier
    ) -> None:
        self._home = home
        self._shown_home = printable(str(home.absolute()))
        self._once = once
        self._notifier = notifier
        self._stop = asyncio.Event()
        self._run_files: dict[str, RunFile] = {}
        self._log_errors: list[EventLogError] = []
        self._logged: set[str] = set()  # lifecycle events
        self._is_ready = False
        watch = LogWatch(home)  # one for all: waiting for file events has a price
        self._supervisors = [
            Supervisor(home, name, pace=pace, on_change=self._on_change, watch=watch)
            for name in names
        ]

    def errors(self) -> list[EventLogError]:
        """What ended the run: damage of the log; with `once`, also the failures of projections."""
        failures = [s.failure.error for s in self._supervisors if s.failure is not None]
        return [*self._log_errors, *(failures if self._once else ())]

    async def run(self, services: Services) -> None:
        """Runs everything to its end."""
        stop_by_signal(self._stop)
        self._log(
            "started",
            f"version={version('signal-eventlog')} home={self._shown_home} projections="
            + ",".join(supervisor.name for supervisor in self._supervisors),
        )
        async with AsyncExitStack() as running:
            for service in services.from_start:
                await running.enter_async_context(service(self._supervisors, self._stop))
            if self._once or await self._wait_for_log():
                warn_of_older_daemon(self._home)
                names = [supervisor.name for supervisor in self._supervisors]
                self._run_files = await running.enter_async_context(
                    holding_run_files(self._home, names)
                )
                for service in services.with_log:
                    await running.enter_async_context(service(self._supervisors, self._stop))
                await self._run_all()
        self._log("stopped", "")

    async def _wait_for_log(self) -> bool:
        loop = asyncio.get_running_loop()
        next_status_s = loop.time()

        def on_wait() -> None:
            nonlocal next_status_s
            self._log("waiting_for_log", f"home={self._shown_home}: {WAITING_TEXT}")
            self._set_ready()
            if loop.time() >= next_status_s:
                next_status_s = loop.time() + STATUS_S
                self._notifier.send(STATUS=WAITING_TEXT, WATCHDOG="1")

        found = await wait_for_log(self._home, self._stop, on_wait)
        if not found:
            self._set_stopping()
        return found

    async def _run_all(self) -> None:
        tasks = [
            asyncio.create_task(supervisor.run(once=self._once), name=supervisor.name)
            for supervisor in self._supervisors
        ]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._wait_for_end(tasks, stopping)
        finally:
            self._set_stopping()
            for supervisor in self._supervisors:
                supervisor.stop()
            _, late = await asyncio.wait(tasks, timeout=STOP_S_MAX)
            for task in (*late, stopping):
                task.cancel()
        for task in tasks:
            if task.done() and not task.cancelled():
                self._add_log_error(task.exception())

    def _add_log_error(self, error: BaseException | None) -> None:
        """Keeps the error that a supervisor raised. Several may meet the same fault of the log."""
        if error is None:
            return
        if not isinstance(error, EventLogError):
            raise error
        if str(error) not in map(str, self._log_errors):
            self._log_errors.append(error)

    async def _wait_for_end(
        self, tasks: list[asyncio.Task[None]], stopping: asyncio.Task[bool]
    ) -> None:
        """Returns on a stop, when all are done or, without `once`, when the log is damaged."""
        previous: list[Checkpoint | None] = []
        while not stopping.done():
            is_damaged = any(task.done() and task.exception() is not None for task in tasks)
            running = {task for task in tasks if not task.done()}
            if not running or (is_damaged and not self._once):
                return
            waited = running | {stopping}
            done, _ = await asyncio.wait(
                waited, timeout=STATUS_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                previous = await self._report_status(previous)

    async def _report_status(self, previous: list[Checkpoint | None]) -> list[Checkpoint | None]:
        """Notifies systemd, and returns the checkpoints, to be compared the next time."""
        self._notifier.send(STATUS=", ".join(map(str, self._supervisors)))
        try:
            last_seq = await run_in_thread(lambda: _last_seq(self._home))
        except ThreadUnavailable:
            last_seq = 0  # the projectors stall, and say so
        if all(
            supervisor.is_healthy(last_seq) or supervisor.checkpoint not in previous
            for supervisor in self._supervisors
        ):
            self._notifier.send(WATCHDOG="1")
        return [supervisor.checkpoint for supervisor in self._supervisors]

    def _on_change(self, changed: Supervisor) -> None:
        self._notifier.send(WATCHDOG="1")
        file = self._run_files.get(changed.name)
        if file is not None:
            reason = changed.failure.reason if changed.failure is not None else None
            file.report(state=changed.state, since=changed.since, reason=reason)
        running = [s for s in self._supervisors if s.failure is None]
        if all(supervisor.checkpoint for supervisor in running):
            self._set_ready()
            self._log("ready", "")
            if running and all(supervisor.has_caught_up for supervisor in running):
                self._log("caught_up", ", ".join(map(str, running)))

    def _set_ready(self) -> None:
        if not self._is_ready:
            self._notifier.send(READY="1")
        self._is_ready = True

    def _set_stopping(self) -> None:
        self._log("stopping", "")
        self._notifier.send(STOPPING="1")

    def _log(self, event: str, text: str) -> None:
        """Logs a step of a daemon's life, once. A run with `once` is a command, and logs none."""
        if event not in self._logged and not self._once:
            self._logged.add(event)
            logger.info("%s %s" if text else "%s", *((event, text) if text else (event,)))


def _last_seq(home: Path) -> int:
    try:
        with EventLog(home) as log:
            return log.last_seq
    except (EventLogError, OSError):
        return 0  # the projectors meet the same error, and raise it or stall
