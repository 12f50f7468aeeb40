"""The daemon that follows a stream: it keeps this home a replica of the primary's.

Invariant: a home with a log of its own becomes a replica only where that was asked for.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from eventlog.plumbing import (
    Follower,
    ReplicaLog,
    ReplicaState,
    StreamEngine,
    StreamSettings,
    fence_state,
    open_stream,
    printable,
    read_mirror_record,
    state_of_log,
)
from projections.errors import ProjectionError
from projections.replication.follow_record import FollowFigures, FollowRecord
from projections.runtime.pause import wait_for_event
from projections.runtime.stop_signals import ignore_stop_signals, stop_by_signal
from projections.runtime.systemd import Notifier

logger = logging.getLogger(__name__)  # started, ready, caught up, stopping, stopped: nothing else

STOP_S_MAX = 5.0  # for the write in progress, and for an answer of the servers
RECORD_S = 0.5  # between two records: `status` is so old at most
STATUS_S = 5.0  # between two status lines for systemd; WatchdogSec= must be a few times that

Opener = Callable[[StreamSettings], Awaitable[StreamEngine]]


def follow(
    home: Path,
    settings: StreamSettings,
    *,
    once: bool,
    from_backup: bool,
    notify_socket: str | None,
    open_engine: Opener = open_stream,
) -> Follower:
    """Follows until SIGTERM or SIGINT, or with `once` until the end that the stream has now.

    `from_backup`: the log of the home was restored, and is to become that of a replica. Returns the
    follower, with its figures. Raises ProjectionError where the home has a log of its own or
    another process follows, and what `Follower.run` raises.
    """
    log = ReplicaLog.open(home)
    try:
        _prepare(log, settings, from_backup=from_backup)
        daemon = _Daemon(home, log, settings, once=once, notifier=Notifier(notify_socket))
    except BaseException:
        log.drop()
        raise
    try:
        asyncio.run(daemon.run(lambda: open_engine(settings)))
    finally:
        ignore_stop_signals()
    return daemon.follower


def _prepare(log: ReplicaLog, settings: StreamSettings, *, from_backup: bool) -> None:
    """Makes a new home a replica. Raises ProjectionError where the home is not to be one."""
    fence = fence_state(log.home)
    if fence is not None:
        raise ProjectionError(
            f"this home is fenced: {fence.to_text()}",
            where=log.home,
            do="run `eventlog rejoin`, which sets aside what only this home has",
        )
    state, tip = log.state, log.catch_up()
    if state is not None:
        require_stream(state, settings, log.home)
    if state is None and tip.seq == 0:
        log.begin(ReplicaState(stream=settings.name), tip)
    elif state is None and not from_backup:
        raise _own_log_error(log.home, settings, tip.seq)


def _own_log_error(home: str, settings: StreamSettings, last_seq: int) -> ProjectionError:
    """The error for a home that is no replica: what it seems to be, and what to do then."""
    rejoin = "run `eventlog rejoin`, which sets aside what only this home has"
    seed = "if this log was restored from a backup to seed a replica, add --from-backup"
    record = read_mirror_record(home)
    if record is not None and record.stream == settings.stream:
        return ProjectionError(
            f"this home was the primary of the stream {settings.name}, and may be it still",
            where=home,
            do=f"if another home was promoted, {rejoin}; else nothing is to be done",
        )
    known = state_of_log(home, settings.name, last_seq)
    if known.primary is not None:
        return ProjectionError(
            f"this home has a log of its own, of which {known.primary} became the primary (epoch "
            f"{known.epoch}), and may be that home",
            where=home,
            do=f"if another home was promoted since then, {rejoin}; {seed}",
        )
    return ProjectionError(
        "this home has a log of its own, and may be the primary",
        where=home,
        do=f"use a new home; {seed}",
    )


def require_stream(state: ReplicaState, settings: StreamSettings, home: str) -> None:
    """Raises ProjectionError unless the replica follows the stream of these settings."""
    if state.stream != settings.name:
        raise ProjectionError(
            f"this home is a replica of the stream {state.stream}, not of {settings.name}",
            where=home,
            do="set EVENTLOG_STREAM to the stream that it follows, or use a new home",
        )


class _Daemon:
    """One run."""

    def __init__(
        self,
        home: Path,
        log: ReplicaLog,
        settings: StreamSettings,
        *,
        once: bool,
        notifier: Notifier,
    ) -> None:
        self._record = FollowRecord(home)
        self._log = log
        self._settings = settings
        self._once = once
        self._notifier = notifier
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._logged: set[str] = set()  # lifecycle events
        self._has_write_failed = False
        self.follower: Follower

    async def run(self, open_engine: Callable[[], Awaitable[StreamEngine]]) -> None:
        """Runs everything to its end."""
        stop_by_signal(self._stop)
        self.follower = Follower(
            open_engine, self._log, stream=self._settings.name, on_change=self._on_change
        )
        home = printable(self._log.home)
        where = printable(self._settings.where)
        self._log_step("started", f"version={version('signal-eventlog')} home={home} from {where}")
        following = asyncio.create_task(self.follower.run(self._stop, once=self._once))
        others = [asyncio.create_task(task) for task in (self._keep_record(), self._keep_status())]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._log_step("stopping", "")
            self._notifier.send(STOPPING="1")
            self._stop.set()
            _, late = await asyncio.wait({following}, timeout=STOP_S_MAX)
            for task in (*late, *others, stopping):
                task.cancel()
            for task in late:
                with suppress(asyncio.CancelledError):
                    await task
            self._record.close(self._figures())
        if not following.cancelled():
            following.result()
        self._log_step("stopped", "")

    def _figures(self) -> FollowFigures:
        return FollowFigures(stream_seq=self.follower.stream_seq, resets=self.follower.resets)

    def _on_change(self) -> None:
        self._changed.set()
        if not self._logged & {"ready"}:
            self._notifier.send(READY="1")
            self._log_step("ready", str(self.follower))
        if self.follower.is_following and not self.follower.lag_entries:
            self._log_step("caught_up", str(self.follower))

    async def _keep_record(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                self._record.write(self._figures(), self.follower.reason)
                self._has_write_failed = False
            except OSError as error:  # such as a full disk, which the follower meets too
                if not self._has_write_failed:
                    logger.warning("follow_record_not_written error=%s", error)
                self._has_write_failed = True
            await asyncio.sleep(RECORD_S)

    async def _keep_status(self) -> None:
        """Notifies systemd, and resets its watchdog unless a write hangs."""
        while not await wait_for_event(self._stop, STATUS_S):
            started_s = self.follower.write_started_s
            is_stuck = started_s is not None and time.monotonic() - started_s > STATUS_S
            self._notifier.send(
                STATUS=str(self.follower), **({} if is_stuck else {"WATCHDOG": "1"})
            )

    def _log_step(self, event: str, text: str) -> None:
        """Logs a step of a daemon's life, once. A run with `once` is a command, and logs none."""
        if event not in self._logged and not self._once:
            logger.info("%s %s" if text else "%s", *((event, text) if text else (event,)))
        self._logged.add(event)
