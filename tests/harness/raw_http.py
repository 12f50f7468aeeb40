"""HTTP servers of a few lines, whose answers a test determines byte by byte.

    async with server(answering(http_response(201, b"{}"))) as found:
        ... found.url, found.requests

Invariant: they listen on this machine only, and end with their block, every connection cut.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

SUCCESS = b'{"status":"success","signal_id":1,"alpine_signal_id":1,"external_signal_id":"s-1"}'

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


@dataclass(kw_only=True)
class Request:
    """A request that a server received."""

    line: str
    headers: dict[str, bytes]
    body: bytes


@dataclass(kw_only=True)
class Server:
    """A running server and what it received."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    in_flight_max: int = 0


Handler = Callable[[Server, Reader, Writer], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Runs a server on a free port until the block ends, and then cuts all its connections."""
    found = Server()
    writers: list[Writer] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        found.connections += 1
        writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            await handle(found, reader, writer)

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = running.sockets[0].getsockname()[1]
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield found
    finally:
        running.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def a_request(found: Server, reader: Reader) -> Request:
    """Reads one whole request. Raises IncompleteReadError at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value.encode("latin-1") for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", b"0")))
    found.requests.append(Request(line=head[0], headers=headers, body=body))
    return found.requests[-1]


def http_response(status: int, body: bytes = SUCCESS, **headers: str) -> bytes:
    """The bytes of an answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answering(*answers: bytes) -> Handler:
    """Sends the answers in turn, and then the last one again; keeps connections open."""
    todo = list(answers)

    async def handle(found: Server, reader: Reader, writer: Writer) -> None:
        while True:
            await a_request(found, reader)
            writer.write(todo.pop(0) if len(todo) > 1 else todo[0])
            await writer.drain()

    return handle
