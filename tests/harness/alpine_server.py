"""The reference backend as a process that tests start, kill and start again.

PostgreSQL is no child of the server: it survives each SIGKILL of the server. Both end with the test
process, however that ends (`--stop-at-eof`).

Invariant: after the context manager neither the server nor its PostgreSQL is running.
"""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no type information
import httpx

from tests.harness.requirements import CHECKOUT
from tools.alpine.misbehave import CONTROL_PATH
from tools.alpine.postgres import EmbeddedPostgres, read_line

START_SECONDS_MAX = 60.0  # a start takes one second; the limits only bound a hang
STOP_SECONDS_MAX = 300.0
CONTROL_SECONDS_MAX = 10.0


class AlpineServer:
    """A running backend with a database of its own. A context manager.

    `postgres` shares one PostgreSQL between servers (starting one takes half a second); without it
    the server gets its own. `key` is any bytes that a header can hold. `misbehave=False` starts it
    as a user would; otherwise `control()` and `counters()` work, and `misbehave` may hold settings
    to start with. Url, key, database and settings outlive `kill()`.
    """

    def __init__(
        self,
        *,
        postgres: EmbeddedPostgres | None = None,
        key: bytes | None = None,
        misbehave: bool | dict[str, object] = True,
    ) -> None:
        self.key = key or secrets.token_urlsafe(24).encode()
        self.in_flight_max = 0  # over all processes, at the last counters() or kill()
        self._postgres = postgres
        self._own_postgres = postgres is None
        self._misbehave = misbehave is not False
        self._lasting = dict(misbehave) if isinstance(misbehave, dict) else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alpine-")))
            self.key_file = directory / "key"
            self.key_file.touch(mode=0o600)
            self.key_file.write_bytes(self.key + b"\n")
            self.output_file = directory / "output"  # the stderr of all its processes
            if self._own_postgres:
                self._postgres = stack.enter_context(EmbeddedPostgres())
            assert self._postgres is not None
            self.database_url = _new_database(self._postgres.url)
            self.port = _reserve_port(stack)
            self.url = f"http://127.0.0.1:{self.port}"
            self._http = stack.enter_context(httpx.Client(trust_env=False))
            stack.callback(self._end)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def running(self) -> bool:
        """Whether the server was started and has not been killed or stopped since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the server on its port and database; returns when it listens."""
        assert self._process is None, "the server is running"
        command = [sys.executable, "-m", "tools.alpine", "--stop-at-eof", "--port", str(self.port)]
        if self._misbehave:
            command += ["--misbehave", json.dumps(self._lasting)]
        environment = {
            **os.environb,
            b"EXTERNAL_SIGNAL_API_KEY": self.key,
            b"DATABASE_URL": self.database_url.encode(),
        }
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        assert self._process.stdout is not None
        line = read_line(self._process.stdout, START_SECONDS_MAX).decode()
        if line != f"listening on {self.url}\n":
            self._end()
            raise AssertionError(f"the backend does not start: {line}{self.output()}")

    def kill(self) -> None:
        """Kill the server with SIGKILL; requests under way are cut off."""
        if self._misbehave:
            with suppress(httpx.HTTPError):  # it may be too busy to answer
                self.counters()
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """Stop the server with SIGTERM; returns its exit code."""
        return self._signal(signal.SIGTERM)

    def restart(self) -> None:
        """Kill the server if it is running, and start it again on the same port and database."""
        if self._process is not None:
            self.kill()
        self.start()

    def control(self, **settings: object) -> None:
        """Make the server misbehave, as tools/alpine/misbehave.py describes.

        All settings but `fail` and `lose`, which are used up, stay after a restart.
        """
        used_up = ("fail", "lose")
        self._lasting |= {name: value for name, value in settings.items() if name not in used_up}
        self._get_control("POST", settings)

    def counters(self) -> dict[str, Any]:
        """The counters of this process: requests, in_flight_max, answers, by_signal."""
        report = self._get_control("GET", None)
        self.in_flight_max = max(self.in_flight_max, report["in_flight_max"])
        return report

    def stop_postgres(self) -> None:
        """Stop PostgreSQL for good; only if it belongs to this server alone."""
        assert self._postgres is not None
        assert self._own_postgres, "other servers use this PostgreSQL"
        self._postgres.close()

    def rows(self) -> list[dict[str, object]]:
        """The table `signals` in id order, read from PostgreSQL; the server may be down."""
        return [dict(row) for row in _query(self.database_url, "SELECT * FROM signals ORDER BY id")]

    def hashes(self) -> set[str]:
        """The verification_hash of every row in PostgreSQL; fails if one is there twice."""
        found = [str(row["verification_hash"]) for row in self.rows()]
        assert len(found) == len(set(found)), "a verification_hash is in PostgreSQL twice"
        return set(found)

    def output(self) -> str:
        """The stderr of all its processes."""
        return self.output_file.read_text(errors="replace")

    def _get_control(self, method: str, settings: dict[str, object] | None) -> dict[str, Any]:
        answer = self._http.request(
            method,
            self.url + CONTROL_PATH,
            headers={b"X-API-Key": self.key},
            json=settings,
            timeout=CONTROL_SECONDS_MAX,
        )
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    def _signal(self, number: signal.Signals) -> int:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)
        return self._reap()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        code = self._process.wait(STOP_SECONDS_MAX)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None
        return code


def _reserve_port(stack: ExitStack) -> int:
    """Reserves a free port while the server is down.

    A socket that is bound but does not listen keeps the kernel from giving the port to an outgoing
    connection, such as a client's attempt to reach it; SO_REUSEADDR lets the server bind it.
    """
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    return port


def _new_database(url: str) -> str:
    name = f"alpine_{secrets.token_hex(8)}"
    _query(url, f"CREATE DATABASE {name}")
    server, _, parameters = url.partition("?")
    return f"{server.rpartition('/')[0]}/{name}?{parameters}"


def _query(url: str, statement: str) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    # In a thread of its own, so that a test that is a coroutine can call it too.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, fetch()).result()
