"""The server, over real sockets: no client costs unbounded time or memory."""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from projections import ProjectionError
from projections.serving.address import Address, host_names
from projections.serving.app import (
    PlainTextResponse,
    Request,
    Response,
    Route,
    Starlette,
    StreamingResponse,
)
from projections.serving.connection import LINGER_S_MAX
from projections.serving.limits import Limits
from projections.serving.server import DEFAULT_LIMITS, serving
from tests.harness.deadline import DEADLINE_S, until_async
from tests.harness.http_client import connect, exchange, read_answer, read_to_end
from tests.harness.raw_http import Writer

GET = b"GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_GET = b"GET /here HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STOP_S_MAX = 2.0  # the promise; it holds on a busy machine, since the limits below it are timers
SHORT_S = 0.3
HEAD_BYTES_MAX = DEFAULT_LIMITS.head_bytes_max
BODY_BYTES_MAX = DEFAULT_LIMITS.body_bytes_max


class Application:
    """Routes that answer, fail, hang, and stream; and what became of their handlers."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.started = 0
        self.app = Starlette(
            routes=[
                Route("/here", self.here),
                Route("/broken", self.broken),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/hanging", self.hanging),
                Route("/stream", self.stream),
                Route("/broken-stream", self.broken_stream),
                Route("/flood", self.flood),
                Route("/later", self.later),
                Route("/ticks", self.ticks),
            ]
        )

    async def here(self, _request: Request) -> Response:
        return PlainTextResponse("it is here\n")

    async def broken(self, _request: Request) -> Response:
        raise RuntimeError("a bug")

    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def hanging(self, _request: Request) -> Response:
        self.started += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("hanging")
        raise AssertionError

    async def stream(self, _request: Request) -> Response:
        return StreamingResponse(self._parts("stream", b"part\n", pause_s=3600))

    async def broken_stream(self, _request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part\n"
            raise RuntimeError("a bug")

        return StreamingResponse(parts())

    async def flood(self, _request: Request) -> Response:
        return StreamingResponse(self._parts("flood", bytes(65_536), pause_s=0))

    async def later(self, request: Request) -> Response:
        await asyncio.sleep(SHORT_S)  # the client has ended its side by then
        return await self.here(request)

    async def ticks(self, _request: Request) -> Response:
        return StreamingResponse(self._parts("ticks", b"tick\n", pause_s=SHORT_S / 2))

    async def _parts(self, name: str, part: bytes, *, pause_s: float) -> AsyncIterator[bytes]:
        self.started += 1
        try:
            while True:
                yield part
                await asyncio.sleep(pause_s)
        finally:
            self.ended.append(name)


@asynccontextmanager
async def server(
    limits: Limits = DEFAULT_LIMITS, host: str = "127.0.0.1", app: Application | None = None
) -> AsyncIterator[int]:
    """A running server; yields its port."""
    address = Address(host, 0)
    application = (app or Application()).app
    async with serving(application, address, names=host_names(address), limits=limits) as bound:
        yield bound[0].port


async def is_served(port: int) -> bool:
    return (await exchange(port, LAST_GET)).endswith(b"it is here\n")


def request_of(path: str, *, method: str = "GET", host: str = "localhost", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


# -- answers


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_answers_a_get_on_either_internet_protocol(host: str) -> None:
    async def run() -> None:
        async with server(host=host) as port:
            answer = (await exchange(port, LAST_GET, host)).lower()
            assert answer.startswith(b"http/1.1 200 ok\r\n")
            assert answer.endswith(b"\r\n\r\nit is here\n")
            assert b"\r\ncontent-length: 11\r\n" in answer
            assert b"\r\ncache-control: no-store\r\n" in answer
            assert b"\r\ndate: " in answer

    asyncio.run(run())


def test_a_head_request_gets_the_head_of_the_answer_to_a_get() -> None:
    async def head(port: int, request: bytes) -> list[bytes]:
        found, _, body = (await exchange(port, request)).partition(b"\r\n\r\n")
        assert bool(body) == request.startswith(b"GET")
        return [line for line in found.split(b"\r\n") if not line.lower().startswith(b"date:")]

    async def run() -> None:
        async with server() as port:
            of_get = await head(port, LAST_GET)
            assert await head(port, LAST_GET.replace(b"GET", b"HEAD", 1)) == of_get
            assert len(of_get) > 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request_of("/here", method="POST", more="Content-Length: 9\r\n") + b"123456789", 405),
        (request_of("/there", method="HEAD"), 404),
        (request_of("/there"), 404),
        (b"GET /here?a=b HTTP/1.0\r\n\r\n", 200),
        (request_of("/../../etc/passwd"), 404),
        (request_of("http://evil.example.com/here"), 404),
        (b"GET /here HTTP/1.1\r\n\r\n", 400),
        (b"GET /here\r\n\r\n", 400),
        (b"GET /here HTTP/2\r\n\r\n", 400),
        (b"\xff\x00 \xfe \x16\x03\r\n\r\n", 400),
        (request_of("/here", more="Content-Length: x\r\n"), 400),
        (request_of("/broken"), 500),
        (request_of("/here", more=f"X: {HEAD_BYTES_MAX * 'x'}\r\n"), 431),
        (request_of("/here", more=f"X: {30 * HEAD_BYTES_MAX * 'x'}"), 431),
        (request_of(f"/here?{HEAD_BYTES_MAX * 'x'}"), 431),
        (request_of("/echo", method="POST", more="Content-Length: 3\r\n") + b"abc", 200),
        (request_of("/here", more=f"Content-Length: {BODY_BYTES_MAX + 1}\r\n"), 413),
        (request_of("/echo", method="POST", more="Content-Length: 999999999999\r\n"), 413),
        (request_of("/here", host="evil.example.com"), 421),
        (request_of("/here", host="127.0.0.1.evil.example.com:80"), 421),
        (request_of("/here", host="localhost:1234"), 200),
        (request_of("/here", host="[::1]:1234"), 200),
        (request_of("/here", more="Connection: upgrade\r\nUpgrade: websocket\r\n"), 200),
    ],
)
def test_each_request_gets_its_http_status(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with server() as port:
            reader, writer = await connect(port, request_)
            if request_.startswith(b"HEAD"):
                assert int((await reader.readline()).split()[1]) == status
            else:
                found, body = await read_answer(reader)
                assert found == status
                assert b"passwd" not in body
                assert b"bug" not in body
                assert b"evil" not in body
            writer.close()
            assert await is_served(port)

    asyncio.run(run())
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [e.getMessage() for e in errors] == (["request_failed"] if status == 500 else [])


def test_each_answer_forbids_a_browser_to_run_or_frame_it() -> None:
    """Also those that no application gives."""

    async def run() -> None:
        async with server() as port:
            for request in (
                request_of("/here"),
                b"GET /here HTTP/2\r\n\r\n",
                request_of("/here", more=f"X: {30 * HEAD_BYTES_MAX * 'x'}"),
                request_of("/here", host="evil.example.com"),
                request_of("/broken"),
            ):
                reader, writer = await connect(port, request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                for line in (
                    b"x-content-type-options: nosniff\r\n",
                    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
                    b"referrer-policy: no-referrer\r\n",
                    b"cache-control: no-store\r\n",
                ):
                    assert head.count(line) == 1, (request[:40], line)
                writer.close()

    asyncio.run(run())


def test_a_chunked_body_over_the_limit_is_refused_while_it_arrives() -> None:
    async def run() -> None:
        async with server() as port:
            more = "Transfer-Encoding: chunked\r\n"
            reader, writer = await connect(port, request_of("/echo", method="POST", more=more))
            for _ in range(3):
                writer.write(b"1000\r\n" + 4096 * b"x" + b"\r\n")
            status, _ = await read_answer(reader)
            assert status == 413
            writer.close()

    asyncio.run(run())


def test_a_client_that_is_still_sending_can_read_its_refusal() -> None:
    """A socket that is closed with unread input would be reset."""

    async def run() -> None:
        async with server() as port:
            more = f"Content-Length: {1 << 20}\r\n"
            reader, writer = await connect(port, request_of("/echo", method="POST", more=more))
            for _ in range(16):
                writer.write(65_536 * b"x")
                await asyncio.sleep(0.01)
            status, _ = await read_answer(reader)
            assert status == 413
            writer.close()

    asyncio.run(run())


def test_a_connection_serves_several_requests_and_is_closed_once_idle() -> None:
    async def run() -> None:
        async with server(Limits(keep_alive_s_max=1)) as port:
            reader, writer = await connect(port, GET + GET)
            assert await read_answer(reader) == (200, b"it is here\n")
            assert await read_answer(reader) == (200, b"it is here\n")
            writer.write(GET)
            assert await read_answer(reader) == (200, b"it is here\n")
            assert await read_to_end(reader) == b""
            writer.close()

    asyncio.run(run())


def test_a_client_that_ends_its_side_after_the_request_gets_the_answer() -> None:
    async def run() -> None:
        async with server() as port:
            reader, writer = await connect(port, request_of("/later"))
            writer.write_eof()
            assert (await read_to_end(reader)).endswith(b"it is here\n")
            writer.close()

    asyncio.run(run())


def test_a_client_that_ends_its_side_ends_its_stream() -> None:
    async def run() -> None:
        application = Application()
        async with server(app=application) as port:
            reader, writer = await connect(port, request_of("/stream"))
            await reader.readuntil(b"part")
            writer.write_eof()
            await until_async(lambda: application.ended == ["stream"])
            writer.close()

    asyncio.run(run())


def test_an_error_within_a_stream_ends_it_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with server() as port:
            answer = await exchange(port, request_of("/broken-stream"))
            assert b"part" in answer
            assert not answer.endswith(b"0\r\n\r\n")  # not the end of a whole answer
            assert await is_served(port)

    asyncio.run(run())
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in errors] == ["request_failed"]


# -- limits


def test_one_connection_too_many_closes_the_one_that_waits_longest() -> None:
    async def run() -> None:
        async with server(Limits(connections_max=4)) as port:
            reader, writer = await connect(port, request_of("/stream"))
            await reader.readuntil(b"part")  # an open stream does not wait for a request
            waiting = [await connect(port, b"GET"[: n % 4]) for n in range(8)]
            for oldest, _ in waiting[:-3]:
                assert await read_to_end(oldest) == b""
            assert not any(each.at_eof() for each, _ in waiting[-3:])
            assert await is_served(port)
            assert not reader.at_eof()
            for _, each in [*waiting, (reader, writer)]:
                each.close()

    asyncio.run(run())


def test_while_all_are_busy_a_client_gets_503_until_the_deadline_of_the_others() -> None:
    async def run() -> None:
        application = Application()
        limits = Limits(connections_max=2, answer_s_max=2)
        async with server(limits, app=application) as port:
            busy = [await connect(port, request_of("/hanging")) for _ in range(2)]
            await until_async(lambda: application.started == 2)
            reader, writer = await connect(port)
            assert (await read_answer(reader))[0] == 503
            writer.close()
            for each, _ in busy:
                assert (await read_answer(each))[0] == 503
            assert await is_served(port)
            assert application.ended == ["hanging", "hanging"]
            for _, other in busy:
                other.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b""),
        (b"GET /here HT", b""),
        (b"GET /here HT", b"x"),
        (GET + b"GET /here HTTP/1.1\r\n", b""),
        (GET, b"x"),
    ],
)
def test_a_head_that_does_not_end_in_time_is_cut_off_however_it_drips(
    start: bytes, drop: bytes
) -> None:
    async def run() -> None:
        async with server(Limits(head_s_max=SHORT_S)) as port:
            reader, writer = await connect(port, start)
            began_s = time.monotonic()

            async def drip() -> None:
                while True:
                    await asyncio.sleep(SHORT_S / 20)
                    writer.write(drop)

            dripping = asyncio.create_task(drip())
            answers = await read_to_end(reader)
            assert SHORT_S / 2 < time.monotonic() - began_s < DEFAULT_LIMITS.keep_alive_s_max / 2
            assert answers.count(b"it is here") == start.count(GET)
            dripping.cancel()
            writer.close()

    asyncio.run(run())


def test_a_client_that_does_not_end_its_side_after_the_last_answer_is_cut_off() -> None:
    async def run() -> None:
        async with server() as port:
            reader, writer = await connect(port, LAST_GET)
            assert (await read_to_end(reader)).endswith(b"it is here\n")

            async def is_reset() -> None:
                while True:
                    writer.write(b"drip")
                    await writer.drain()
                    await asyncio.sleep(LINGER_S_MAX / 10)

            async with asyncio.timeout(20 * LINGER_S_MAX):
                with pytest.raises(ConnectionError):
                    await is_reset()
            writer.close()

    asyncio.run(run())


def test_a_stream_that_is_read_stays_open_beyond_the_deadline_of_an_answer() -> None:
    async def run() -> None:
        async with server(Limits(answer_s_max=SHORT_S)) as port:
            reader, writer = await connect(port, request_of("/ticks"))
            for _ in range(6):  # a tick every half of SHORT_S
                async with asyncio.timeout(DEADLINE_S):
                    await reader.readuntil(b"tick")
            writer.close()

    asyncio.run(run())


def test_a_body_that_does_not_arrive_in_time_ends_the_request() -> None:
    async def run() -> None:
        async with server(Limits(answer_s_max=SHORT_S)) as port:
            more = "Content-Length: 9\r\n"
            request = request_of("/echo", method="POST", more=more) + b"1234"
            assert (await exchange(port, request)).split(b" ")[1] == b"408"

    asyncio.run(run())


def test_a_client_that_reads_nothing_of_a_stream_is_cut_off() -> None:
    async def run() -> None:
        application = Application()
        async with server(Limits(stall_s_max=SHORT_S), app=application) as port:
            _, writer = await connect(port, request_of("/flood"))
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
            await until_async(lambda: application.ended == ["flood"])
            writer.transport.abort()

    asyncio.run(run())


def reset_on_close(writer: Writer) -> None:
    """Else the end of the client's side could mean that it still wants the answer."""
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("path", ["/hanging", "/stream"])
def test_a_handler_is_cancelled_when_its_client_has_gone(path: str) -> None:
    async def run() -> None:
        application = Application()
        async with server(app=application) as port:
            _, writer = await connect(port, request_of(path))
            await until_async(lambda: application.started)
            reset_on_close(writer)
            writer.transport.abort()
            await until_async(lambda: application.ended == [path.strip("/")])

    asyncio.run(run())


@pytest.mark.parametrize("name", ["connections_max", "head_s_max", "stall_s_max"])
def test_no_limit_can_be_switched_off(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})


# -- the end


def test_a_stop_ends_streams_hanging_handlers_and_silent_clients_within_two_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        application = Application()
        async with server(app=application) as port:
            paths = ("/stream", "/hanging", "/flood")
            clients = [await connect(port, request_of(path)) for path in paths]
            clients += [await connect(port, data) for data in (b"", b"GET /", GET)]
            clients[2][1].transport.pause_reading()  # type: ignore[attr-defined]
            await until_async(lambda: application.started == 3)
            before = asyncio.all_tasks()
            began_s = time.monotonic()
        assert time.monotonic() - began_s < STOP_S_MAX
        assert sorted(application.ended) == ["flood", "hanging", "stream"]
        assert {task for task in before if not task.done()} == {asyncio.current_task()}
        clients[2][1].transport.abort()
        for reader, writer in clients[:2] + clients[3:]:
            await read_to_end(reader)
            writer.close()
        with pytest.raises(OSError):
            await connect(port)

    asyncio.run(run())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_stop_lets_an_answer_in_progress_be_completed() -> None:
    async def run() -> None:
        address = Address("127.0.0.1", 0)
        began, stopping = asyncio.Event(), asyncio.Event()

        async def slow(_request: Request) -> Response:
            began.set()
            await stopping.wait()
            await asyncio.sleep(0.05)
            return PlainTextResponse("it is whole\n")

        app = Starlette(routes=[Route("/", slow)])
        async with serving(app, address, names=host_names(address)) as bound:
            reader, writer = await connect(bound[0].port, request_of("/"))
            await began.wait()
            stopping.set()
        assert (await read_to_end(reader)).endswith(b"it is whole\n")
        writer.close()

    asyncio.run(run())


# -- the start


def listen_error(host: str, port: int) -> str:
    async def run() -> None:
        async with serving(Application().app, Address(host, port), names=frozenset()):
            pass

    with pytest.raises(ProjectionError) as raised:
        asyncio.run(run())
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
