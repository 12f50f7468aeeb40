"""NatsConnection: a connection to NATS. The only module that imports the client of NATS.

A lost connection is not restored in place: answers to what was sent before never come, and the
client gives no sign of it. After any error the caller closes the connection and opens another one.

Invariant: a request that the server denies ends the connection with StreamRefused.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

# nats-py imports it to log in: without it a login would fail late.
import nkeys  # type: ignore[import-untyped]  # noqa: F401
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError, NoServersError

from eventlog.replica.engine import StreamError, StreamRefused, StreamUnavailable
from eventlog.replica.stream_rules import StreamSettings

CONNECT_S_MAX = 5.0  # over all addresses; a server that is there answers within milliseconds
CLOSE_S_MAX = 1.0  # nats-py waits for ever for the end of a connection on which TLS has failed
PING_S = 5  # a connection that is silent for longer is tested


class NoResponder(StreamUnavailable):
    """Nothing is subscribed to the subject of a request: it had no effect."""


class Message(Protocol):
    """A message that came."""

    @property
    def reply(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str] | None: ...
    @property
    def data(self) -> bytes: ...


class Subscription(Protocol):
    """What `subscribe` returns."""

    async def unsubscribe(self) -> None:
        """Ends it at once."""

    async def drain(self) -> None:
        """Ends it once the messages that the server has sent were handled."""


class NatsConnection:
    """A connection to the servers of `settings`. Used by one event loop.

    `inbox`: the first part of the subjects on which answers come, so that a server can let an
    account read its own answers only.
    """

    def __init__(self, settings: StreamSettings, inbox: str) -> None:
        self._settings = settings
        self._inbox = inbox
        self._client = Client()
        self._last_error: Exception | None = None  # "no servers available" gives no reason
        # Set when the connection ends, or when the server denies a request: nats-py reports that
        # to its error callback only, and the request itself would just time out.
        self.ended: asyncio.Future[StreamError] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, settings: StreamSettings, inbox: str) -> "NatsConnection":
        """Connects. Raises StreamUnavailable, StreamRefused."""
        connection = cls(settings, inbox)
        try:
            await connection._connect()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _connect(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.nkey_file:
            options["nkeys_seed"] = settings.nkey_file
        if settings.creds_file:
            options["user_credentials"] = settings.creds_file
        try:
            if settings.ca_file:
                options["tls"] = ssl.create_default_context(cafile=settings.ca_file)
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._client.connect(
                    list(settings.urls),
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    allow_reconnect=False,
                    connect_timeout=int(CONNECT_S_MAX / 2),
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # it only sleeps for it
                    max_reconnect_attempts=1,  # of each address
                    ping_interval=PING_S,
                    max_outstanding_pings=1,
                    name="eventlog",
                    inbox_prefix=self._inbox,
                    **options,
                )
            self._expect_end_of_tls()
        except (NatsError, OSError, TimeoutError) as error:
            if "authorization violation" in str(error).lower():
                raise StreamRefused(
                    "the server refuses the login",
                    where=settings.where,
                    do="check EVENTLOG_NATS_NKEY_FILE or EVENTLOG_NATS_CREDS_FILE, and the "
                    "accounts of the server",
                ) from error
            raise self.unavailable(error) from error

    def _expect_end_of_tls(self) -> None:
        """Lets the stream of asyncio know of TLS: nats-py does not, and each end logs a warning."""
        if self.is_encrypted:
            writer = getattr(self._client._transport, "_io_writer")  # noqa: B009
            writer.transport.get_protocol()._over_ssl = True

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        self._last_error = error
        if "permissions violation" in text.lower() and not self.ended.done():
            self.ended.set_result(
                StreamRefused(
                    f"the server refuses a request: {text.removeprefix('nats: ')}",
                    where=self._settings.where,
                    do="give this account the permissions that its role needs",
                )
            )

    async def _on_closed(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self.unavailable(self._client.last_error))

    def unavailable(self, error: BaseException | None) -> StreamUnavailable:
        """The error for a connection that could not be made, or that has ended."""
        if isinstance(error, NoServersError | TimeoutError):  # neither of them gives a reason
            error = self._last_error or error
        text = str(error) or type(error).__name__ if error is not None else "it was closed"
        if isinstance(error, ssl.SSLError):
            return StreamUnavailable(
                f"there is no connection to NATS, since TLS failed: {text}",
                where=self._settings.where,
                do="check EVENTLOG_NATS_CA_FILE, and the names in the certificate of the server",
            )
        return StreamUnavailable(
            f"there is no connection to NATS: {text}",
            where=self._settings.where,
            do="check that the servers run, and EVENTLOG_NATS_URL",
        )

    async def close(self) -> None:
        """Closes the connection. Never raises, and may be called twice."""
        with suppress(Exception):  # it is lost already
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._client.close()

    @property
    def payload_bytes_max(self) -> int:
        """The largest message that the server takes."""
        return self._client.max_payload

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The version of the server to which this is connected."""
        version = self._client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        writer = getattr(self._client._transport, "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    def new_inbox(self) -> str:
        """A subject of its own for answers."""
        return self._client.new_inbox()

    async def publish(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Sends a message that is not answered. Raises StreamUnavailable, StreamRefused."""
        if self.ended.done():
            raise self.ended.result()
        try:
            await self._client.publish(subject, data, headers=headers)
        except (NatsError, OSError) as error:
            raise self.unavailable(error) from error

    async def flush(self) -> None:
        """Returns when the server has all that was sent. Raises StreamUnavailable."""
        try:
            await self._client.flush()
        except (NatsError, OSError, TimeoutError) as error:
            raise self.unavailable(error) from error

    async def subscribe(
        self,
        subject: str,
        on_message: Callable[[Message], Awaitable[None]],
        *,
        queue: str = "",
        pending_max: int = -1,
        pending_bytes_max: int = -1,
    ) -> Subscription:
        """Calls `on_message` for each message, one after the other.

        Of the subscriptions with one `queue`, each message comes to one. What is pending beyond the
        limits is lost; -1 is no limit. Raises StreamUnavailable.
        """
        try:
            return await self._client.subscribe(
                subject,
                queue=queue,
                cb=on_message,
                pending_msgs_limit=pending_max,
                pending_bytes_limit=pending_bytes_max,
            )
        except (NatsError, OSError) as error:
            raise self.unavailable(error) from error

    async def request(
        self, subject: str, data: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> bytes:
        """The answer to a message. Raises NoResponder, StreamUnavailable, StreamRefused."""
        asking = asyncio.ensure_future(
            self._client.request(subject, data, timeout=timeout_s, headers=headers)
        )
        waited: set[asyncio.Future[Any]] = {asking, self.ended}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise self.ended.result()
            return asking.result().data
        except NoRespondersError as error:
            raise NoResponder("nothing answers the request", where=self._settings.where) from error
        except (NatsError, OSError, TimeoutError) as error:
            raise StreamUnavailable(
                f"no answer from the stream: {str(error) or type(error).__name__}",
                where=self._settings.where,
                do="check that a majority of the servers runs; this is tried again",
            ) from error
        finally:
            asking.cancel()
