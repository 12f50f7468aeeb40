"""Three NATS servers and their clients on a network whose links fail in silence.

    with network() as net:
        daemon(home, "mirror", env=net.env("mirror", "main"), under=net.under("mirror"))
        net.cut("mirror")       packets are lost, and no connection is closed
        net.heal("mirror")

The places are n0, n1, n2, mirror and follower. Where root may make them, each is a network
namespace, and another one routes between them. Elsewhere a TCP proxy stands in each link, and holds
back what it gets while the link is cut.

Invariant: namespaces and proxies end with the block; the network of the machine is not changed.
"""

import asyncio
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client

from eventlog.plumbing import StreamSettings
from tests.harness.nats import NatsServers
from tools.nats_nodes import client_env, cluster_config, node_config

T = TypeVar("T")

NODES = ("n0", "n1", "n2")
PLACES = (*NODES, "mirror", "follower")
CHUNK_BYTES = 1 << 16
CLONE_NEWNET = 0x40000000


class PartitionedServers(NatsServers):
    """The nodes, as a test sees them that reaches those that are not cut off."""

    def __init__(
        self, directory: Path, hosts: Sequence[str], run: Callable[[Callable[[], Any]], Any]
    ) -> None:
        super().__init__(directory, nodes=len(NODES))
        self.hosts = tuple(hosts)
        self.cut_off: set[str] = set()
        self._run = run

    @property
    def urls(self) -> list[str]:
        found = zip(NODES, self.hosts, self.ports, strict=True)
        return [f"nats://{host}:{port}" for name, host, port in found if name not in self.cut_off]

    @property
    def monitor_urls(self) -> list[str]:
        found = zip(self.hosts, self.monitor_ports, strict=True)
        return [f"http://{host}:{port}" for host, port in found]

    def with_client(self, work: Callable[[Client], Awaitable[T]]) -> T:
        found: T = self._run(lambda: super(PartitionedServers, self).with_client(work))
        return found

    def _is_healthy(self, index: int) -> bool:
        return bool(self._run(lambda: super(PartitionedServers, self)._is_healthy(index)))


class Network(ABC):
    """The servers, and links that can be cut."""

    def __init__(self, directory: Path, hosts: Sequence[str]) -> None:
        self.servers = PartitionedServers(directory, hosts, self.run)

    def write_configs(self) -> None:
        """Writes what the nodes read when they start."""
        servers = self.servers
        for index, name in enumerate(NODES):
            host = servers.hosts[index]
            routes = [self.route(name, other) for other in range(len(NODES)) if other != index]
            # Else the nodes would tell each other their addresses behind the proxies.
            more = f'advertise: "{self.advertised(index)}", no_advertise: true'
            text = node_config(
                name=name,
                listen=f"{host}:{servers.ports[index]}",
                monitor=f"{host}:{servers.monitor_ports[index]}",
                store=servers.store(index),
                cluster=cluster_config(f"{host}:{servers.route_ports[index]}", routes, more),
            )
            servers.config(index).write_text(text)

    def env(self, place: str, stream: str) -> dict[str, str]:
        """The environment of commands at a place."""
        urls = tuple(f"nats://{self.address(place, node)}" for node in range(len(NODES)))
        return client_env(StreamSettings(name=stream, urls=urls))

    def cut(self, place: str) -> None:
        """Loses what is sent between a place and the others."""
        self.servers.cut_off.add(place)
        self.set_links(place, is_up=False)

    def heal(self, place: str) -> None:
        """Ends a cut."""
        self.set_links(place, is_up=True)
        self.servers.cut_off.discard(place)

    @abstractmethod
    def address(self, place: str, node: int) -> str:
        """Where clients at a place reach a node."""

    @abstractmethod
    def route(self, place: str, node: int) -> str:
        """Where another node reaches a node."""

    @abstractmethod
    def advertised(self, node: int) -> str:
        """The address that a node gives to other nodes."""

    @abstractmethod
    def under(self, place: str) -> tuple[str, ...]:
        """A prefix that runs a command at a place."""

    @abstractmethod
    def set_links(self, place: str, *, is_up: bool) -> None:
        """Cuts or restores the links of a place."""

    @abstractmethod
    def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which reaches the nodes."""


class Namespaces(Network):
    """Each place is a network namespace with one link to a router. Needs root."""

    def __init__(self, directory: Path) -> None:
        self._tag = f"ev{os.getpid()}"
        super().__init__(directory, [self._host(name) for name in NODES])
        self.servers.node_prefix = [self.under(name) for name in NODES]
        self.write_configs()

    def make(self) -> None:
        """Makes the namespaces: this kernel may have no bridges, so they are routed."""
        hub = self._name("hub")
        _shell('ip netns add "$1"; ip -n "$1" link set lo up', hub)
        _shell('ip netns exec "$1" sysctl -qw net.ipv4.ip_forward=1', hub)
        for place in PLACES:
            gateway, host = self._host(place, last=1), self._host(place)
            _shell(
                'ip netns add "$2"; ip -n "$2" link set lo up; '
                'ip link add "$3" netns "$1" type veth peer name eth0 netns "$2"; '
                'ip -n "$1" addr add "$4/24" dev "$3"; ip -n "$1" link set "$3" up; '
                'ip -n "$2" addr add "$5/24" dev eth0; ip -n "$2" link set eth0 up; '
                'ip -n "$2" route add default via "$4"',
                *(hub, self._name(place), self._name(place), gateway, host),
            )

    def remove(self) -> None:
        """Removes them, and with them their links."""
        for place in ("hub", *PLACES):
            with suppress(subprocess.CalledProcessError):
                _shell('ip netns del "$1"', self._name(place))

    def address(self, place: str, node: int) -> str:
        return f"{self._host(NODES[node])}:{self.servers.ports[node]}"

    def route(self, place: str, node: int) -> str:
        return f"{self._host(NODES[node])}:{self.servers.route_ports[node]}"

    def advertised(self, node: int) -> str:
        return self.route(NODES[node], node)

    def under(self, place: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._name(place))

    def set_links(self, place: str, *, is_up: bool) -> None:
        state = "up" if is_up else "down"
        _shell('ip -n "$1" link set "$2" "$3"', self._name("hub"), self._name(place), state)

    def run(self, work: Callable[[], T]) -> T:
        # A thread may be in another namespace than its process; this one ends there.
        def enter() -> T:
            file = os.open(f"/run/netns/{self._name('hub')}", os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(file, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            finally:
                os.close(file)
            return work()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(enter).result()

    def _name(self, place: str) -> str:
        return f"{self._tag}{place[:3]}"  # the name of a link has at most 15 characters

    @staticmethod
    def _host(place: str, *, last: int = 2) -> str:
        return f"198.18.{PLACES.index(place)}.{last}"


class Proxies(Network):
    """A proxy for each link between a place and a node; one thread runs all of them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, ["127.0.0.1"] * len(NODES))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._links: dict[tuple[str, str, int], _Link] = {}

    def make(self) -> None:
        """Starts the proxies."""
        self._thread.start()
        for place in PLACES:
            for node, name in enumerate(NODES):
                if place != name:
                    self._add_link(place, node, self.servers.ports[node])
                if place != name and place in NODES:
                    self._add_link(place, node, self.servers.route_ports[node])
        self.write_configs()

    def _add_link(self, place: str, node: int, port: int) -> None:
        link = _Link(port)
        self._call(link.listen())
        self._links[place, NODES[node], port] = link

    def remove(self) -> None:
        """Ends the proxies and their connections."""

        async def end() -> None:
            for link in self._links.values():
                link.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # a transport that was closed ends in the next step of the loop

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def address(self, place: str, node: int) -> str:
        return self._through(place, node, self.servers.ports[node])

    def route(self, place: str, node: int) -> str:
        return self._through(place, node, self.servers.route_ports[node])

    def _through(self, place: str, node: int, port: int) -> str:
        link = self._links.get((place, NODES[node], port))
        return f"127.0.0.1:{port if link is None else link.port}"

    def advertised(self, node: int) -> str:
        return "127.0.0.1:1"  # nothing listens there: the routes of the configuration are enough

    def under(self, place: str) -> tuple[str, ...]:
        return ()

    def set_links(self, place: str, *, is_up: bool) -> None:
        for (one, other, _), link in self._links.items():
            if place in (one, other):
                self._loop.call_soon_threadsafe(link.is_up.set if is_up else link.is_up.clear)

    def run(self, work: Callable[[], T]) -> T:
        return work()

    def _call(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Link:
    """A proxy to a port of loopback, which holds everything back while it is down."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.is_up = asyncio.Event()
        self.is_up.set()
        self.port = 0

    async def listen(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listens no more."""
        self._server.close()

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            await self.is_up.wait()
            far, forth = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._copy(near, forth), self._copy(far, back))
        except OSError:
            pass  # the node is down, or an end has closed the connection
        except asyncio.CancelledError:
            pass  # the block has ended; a server of asyncio would log it
        finally:
            back.close()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK_BYTES):
                await self.is_up.wait()
                target.write(data)
                await target.drain()
            await self.is_up.wait()  # nobody learns of an end either
        finally:
            target.close()


@cache
def can_make_namespaces() -> bool:
    """Whether this process may make network namespaces and links between them."""
    words = ("unshare", "-n", "ip", "link", "add", "one", "type", "veth", "peer", "name", "other")
    if os.getuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@contextmanager
def network(*, with_namespaces: bool | None = None) -> Iterator[Network]:
    """The servers run, and all links are up. By default with namespaces, where they can be made."""
    if with_namespaces is None:
        with_namespaces = can_make_namespaces()
    with tempfile.TemporaryDirectory(prefix="nats-", ignore_cleanup_errors=True) as directory:
        net = Namespaces(Path(directory)) if with_namespaces else Proxies(Path(directory))
        try:
            net.make()
            net.servers.start()
            net.servers.wait_until_healthy()
            yield net
        finally:
            net.servers.kill()
            net.remove()


def _shell(script: str, *words: str) -> None:
    subprocess.run(["sh", "-ec", script, "sh", *words], check=True, capture_output=True)
