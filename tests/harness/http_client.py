"""HTTP over real sockets, byte by byte: what a test sends is what a server gets.

Invariant: waiting for a server ends after DEADLINE_S.
"""

import asyncio

from tests.harness.deadline import DEADLINE_S
from tests.harness.raw_http import Reader, Writer


async def connect(port: int, data: bytes = b"", host: str = "127.0.0.1") -> tuple[Reader, Writer]:
    """A connection on which `data` was sent."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(data)
        return reader, writer


async def read_to_end(reader: Reader) -> bytes:
    """What arrives until the server ends or resets the connection."""
    data = b""
    async with asyncio.timeout(DEADLINE_S):
        try:
            while chunk := await reader.read(65_536):
                data += chunk
        except ConnectionError:
            pass
    return data


async def read_answer(reader: Reader) -> tuple[int, bytes]:
    """Status and body of one answer that has a Content-Length."""
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        (length,) = (line.split(b":")[1] for line in lines if line.startswith(b"content-length:"))
        return int(head.split(b" ")[1]), await reader.readexactly(int(length))


async def exchange(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """The whole answer to a request after which the server ends the connection."""
    reader, writer = await connect(port, request, host)
    try:
        return await read_to_end(reader)
    finally:
        writer.close()
