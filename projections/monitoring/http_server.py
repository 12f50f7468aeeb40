"""A small HTTP server for figures: GET and HEAD only, one answer a connection, everything bounded.

It is no framework: a monitor or a person asks for one of a few paths now and then. It stands beside
the work of its process, so whatever a client does, or does not do, costs a bounded amount of time
and memory, and ends with `close`.

Invariant: of a request nothing but method and path is looked at, and nothing of it is sent back.
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

REQUEST_BYTES_MAX = 8 * 1024  # a monitor sends some 300
METHODS = ("GET", "HEAD")  # what asks, and what asks whether there is an answer: probes do
CONNECTIONS_MAX = 16  # a monitor or two, a probe, a person; beyond, the oldest gives way
EXCHANGE_S_MAX = 10.0  # a scrape's own time-out is 10 s: afterwards nobody waits any more
LINGER_S_MAX = 1.0  # for a client to read its answer, before the connection is cut
PORT_MAX = 65_535
TEXT = "text/plain; charset=utf-8"


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpResponse(NamedTuple):
    """What a request gets."""

    status: int
    body: bytes
    content_type: str = TEXT


def parse_address(text: str) -> Address:
    """Of `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    is_valid = host.isprintable() and not set(host) & set("[]/ ") and (":" in host) == is_bracketed
    if not (colon and host and is_valid and port.isascii() and port.isdecimal()):
        raise ValueError(f"{text!r} is not like 127.0.0.1:9464 or [::1]:9464")
    if int(port) > PORT_MAX:
        raise ValueError(f"port {port} is over {PORT_MAX}")
    return Address(host, int(port))


class HttpServer:
    """Answers at one address until it is closed. `answer` gets a path; None is a 404."""

    def __init__(self, answer: Callable[[str], Awaitable[HttpResponse | None]]) -> None:
        self._respond = answer
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first

    @classmethod
    async def open(
        cls, address: Address, answer: Callable[[str], Awaitable[HttpResponse | None]]
    ) -> Self:
        """Listens. Warns of an address that others can reach. Raises ProjectionError."""
        listener = cls(answer)
        try:
            server = await asyncio.start_server(
                listener._accept, address.host, address.port, limit=REQUEST_BYTES_MAX
            )
        except (OSError, UnicodeError) as error:
            raise ProjectionError(
                f"cannot listen on {address}: {_listen_problem(error)}",
                do="give --listen an address of this machine, and a port that nobody else has",
            ) from None
        listener._server = server
        for socket in server.sockets:
            logger.info("listening url=http://%s", Address(*socket.getsockname()[:2]))
        if not is_loopback(address.host):
            logger.warning(
                "listening_unauthenticated address=%s: whoever reaches it reads the figures; "
                "let a firewall or a proxy decide who does",
                address,
            )
        return listener

    async def close(self) -> None:
        """Answers nobody any more."""
        assert self._server is not None, "it was opened"
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            # Not the new one: an answer takes milliseconds, so who is old has asked nothing.
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()

        def end(task: asyncio.Task[None]) -> None:  # also of one that was cancelled unbegun
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
            # What is still unread would make the system cut the connection under the answer.
            async with asyncio.timeout(LINGER_S_MAX):
                while await reader.read(REQUEST_BYTES_MAX):
                    pass

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes | None:
        """The response to what comes; None for a client that went away."""
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
        answer = await self._respond_to(target.partition("?")[0])
        return _encode_response(answer, with_body=method != "HEAD")

    async def _respond_to(self, path: str) -> HttpResponse:
        try:
            found = await self._respond(path)
        except Exception:  # the top of what a request can start: the daemon goes on
            logger.exception("request_failed")
            return _status_response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return found if found is not None else _status_response(HTTPStatus.NOT_FOUND)


def _listen_problem(error: OSError | UnicodeError) -> str:
    # asyncio's own text repeats the address; that of a name which is not found has no errno.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(error)


def _status_response(status: HTTPStatus) -> HttpResponse:
    return HttpResponse(status, f"{status.phrase}\n".encode())


def _encode_response(answer: HttpResponse, *, with_body: bool = True) -> bytes:
    status = HTTPStatus(answer.status)
    allow = f"Allow: {', '.join(METHODS)}\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{allow}"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (answer.body if with_body else b"")
