"""A small HTTP server for /health and /metrics: GET and HEAD only, one request per connection.

It runs beside the projectors in their process. So whatever a client does, or fails to do, costs a
bounded amount of time and memory, and `close` ends every connection.

Invariant: only method and path of a request are read, and nothing of it is sent back.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple, Self

from projections.errors import ProjectionError
from projections.hosts import is_loopback

logger = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8 * 1024  # a monitor sends about 300
METHODS = ("GET", "HEAD")  # some probes use HEAD
CONNECTIONS_MAX = 16  # for a few monitors and probes; one more closes the oldest
EXCHANGE_S_MAX = 10.0  # the default timeout of a Prometheus scrape
LINGER_S_MAX = 1.0  # time for a client to read the answer before the connection is closed
PORT_MAX = 65_535
TEXT = "text/plain; charset=utf-8"


class Address(NamedTuple):
    """An address to listen on; port 0 lets the system choose a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpResponse(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes
    content_type: str = TEXT


def parse_address(text: str) -> Address:
    """Parses `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    is_valid = host.isprintable() and not set(host) & set("[]/ ") and (":" in host) == is_bracketed
    if not (colon and host and is_valid and port.isascii() and port.isdecimal()):
        raise ValueError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464")
    if int(port) > PORT_MAX:
        raise ValueError(f"port {port} is greater than {PORT_MAX}")
    return Address(host, int(port))


class HttpServer:
    """Serves one address until it is closed. `respond` gets the path; None means status 404."""

    def __init__(self, respond: Callable[[str], Awaitable[HttpResponse | None]]) -> None:
        self._respond = respond
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first

    @classmethod
    async def open(
        cls, address: Address, respond: Callable[[str], Awaitable[HttpResponse | None]]
    ) -> Self:
        """Listens; warns if other machines can reach the address. Raises ProjectionError."""
        listener = cls(respond)
        try:
            server = await asyncio.start_server(
                listener._accept, address.host, address.port, limit=REQUEST_BYTES_MAX
            )
        except (OSError, UnicodeError) as error:
            raise ProjectionError(
                f"cannot listen on {address}: {_listen_problem(error)}",
                do="give --listen an address of this machine and a port that is not in use",
            ) from None
        listener._server = server
        for socket in server.sockets:
            logger.info("listening url=http://%s", Address(*socket.getsockname()[:2]))
        if not is_loopback(address.host):
            logger.warning(
                "listening_unauthenticated address=%s: anyone who can reach it can read the "
                "metrics; restrict access by a firewall or a proxy",
                address,
            )
        return listener

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        assert self._server is not None, "open() was called"
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            # An answer takes milliseconds, so the oldest connection has sent no whole request.
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()

        def end(task: asyncio.Task[None]) -> None:  # also called if the task never started
            self._connections.pop(task, None)
            writer.transport.abort()

        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = None
        task.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(EXCHANGE_S_MAX):
                response = await self._exchange(reader)
                if response is not None:
                    writer.write(response)
                    await writer.drain()
                    writer.write_eof()
            # Closing a socket with unread input resets it, and the client would lose the answer.
            async with asyncio.timeout(LINGER_S_MAX):
                while await reader.read(REQUEST_BYTES_MAX):
                    pass

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes | None:
        """Reads a request and returns the response; None if the client closed early."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            return _encode_response(_status_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _encode_response(_status_response(HTTPStatus.BAD_REQUEST))
        method, target, _ = words
        if method not in METHODS:
            return _encode_response(_status_response(HTTPStatus.METHOD_NOT_ALLOWED))
        response = await self._respond_to(target.partition("?")[0])
        return _encode_response(response, with_body=method != "HEAD")

    async def _respond_to(self, path: str) -> HttpResponse:
        try:
            found = await self._respond(path)
        except Exception:  # the outermost frame of a request: the daemon continues
            logger.exception("request_failed")
            return _status_response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return found if found is not None else _status_response(HTTPStatus.NOT_FOUND)


def _listen_problem(error: OSError | UnicodeError) -> str:
    # asyncio's own text repeats the address; a host name that is not found has no errno.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(error)


def _status_response(status: HTTPStatus) -> HttpResponse:
    return HttpResponse(status, f"{status.phrase}\n".encode())


def _encode_response(response: HttpResponse, *, with_body: bool = True) -> bytes:
    status = HTTPStatus(response.status)
    allow = f"Allow: {', '.join(METHODS)}\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{allow}"
        f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (response.body if with_body else b"")
