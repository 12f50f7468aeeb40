"""The small HTTP server: GET and HEAD only, and no client costs unbounded time or memory."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from projections import ProjectionError
from projections.monitoring.http_server import (
    CONNECTIONS_MAX,
    EXCHANGE_S_MAX,
    REQUEST_BYTES_MAX,
    Address,
    HttpResponse,
    HttpServer,
    parse_address,
)
from tests.harness.deadline import DEADLINE_S

GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"


async def here(path: str) -> HttpResponse | None:
    if path == "/broken":
        raise RuntimeError("a bug")
    return HttpResponse(200, b"it is here\n") if path == "/here" else None


@asynccontextmanager
async def listener(host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Runs a server; yields its port."""
    listener = await HttpServer.open(Address(host, 0), here)
    assert listener._server is not None
    try:
        yield listener._server.sockets[0].getsockname()[1]
    finally:
        async with asyncio.timeout(5):
            await listener.close()


async def send_request(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """The whole answer; empty if the connection was reset."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_an_address_is_a_host_and_a_port() -> None:
    assert parse_address("127.0.0.1:9464") == Address("127.0.0.1", 9464)
    assert parse_address("localhost:0") == Address("localhost", 0)
    assert parse_address("[::1]:9464") == Address("::1", 9464)
    assert str(parse_address("[::1]:9464")) == "[::1]:9464"


@pytest.mark.parametrize(
    "text",
    [
        *("", "9464", ":9464", "host:", "host:x", "host:-1", "host:65536", "host:1e3", "::1:9464"),
        *("[::1:1", "[x]:1", "http://x:1", "a b:1", "a\x1bb:1", "host:\uff19"),
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_answers_a_get_and_ends_the_connection(host: str) -> None:
    async def run() -> None:
        async with listener(host) as port:
            answer = await send_request(port, GET, host)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nit is here\n")
            assert b"\r\nContent-Length: 11\r\n" in answer

    asyncio.run(run())


def test_a_head_request_gets_the_head_of_the_answer_to_a_get() -> None:
    async def run() -> None:
        async with listener() as port:
            head, _, _ = (await send_request(port, GET)).partition(b"it is here")
            assert await send_request(port, GET.replace(b"GET", b"HEAD", 1)) == head

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /here HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", b"405"),
        (b"HEAD /there HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /there HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /here?a=b HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /here\r\n\r\n", b"400"),
        (b"GET /here HTTP/2\r\n\r\n", b"400"),
        (b"\xff\x00 \xfe \x16\x03\r\n\r\n", b"400"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
        (b"GET /here HTTP/1.1\r\nX: " + REQUEST_BYTES_MAX * b"x" + b"\r\n\r\n", b"431"),
    ],
)
def test_each_request_gets_its_http_status(request_: bytes, status: bytes) -> None:
    async def run() -> None:
        async with listener() as port:
            answer = await send_request(port, request_)
            assert answer.split(b" ")[1] == status
            assert b"passwd" not in answer
            assert b"bug" not in answer
            assert (await send_request(port, GET)).endswith(b"it is here\n")

    asyncio.run(run())


def test_silent_clients_delay_neither_other_requests_nor_the_shutdown() -> None:
    async def run() -> None:
        async with listener() as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
            async with asyncio.timeout(DEADLINE_S):
                for reader, _ in silent[:-CONNECTIONS_MAX]:
                    assert await reader.read() == b""
            assert not any(reader.at_eof() for reader, _ in silent[-CONNECTIONS_MAX:])
            assert (await send_request(port, GET)).endswith(b"here\n")
        for _, writer in silent:
            writer.close()

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("request_", [b"GET /here HT", GET + b"more"])
def test_a_client_that_neither_ends_nor_goes_away_is_cut_off(request_: bytes) -> None:
    async def run() -> None:
        async with listener() as port, asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_)
            try:
                while await reader.read(100):
                    pass
                while True:  # the server closed its side; writing fails once the rest is gone
                    writer.write(b"drip")
                    await writer.drain()
                    await asyncio.sleep(EXCHANGE_S_MAX / 20)
            except ConnectionError:
                pass
            finally:
                writer.close()

    asyncio.run(run())


async def open_and_close(host: str, port: int) -> None:
    await (await HttpServer.open(Address(host, port), here)).close()


def listen_error(host: str, port: int) -> str:
    with pytest.raises(ProjectionError) as raised:
        asyncio.run(open_and_close(host, port))
    return str(raised.value)


def test_a_port_in_use_is_reported() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = listen_error("127.0.0.1", port)
    assert f"cannot listen on 127.0.0.1:{port}" in error


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "x" * 300])
def test_an_address_of_another_machine_is_reported(host: str) -> None:
    assert f"cannot listen on {host}:0" in listen_error(host, 0)


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_publicly_reachable_address_gets_a_warning(
    host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(open_and_close(host, 0))
    assert ("listening_unauthenticated" in caplog.text) == warns
