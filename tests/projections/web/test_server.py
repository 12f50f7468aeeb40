"""The process: its options, its end, and what slow and rude clients cost it."""

import asyncio
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from projections.web.live import STREAMS_MAX
from projections.web.server import LIMITS
from tests.harness.command import eventlog
from tests.harness.console import console
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.read_side import append, project
from tests.harness.signals import signals

STOP_S_MAX = 2.0  # the promise


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("server") / "home"
    append(home, *signals(3))
    project(home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_two_seconds_with_open_streams(
    small_home: Path, number: signal.Signals
) -> None:
    with (
        console(small_home, "--no-login") as c,
        c.stream() as events,
        ThreadPoolExecutor(1) as pool,
    ):
        next(events)
        rest = pool.submit(list, events)
        started_s = time.monotonic()
        assert c.stop(number) == 0
        assert time.monotonic() - started_s < STOP_S_MAX
        rest.result()  # the stream was ended, not cut off


@pytest.mark.slow
def test_an_address_that_others_reach_needs_a_token_file(small_home: Path, tmp_path: Path) -> None:
    for options in ((), ("--no-login",)):
        done = eventlog("web", "--listen", "0.0.0.0:0", *options, home=small_home)
        assert done.code == 2
        assert "--token-file" in done.err
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("long enough\n")
    with console(small_home, "--token-file", token, listen="0.0.0.0:0") as c:
        assert "code=" not in c.printed
        assert c.request("/login").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "mode"), [("", 0o600), ("short\n", 0o600), ("long enough\n", 0o644), (None, 0)]
)
def test_an_unusable_token_file_is_refused(
    small_home: Path, tmp_path: Path, content: str | None, mode: int
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.touch()
        token.write_text(content)
        token.chmod(mode)
    done = eventlog("web", "--listen", "127.0.0.1:0", "--token-file", token, home=small_home)
    assert done.code == 3
    assert "chmod 600" in done.err
    assert eventlog("web", "--token-file", token, "--no-login", home=small_home).code == 2


@pytest.mark.parametrize("name", ["", ".", "log.example.com:8600", "http://log.example.com", "a b"])
def test_a_name_that_no_host_header_has_is_refused(home: Path, name: str) -> None:
    done = eventlog("web", "--name", "log.example.com", "--name", name, home=home)
    assert done.code == 2
    assert f"--name: {name!r} is not a host name" in done.err


def test_a_home_without_a_log_is_refused_and_stays_as_it_is(home: Path) -> None:
    done = eventlog("web", "--listen", "127.0.0.1:0", "--no-login", home=home)
    assert done.code == 3
    assert "no log" in done.err
    assert not home.exists()


def test_a_console_changes_nothing_but_its_key(small_home: Path) -> None:
    def files() -> dict[str, bytes]:
        found = (path for path in small_home.rglob("*") if path.is_file())
        return {str(path.relative_to(small_home)): path.read_bytes() for path in found}

    before = files()
    with console(small_home) as c:
        c.log_in()
        for path in ("/api/status", "/api/log", "/api/signals", "/api/outcomes", "/api/parked"):
            c.get(path)
        assert c.stop() == 0
    after = files()
    assert after.pop("run/web.key", b"") != b""
    before.pop("run/web.key", None)
    assert after == before


def test_a_request_whose_head_does_not_end_is_closed_and_stops_nobody(small_home: Path) -> None:
    assert LIMITS.head_s_max == 10.0
    assert LIMITS.body_bytes_max == 16 * 1024
    assert STREAMS_MAX == 256 < LIMITS.connections_max
    with console(small_home, "--no-login") as c:
        slow = [socket.create_connection(("127.0.0.1", c.port)) for _ in range(450)]
        for each in slow:
            each.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        started_s = time.monotonic()
        assert c.request("/").status_code == 200
        assert time.monotonic() - started_s < 5.0
        for each in slow:
            each.close()


@pytest.mark.slow
def test_256_streams_are_served_and_one_more_is_refused(small_home: Path) -> None:
    async def open_stream(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return reader, writer

    async def use(port: int) -> None:
        streams = [await open_stream(port) for _ in range(STREAMS_MAX)]
        for reader, _ in streams:
            assert b"200" in await reader.readline()
        reader, writer = await open_stream(port)
        assert b"503" in await reader.readline()
        for _, each in (*streams, (reader, writer)):
            each.transport.abort()

    with console(small_home, "--no-login") as c:
        asyncio.run(use(c.port))
        assert c.get("/api/status")["log"]["entries"] == 3


def test_of_300_streams_at_once_256_are_served(small_home: Path) -> None:
    request = b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with console(small_home, "--no-login") as c, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", c.port), DEADLINE_S))
            for _ in range(300)
        ]
        for client in clients:
            client.sendall(request)
        statuses = Counter(client.recv(12)[-3:] for client in clients)
        assert statuses == {b"200": STREAMS_MAX, b"503": 300 - STREAMS_MAX}
        for client in clients:
            client.close()

        def has_room() -> bool:
            with c.client.stream("GET", c.origin + "/api/live") as answer:
                return answer.status_code == 200

        until(has_room)


@pytest.mark.slow
def test_a_client_that_reads_nothing_costs_bounded_memory(small_home: Path) -> None:
    with console(small_home, "--no-login") as c:
        c.get("/api/log")
        before = c.rss_bytes
        with socket.create_connection(("127.0.0.1", c.port)) as client:
            client.sendall(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for start in range(10_000, 20_000, 1_000):
                append(small_home, *signals(1_000, start=start))
            deadline_s = time.monotonic() + 30
            while c.get("/api/log", limit=1)["as_of"]["seq"] < 10_003:
                assert time.monotonic() < deadline_s
        assert c.rss_bytes - before < 16 << 20
