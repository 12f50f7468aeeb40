"""The daemon that answers requests to append from other machines.

It subscribes to the subject of the stream in a queue group: of several servers each request comes
to one. A connection that ends is opened anew; a client whose reply was lost asks again, and finds
its entries.

Invariant: a request that was taken is carried out and answered before the daemon ends.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from eventlog import StreamUnavailable
from eventlog.plumbing import (
    ALL,
    POLICY_HEADER,
    QUEUE,
    Message,
    NatsConnection,
    StreamSettings,
    Subscription,
    append_subject,
    encode_reply,
    open_append_connection,
    printable,
)
from projections.replication.append_service import AppendService
from projections.runtime.pause import wait_for_event
from projections.runtime.stop_signals import ignore_stop_signals, stop_by_signal
from projections.runtime.systemd import Notifier

logger = logging.getLogger(__name__)  # started, ready, stopping, stopped, and outages

REQUESTS_MAX = 256  # in progress; each holds its items in memory
# Requests that wait for one of those to end. Further ones are dropped, and their clients ask again.
PENDING_MAX = 4096
PENDING_BYTES_MAX = 32 << 20
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0  # between two tries to connect
STOP_S_MAX = 5.0  # for the requests in progress
STATUS_S = 5.0  # between two status lines for systemd; WatchdogSec= must be a few times that
STUCK_S = 45.0  # a request waits 30 s at most for another process that writes

Opener = Callable[[StreamSettings], Awaitable[NatsConnection]]


def serve(
    home: Path,
    settings: StreamSettings,
    *,
    notify_socket: str | None,
    open_connection: Opener = open_append_connection,
) -> None:
    """Answers until SIGTERM or SIGINT; the requests that it took are carried out and answered.

    Raises LogFenced and LogIsReplica where another home is the primary, and LogPoisoned after a
    failed sync. When that happens later, the requests until then are answered, with that error.
    """
    service = AppendService(home, settings.name)
    try:
        asyncio.run(_Server(service, settings, Notifier(notify_socket)).run(open_connection))
    finally:
        ignore_stop_signals()
        service.close()
    if service.ending is not None:
        raise service.ending


class _Server:
    """One run."""

    def __init__(
        self, service: AppendService, settings: StreamSettings, notifier: Notifier
    ) -> None:
        self._service = service
        self._settings = settings
        self._notifier = notifier
        self._stop = asyncio.Event()
        self._slots = asyncio.Semaphore(REQUESTS_MAX)
        self._started_s: dict[asyncio.Task[None], float] = {}  # requests in progress
        self._answered = 0
        self._reason: str | None = None  # why it does not answer
        self._waits_since_s: float | None = None
        self._is_ready = False

    async def run(self, open_connection: Opener) -> None:
        """Runs everything to its end."""
        stop_by_signal(self._stop)
        names = version("signal-eventlog"), printable(self._service.home)
        where = printable(self._settings.where)
        logger.info("started version=%s home=%s for %s", *names, where)
        status = asyncio.create_task(self._keep_status())
        try:
            await self._serve(open_connection)
        finally:
            status.cancel()
        logger.info("stopped answered=%d", self._answered)

    async def _serve(self, open_connection: Opener) -> None:
        """Answers over one connection after the other."""
        pause_s = RETRY_S_MIN
        while not self._stop.is_set():
            try:
                connection = await open_connection(self._settings)
                try:
                    await self._serve_on(connection)
                    return
                finally:
                    await connection.close()
            except StreamUnavailable as error:
                if self._waits_since_s is None:
                    pause_s = RETRY_S_MIN
                self._note_outage(str(error))
            await wait_for_event(self._stop, pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _serve_on(self, connection: NatsConnection) -> None:
        """Answers until the stop. Raises StreamUnavailable where the connection ends before."""

        async def take(message: Message) -> None:
            await self._slots.acquire()
            task = asyncio.create_task(self._answer(connection, message))
            self._started_s[task] = time.monotonic()
            task.add_done_callback(self._forget)

        subscription = await connection.subscribe(
            append_subject(self._settings.name),
            take,
            queue=QUEUE,
            pending_max=PENDING_MAX,
            pending_bytes_max=PENDING_BYTES_MAX,
        )
        await connection.flush()
        if connection.ended.done():  # the server denies the subscription
            raise connection.ended.result()
        self._note_connected()
        stopping = asyncio.create_task(self._stop.wait())
        try:
            waited: set[asyncio.Future[object]] = {stopping, connection.ended}  # type: ignore[arg-type]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not self._stop.is_set():
            raise connection.ended.result()
        logger.info("stopping in_progress=%d", len(self._started_s))
        self._notifier.send(STOPPING="1")
        await self._finish(connection, subscription)

    async def _finish(self, connection: NatsConnection, subscription: Subscription) -> None:
        """Takes no more requests, and answers those that were taken."""
        with suppress(TimeoutError, StreamUnavailable):
            async with asyncio.timeout(STOP_S_MAX):
                await subscription.drain()
                while self._started_s:
                    await asyncio.wait(set(self._started_s))
                await connection.flush()

    def _forget(self, task: "asyncio.Task[None]") -> None:
        del self._started_s[task]
        self._slots.release()

    async def _answer(self, connection: NatsConnection, message: Message) -> None:
        policy = (message.headers or {}).get(POLICY_HEADER, ALL)
        reply = await self._service.reply(message.data, policy)
        if message.reply:
            with suppress(StreamUnavailable):  # the client asks again
                await connection.publish(message.reply, encode_reply(reply))
        self._answered += 1
        if self._service.ending is not None:
            self._stop.set()

    def _note_outage(self, reason: str) -> None:
        self._reason = reason
        if self._waits_since_s is None:
            self._waits_since_s = time.monotonic()
            logger.warning("serve_waits reason=%s", reason)
        self._note_ready()  # systemd is not to end a start that waits for the network

    def _note_connected(self) -> None:
        self._reason = None
        if self._waits_since_s is not None:
            waited_s = time.monotonic() - self._waits_since_s
            self._waits_since_s = None
            logger.warning("serve_goes_on waited_s=%.1f", waited_s)
        self._note_ready()

    def _note_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._notifier.send(READY="1", STATUS=str(self))
            logger.info("ready %s", self)

    async def _keep_status(self) -> None:
        """Notifies systemd, and resets its watchdog unless a request hangs."""
        while not await wait_for_event(self._stop, STATUS_S):
            oldest_s = min(self._started_s.values(), default=time.monotonic())
            is_stuck = time.monotonic() - oldest_s > STUCK_S
            self._notifier.send(STATUS=str(self), **({} if is_stuck else {"WATCHDOG": "1"}))

    def __str__(self) -> str:
        if self._reason is not None:
            return f"waiting: {self._reason}"
        return f"serving {self._settings.name}: {self._answered:,} requests answered"
