"""The daemon: runs one or more projections in one process, which ends when one of them fails.

Invariant: a projection never stops silently: the process exits with its error.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from types import FrameType

from eventlog import EventLog, EventLogError, ThreadUnavailable
from eventlog.plumbing import require_home, run_in_thread
from projections.projection import Checkpoint
from projections.run_directory import warn_of_older_daemon
from projections.runtime.batcher import Pace
from projections.runtime.projector import Projector
from projections.runtime.registry import make_projection
from projections.runtime.run_files import holding_run_files
from projections.runtime.systemd import Notifier

logger = logging.getLogger(__name__)

STOP_S_MAX = 7.0  # for the work in progress at a stop; then it is abandoned
STATUS_S = 5.0  # between two status lines for systemd; WatchdogSec= must be a few times that
# A context that runs something beside the projections of a daemon.
Service = Callable[[Sequence[Projector], asyncio.Event], AbstractAsyncContextManager[None]]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(
    home: Path,
    names: list[str],
    pace: Pace,
    *,
    once: bool,
    notify_socket: str | None,
    services: Sequence[Service] = (),
) -> None:
    """Runs the projections until SIGTERM or SIGINT, or with `once` until they have caught up.

    `services` run beside the projections, and end before `run` returns.

    Raises LogNotFound without a log, and the error of a projection or service.
    """
    require_home(home)
    warn_of_older_daemon(home)
    try:
        asyncio.run(_run(home, names, pace, once, Notifier(notify_socket), services))
    finally:
        for number in _STOP_SIGNALS:  # all is closed: a second signal must not change the exit
            signal.signal(number, signal.SIG_IGN)


async def _run(
    home: Path,
    names: list[str],
    pace: Pace,
    once: bool,
    notifier: Notifier,
    services: Sequence[Service],
) -> None:
    projectors: list[Projector] = []
    is_ready = False

    def report_progress(_checkpoint: Checkpoint) -> None:
        nonlocal is_ready
        notifier.send(WATCHDOG="1")
        if not is_ready and all(projector.checkpoint for projector in projectors):
            is_ready = True
            notifier.send(READY="1")

    projectors.extend(
        Projector(home, make_projection(name), pace=pace, on_progress=report_progress)
        for name in names
    )
    stop = asyncio.Event()
    _stop_by_signal(stop)
    async with AsyncExitStack() as running:
        await running.enter_async_context(holding_run_files(home, names))
        for service in services:
            await running.enter_async_context(service(projectors, stop))
        await _run_all(home, projectors, once, stop, notifier)


def _stop_by_signal(stop: asyncio.Event) -> None:
    """Sets `stop` on a signal. The loop's own handlers are removed before the process ends."""
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop.set)

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)


async def _run_all(
    home: Path, projectors: list[Projector], once: bool, stop: asyncio.Event, notifier: Notifier
) -> None:
    tasks = [
        asyncio.create_task(projector.run(once=once), name=projector.projection.name)
        for projector in projectors
    ]
    for started in tasks:
        started.add_done_callback(_log_failure)
    stopping = asyncio.create_task(stop.wait())
    try:
        await _wait_for_end(home, tasks, stopping, projectors, notifier)
    finally:
        notifier.send(STOPPING="1")
        for projector in projectors:
            projector.stop()
        _, late = await asyncio.wait(tasks, timeout=STOP_S_MAX)
        for task in (*late, stopping):
            task.cancel()
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


def _log_failure(task: asyncio.Task[None]) -> None:
    """Logs each failure: several may meet the same fault, and the process raises only one."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("projection_stopped projection=%s error=%s", task.get_name(), error)


async def _wait_for_end(
    home: Path,
    tasks: list[asyncio.Task[None]],
    stopping: asyncio.Task[bool],
    projectors: list[Projector],
    notifier: Notifier,
) -> None:
    """Returns on a stop, when all are done, or when one fails."""
    previous: list[Checkpoint | None] = []
    while not stopping.done():
        has_failed = any(task.done() and task.exception() is not None for task in tasks)
        running = {task for task in tasks if not task.done()}
        if has_failed or not running:
            return
        waited = running | {stopping}
        done, _ = await asyncio.wait(waited, timeout=STATUS_S, return_when=asyncio.FIRST_COMPLETED)
        if done:
            continue
        notifier.send(STATUS=", ".join(map(str, projectors)))
        try:
            last_seq = await run_in_thread(lambda: _last_seq(home))
        except ThreadUnavailable:
            last_seq = 0  # the projectors stall, and say so
        current = [projector.checkpoint for projector in projectors]
        if all(p.is_healthy(last_seq) or p.checkpoint not in previous for p in projectors):
            notifier.send(WATCHDOG="1")
        previous = current


def _last_seq(home: Path) -> int:
    try:
        with EventLog(home) as log:
            return log.last_seq
    except (EventLogError, OSError):
        return 0  # the projectors meet the same error, and raise it or stall
