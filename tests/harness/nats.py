"""NATS servers with JetStream as processes that tests start, kill and start again.

    with nats_server() as server:            one node
        eventlog("mirror", "create", "--allow-single", home=home, env=server.env("main"))
    with nats_cluster() as cluster:          three nodes
        cluster.kill(cluster.leader("main"))

Each has its files in a directory of its own, listens on free ports of loopback, and syncs every
message before it acknowledges it (`sync_interval: always`).

Invariant: no server outlives the test that started it.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from eventlog.plumbing import REPLICAS_MIN, StreamSettings
from eventlog.replica.stream_rules import stream_config
from tests.harness.deadline import until
from tools.nats_nodes import client_env, cluster_config, node_config
from tools.ports import free_ports

T = TypeVar("T")

PROGRAM = shutil.which("nats-server", path=str(Path(sys.executable).parent))
REQUEST_S = 3.0
UNAVAILABLE, NO_PEERS = 503, 10005  # of servers that have just started, or lost their leader
GET_S = 30.0  # for one of GETS_AT_ONCE, on a busy machine
GETS_AT_ONCE = 100
STOP_S_MAX = 20.0
MONITOR_S = 2.0
LIMITS = "max_memory_store: 64MB, max_file_store: 4GB"


class NatsServers:
    """One node, or a cluster of several. Ports and files outlive `kill` and `stop`."""

    def __init__(
        self, directory: Path, *, nodes: int, sync_interval: str = "always", extra: str = ""
    ) -> None:
        assert PROGRAM is not None, "nats-server is missing: install the extra `dev`"
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * nodes
        self.node_env: list[dict[str, str]] = [{}] * nodes
        self.node_prefix: list[tuple[str, ...]] = [()] * nodes  # runs a node, as `ip netns exec`
        self.login = ""  # `user:password@`, where the servers demand one
        ports = free_ports(3 * nodes)
        self.ports, self.monitor_ports, self.route_ports = (ports[i::3] for i in range(3))
        routes = self.route_ports
        for index in range(nodes):
            others = [f"127.0.0.1:{port}" for port in routes if port != routes[index]]
            text = node_config(
                name=f"n{index}",
                listen=f"127.0.0.1:{self.ports[index]}",
                monitor=f"127.0.0.1:{self.monitor_ports[index]}",
                store=self.store(index),
                sync_interval=sync_interval,
                limits=LIMITS,
                cluster=cluster_config(f"127.0.0.1:{routes[index]}", others) if others else "",
            )
            self.config(index).write_text(text + extra)

    def settings(self, stream: str) -> StreamSettings:
        """The settings with which a process of this test uses a stream."""
        return StreamSettings(
            name=stream, urls=tuple(self.urls), monitor_urls=tuple(self.monitor_urls)
        )

    def create_stream(self, stream: str, **changes: object) -> None:
        """Creates a stream by the rules; `changes` break some of them. Fails if it cannot."""
        replicas = REPLICAS_MIN if len(self.processes) >= REPLICAS_MIN else 1
        config = stream_config(self.settings(stream), replicas=replicas) | changes
        answers: list[dict[str, Any]] = []

        def is_answered() -> bool:
            answers.append(self.request(f"STREAM.CREATE.EVENTLOG_{stream}", config))
            error = answers[-1].get("error", {})
            return not (error.get("code") == UNAVAILABLE or error.get("err_code") == NO_PEERS)

        until(is_answered, lambda: str(answers[-1]))
        assert "error" not in answers[-1], answers[-1]

    def delete_stream(self, stream: str) -> None:
        """Deletes a stream with all its messages."""
        answer = self.request(f"STREAM.DELETE.EVENTLOG_{stream}")
        assert "error" not in answer, answer

    @property
    def urls(self) -> list[str]:
        """The addresses for clients, one per node."""
        return [f"nats://{self.login}127.0.0.1:{port}" for port in self.ports]

    @property
    def monitor_urls(self) -> list[str]:
        """The addresses of the monitoring endpoints, one per node."""
        return [f"http://127.0.0.1:{port}" for port in self.monitor_ports]

    def env(self, stream: str) -> dict[str, str]:
        """The environment of commands that use this server."""
        return client_env(self.settings(stream))

    def store(self, index: int) -> Path:
        """The directory in which a node keeps its streams."""
        return self.directory / f"n{index}"

    def output(self, index: int) -> str:
        """What a node has logged so far."""
        return self._output(index).read_text()

    def start(self, *indexes: int) -> None:
        """Starts these nodes, or all that do not run. Returns at once: see `wait_until_healthy`."""
        for index in indexes or range(len(self.processes)):
            process = self.processes[index]
            if process is None or process.poll() is not None:
                with self._output(index).open("ab") as output:
                    self.processes[index] = subprocess.Popen(
                        [*self.node_prefix[index], str(PROGRAM), "-c", str(self.config(index))],
                        env={**os.environ, **self.node_env[index]},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )

    def kill(self, *indexes: int) -> None:
        """Kills these nodes, or all, with SIGKILL."""
        self._end(signal.SIGKILL, indexes)

    def stop(self, *indexes: int) -> None:
        """Stops these nodes, or all, with SIGTERM."""
        self._end(signal.SIGTERM, indexes)

    def send(self, index: int, number: signal.Signals) -> None:
        """Sends a signal such as SIGSTOP to a node."""
        process = self.processes[index]
        assert process is not None, f"node {index} was not started"
        process.send_signal(number)

    def wait_until_healthy(self) -> None:
        """Waits until each node that runs is ready, its streams included."""
        for index, process in enumerate(self.processes):
            if process is not None and process.poll() is None:
                until(lambda i=index: self._is_healthy(i), lambda i=index: self.output(i)[-2000:])  # type: ignore[misc]

    def request(self, verb: str, body: object = None) -> dict[str, Any]:
        """The answer of the JetStream API, an error included; asked again until there is one."""

        async def ask(client: Client) -> dict[str, Any]:
            data = b"" if body is None else json.dumps(body).encode()
            for _ in range(40):
                with suppress(NatsError, TimeoutError):
                    answer = await client.request(f"$JS.API.{verb}", data, timeout=REQUEST_S)
                    return dict(json.loads(answer.data))
                await asyncio.sleep(0.1)
            raise AssertionError(f"no answer to {verb}")

        return self.with_client(ask)

    def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Publishes a message, and waits for an answer."""

        async def send(client: Client) -> None:
            await client.request(subject, data, timeout=REQUEST_S, headers=headers)

        self.with_client(send)

    def messages(self, stream: str) -> list[bytes]:
        """All messages of a stream, in order, read from its leader."""
        return [data for data, _ in self._stored(stream)]

    def segments(self, stream: str) -> list[int]:
        """The segment that each message names."""
        return [
            int(headers.partition("Eventlog-Segment: ")[2].split()[0])
            for _, headers in self._stored(stream)
        ]

    def _stored(self, stream: str) -> list[tuple[bytes, str]]:
        """The data and the headers of all messages of a stream."""
        name = f"EVENTLOG_{stream}"
        last = self.request(f"STREAM.INFO.{name}")["state"]["last_seq"]

        async def get(client: Client, seq: int) -> tuple[bytes, str]:
            verb, body = f"$JS.API.STREAM.MSG.GET.{name}", json.dumps({"seq": seq}).encode()
            answer = await client.request(verb, body, timeout=GET_S)
            message = json.loads(answer.data)["message"]
            headers = base64.b64decode(message.get("hdrs", "")).decode()
            return base64.b64decode(message.get("data", "")), headers

        async def read(client: Client) -> list[tuple[bytes, str]]:
            found: list[tuple[bytes, str]] = []
            while len(found) < last:
                seqs = range(len(found) + 1, min(len(found) + GETS_AT_ONCE, last) + 1)
                found += await asyncio.gather(*(get(client, seq) for seq in seqs))
            return found

        return self.with_client(read)

    def leader(self, stream: str) -> int:
        """The node that leads a stream. Waits until there is one."""
        found: list[int] = []

        def has_leader() -> bool:
            answer = self.request(f"STREAM.INFO.EVENTLOG_{stream}")
            leader = answer.get("cluster", {}).get("leader")
            if leader:
                found.append(int(leader[1:]))
            return bool(found)

        until(has_leader, "a leader")
        return found[-1]

    def with_client(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """The result of `work` with a connection of its own, in an event loop of its own."""

        async def run() -> T:
            async def ignore(_error: Exception) -> None:
                pass

            client = await nats.connect(self.urls, error_cb=ignore, reconnect_time_wait=0.1)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def config(self, index: int) -> Path:
        """The configuration of a node."""
        return self.directory / f"n{index}.conf"

    def _output(self, index: int) -> Path:
        return self.directory / f"n{index}.log"

    def _end(self, number: signal.Signals, indexes: tuple[int, ...]) -> None:
        ended = [self.processes[index] for index in indexes or range(len(self.processes))]
        for process in ended:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)  # a stopped process does not handle SIGTERM
                process.send_signal(number)
        for process in ended:
            if process is not None:
                process.wait(STOP_S_MAX)

    def _is_healthy(self, index: int) -> bool:
        process = self.processes[index]
        assert process is not None
        assert process.poll() is None, self.output(index)[-2000:]
        url = f"{self.monitor_urls[index]}/healthz"
        try:
            with urllib.request.urlopen(url, timeout=MONITOR_S) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def nats_server(*, sync_interval: str = "always", extra: str = "") -> Iterator[NatsServers]:
    """One node that runs. Without a `sync_interval` it has no JetStream."""
    with _running(1, sync_interval, extra) as server:
        yield server


@contextmanager
def nats_cluster(*, sync_interval: str = "always", extra: str = "") -> Iterator[NatsServers]:
    """Three nodes that run, as one cluster."""
    with _running(3, sync_interval, extra) as cluster:
        yield cluster


@contextmanager
def _running(nodes: int, sync_interval: str, extra: str) -> Iterator[NatsServers]:
    with tempfile.TemporaryDirectory(prefix="nats-", ignore_cleanup_errors=True) as directory:
        servers = NatsServers(
            Path(directory), nodes=nodes, sync_interval=sync_interval, extra=extra
        )
        try:
            servers.start()
            servers.wait_until_healthy()
            yield servers
        finally:
            servers.kill()
