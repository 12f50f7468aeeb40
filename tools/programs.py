"""Named processes that are killed and started again, and three NATS servers among them.

    servers = NatsServers(directory)
    programs = Programs((*servers.programs, mirror), servers.env, processes)
    programs.start(*servers.names)
    servers.create_stream(programs, stop)
    programs.kill(servers.leader())

Invariant: files and ports outlive a kill, so a program that is started again goes on where it was.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eventlog.plumbing import StreamSettings
from tools.nats_nodes import client_env, cluster_config, node_config
from tools.ports import free_ports
from tools.processes import (
    START_S_MAX,
    STEP_S,
    Ended,
    ManagedProcess,
    ProcessFailed,
    ProcessGroup,
    StopRequest,
)

BIN = Path(sys.executable).parent
STREAM = "main"
NODES = 3
MONITOR_S = 0.5  # for an answer of a server, which may be stopped


class Program(NamedTuple):
    """A process, and how it is started."""

    name: str
    role: str
    words: tuple[object, ...]


class Programs:
    """Programs by name. Those that have ended are started again."""

    def __init__(
        self, programs: Sequence[Program], env: Mapping[str, str], processes: ProcessGroup
    ) -> None:
        self.all = tuple(programs)
        self.env = dict(env)
        self._by_name = {program.name: program for program in programs}
        self._processes = processes
        self._running: dict[str, ManagedProcess] = {}
        self._reported: set[str] = set()  # names of processes whose end was returned

    def start(self, *names: str) -> None:
        """Starts these programs."""
        for name in names:
            self._reported.discard(name)
            words = self._by_name[name].words
            self._running[name] = self._processes.start(name, *words, env=self.env)

    def run(self, name: str, *words: object) -> Ended:
        """Runs an `eventlog` command to its end. Raises Stopped."""
        return self._processes.run(name, BIN / "eventlog", *words, env=self.env)

    def start_ended(self) -> list[str]:
        """Starts what has ended, with the same files and ports; returns the names."""
        ended = [name for name, member in self._running.items() if _has_ended(member)]
        self.start(*ended)
        return ended

    def newly_ended(self) -> list[str]:
        """The names of what has ended by itself, or by another process, since the last call."""
        found = [
            name
            for name, member in self._running.items()
            if _has_ended(member) and name not in self._reported
        ]
        self._reported.update(found)
        return found

    def process(self, name: str) -> ManagedProcess:
        """The newest process of a program that was started."""
        return self._running[name]

    def pid(self, name: str) -> int:
        """The pid of a program."""
        return self._running[name].process.pid

    def send(self, name: str, number: signal.Signals) -> None:
        """Sends a signal such as SIGSTOP."""
        self._running[name].process.send_signal(number)

    def end(self, name: str) -> None:
        """Ends a program with SIGTERM. Raises ProcessFailed if its exit code is not 0."""
        self._reported.add(name)
        self._processes.end(self._running[name])

    def kill(self, name: str) -> None:
        """Kills a program with SIGKILL, and returns once it has ended."""
        self._processes.kill(self._running[name])
        self._reported.add(name)


class NatsServers:
    """The configuration of three servers on loopback, and what they say."""

    def __init__(self, directory: Path) -> None:
        free = free_ports(3 * NODES)
        addresses, routes, self._monitors = (
            [f"127.0.0.1:{port}" for port in free[kind::3]] for kind in range(3)
        )
        self.names = tuple(f"n{index}" for index in range(NODES))
        self.urls = tuple(f"nats://{address}" for address in addresses)
        for index, name in enumerate(self.names):
            others = [route for route in routes if route != routes[index]]
            text = node_config(
                name=name,
                listen=addresses[index],
                monitor=self._monitors[index],
                store=directory / name,
                cluster=cluster_config(routes[index], others),
            )
            (directory / f"{name}.conf").write_text(text)
        self.programs = tuple(
            Program(name, f"server {url}", (BIN / "nats-server", "-c", directory / f"{name}.conf"))
            for name, url in zip(self.names, self.urls, strict=True)
        )

    @property
    def settings(self) -> StreamSettings:
        """The settings with which the stream is used."""
        monitors = tuple(f"http://{address}" for address in self._monitors)
        return StreamSettings(name=STREAM, urls=self.urls, monitor_urls=monitors)

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands that use the stream."""
        return client_env(self.settings)

    def create_stream(self, programs: Programs, stop: StopRequest) -> None:
        """Creates the stream once the servers are up. Raises ProcessFailed, Stopped."""
        end_s = time.monotonic() + START_S_MAX
        while True:
            created = programs.run("create", "mirror", "create")
            if created.code == 0:
                return
            if time.monotonic() > end_s:
                raise ProcessFailed(f"the stream was not created: {created.output}", code=1)
            stop.sleep(STEP_S)

    def leader(self) -> str | None:
        """The server that leads the stream, as the first server says that knows it."""
        for address in self._monitors:
            with suppress(urllib.error.URLError, OSError, ValueError, LookupError):
                url = f"http://{address}/jsz?streams=1"
                with urllib.request.urlopen(url, timeout=MONITOR_S) as answer:
                    (account,) = json.load(answer)["account_details"]
                leader = account["stream_detail"][0]["cluster"]["leader"]
                if leader:
                    return str(leader)
        return None


def mirror_program(home: Path, *also: str, name: str = "mirror") -> Program:
    """`project mirror` of a home, with other projections."""
    words = ("project", *also, "mirror")
    role = f"eventlog --home {home.name} {' '.join(words)}"
    return Program(name, role, (BIN / "eventlog", "--home", home, *words))


def follower_program(home: Path, name: str = "follower") -> Program:
    """`follow` into a home."""
    role = f"eventlog --home {home.name} follow"
    return Program(name, role, (BIN / "eventlog", "--home", home, "follow"))


def _has_ended(member: ManagedProcess) -> bool:
    return member.process.poll() is not None
