"""The peers of `--peers` that are servers: Redis, PostgreSQL, NATS JetStream.

Invariant: a server listens on a Unix socket or on 127.0.0.1, and ends with its `with` block; its
settings are read back, so that one that does not sync is not measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.benchmarks import jetstream
from tools.benchmarks.peer_libraries import Callers, threads
from tools.benchmarks.peers import SERVER_START_TIMEOUT_S, running
from tools.benchmarks.producers import PRODUCERS, in_one_task, in_tasks
from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import SignalDict, sha256_of

if TYPE_CHECKING:
    import asyncpg  # type: ignore[import-untyped]  # it ships no type information
    import redis

# Debian's redis-tools has the program of the server under the second name: one file, which looks at
# the name that it is called by. The package redis-server would start a service.
REDIS_PROGRAMS = ("redis-server", "redis-check-rdb")


def redis_program() -> str | None:
    """The file that is a Redis server if it is called `redis-server`."""
    return next(filter(None, map(shutil.which, REDIS_PROGRAMS)), None)


@contextmanager
def redis_stream(where: Path) -> Iterator[Callers]:
    try:
        import redis
    except ImportError as error:
        raise NotMeasured("redis is not installed: pip install -e '.[bench]'") from error
    # A socket in the directory of the files could have a path that is too long.
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "redis.sock"
        with (
            _redis_server(where, socket) as log,
            redis.Redis(unix_socket_path=str(socket), max_connections=2 * PRODUCERS) as client,
        ):
            _wait_for_redis(client, log)

            def append(signal: SignalDict) -> None:
                client.xadd("signals", {"signal": json.dumps(signal)})

            with threads(append) as callers:
                yield callers


@contextmanager
def _redis_server(where: Path, socket: Path) -> Iterator[Path]:
    program = redis_program()
    if program is None:
        raise NotMeasured("redis-server is not installed; on Debian: apt-get install redis-tools")
    options = {"port": "0", "unixsocket": str(socket), "dir": str(where), "save": ""}
    options |= {"appendonly": "yes", "appendfsync": "always"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    log = where / "redis.log"
    with running(["redis-server", *words], log, program=program):
        yield log


def _wait_for_redis(client: redis.Redis, log: Path) -> None:
    import redis

    stop_s = time.monotonic() + SERVER_START_TIMEOUT_S
    while time.monotonic() < stop_s:
        try:
            found = client.config_get("appendfsync")
        except redis.ConnectionError:
            time.sleep(0.02)
            continue
        if found != {"appendfsync": "always"}:
            raise NotMeasured(f"Redis does not sync always: {found}")
        return
    raise NotMeasured(f"redis-server did not start: {log.read_text()[-500:]}")


@contextmanager
def postgresql(where: Path) -> Iterator[Callers]:
    try:
        from tools.alpine.errors import CannotStart
        from tools.alpine.postgres import EmbeddedPostgres
    except ImportError as error:
        raise NotMeasured("pgserver is not installed: pip install -e '.[alpine]'") from error
    if os.geteuid() == 0:
        # PostgreSQL runs under another account then, which has to pass. There is no secret here.
        for directory in (where, where.parent):
            directory.chmod(0o755)
    try:
        server = EmbeddedPostgres(where / "postgresql")
    except CannotStart as error:
        raise NotMeasured(str(error)) from error
    with server, asyncio.Runner() as runner:
        connections = runner.run(_connections(server.url))
        try:
            append = partial(_insert, connections)
            yield Callers(
                lambda signals: runner.run(in_one_task(append, signals)),
                lambda signals: runner.run(in_tasks(append, signals)),
            )
        finally:
            for connection in connections:
                runner.run(connection.close())


async def _connections(url: str) -> list[asyncpg.Connection]:
    """A connection for each producer: a pool would reset one with each call, in a second query."""
    import asyncpg

    connections = [await asyncpg.connect(url) for _ in range(PRODUCERS)]
    found = {
        name: await connections[0].fetchval(f"SHOW {name}")
        for name in ("fsync", "synchronous_commit")
    }
    if found != {"fsync": "on", "synchronous_commit": "on"}:
        raise NotMeasured(f"PostgreSQL is not durable: {found}")
    await connections[0].execute(
        "CREATE TABLE signals (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "signal_id TEXT UNIQUE NOT NULL, body JSONB NOT NULL, sha256 TEXT NOT NULL)"
    )
    return connections


async def _insert(connections: list[asyncpg.Connection], signal: SignalDict) -> None:
    connection = connections.pop()
    try:
        await connection.execute(
            "INSERT INTO signals (signal_id, body, sha256) VALUES ($1, $2, $3)",
            signal["signal_id"],
            json.dumps(signal),
            sha256_of(signal),
        )
    finally:
        connections.append(connection)


@contextmanager
def nats_jetstream(where: Path) -> Iterator[Callers]:
    with jetstream.server(where) as url, closing(jetstream.JetStream(url)) as peer:

        async def append(signal: SignalDict) -> None:
            await peer.publish(json.dumps(signal).encode())

        yield Callers(
            lambda signals: peer.runner.run(in_one_task(append, signals)),
            lambda signals: peer.runner.run(in_tasks(append, signals)),
        )
