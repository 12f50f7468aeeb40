"""A primary, a replica and three NATS servers on this machine, to kill and to start again.

    tools/cluster [--home DIR] [--rate PER_SECOND]

It prints what runs, and every few seconds how far log, stream and replica are. A process that is
killed stays dead until Enter is pressed. Ctrl-C ends all of them.

Invariant: no process outlives this program, unless it is killed with SIGKILL itself.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple, NoReturn

from eventlog import EventLogError
from eventlog.plumbing import MIRRORING, is_replicated, log_status, read_mirror_record
from tools.ports import free_ports
from tools.processes import (
    CHECKOUT,
    START_S_MAX,
    STEP_S,
    ManagedProcess,
    ProcessFailed,
    ProcessGroup,
    Stopped,
    StopRequest,
)

PROGRAMS = Path(sys.executable).parent
STREAM = "main"
NODES = 3
RATE = 5.0  # entries a second
LINE_S = 2.0  # between two lines of figures
MONITOR_S = 0.5  # for an answer of a server, which may be stopped
ENV_NAME = "environment"  # it also marks a directory as one of this program
EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 3, 130

# Each message is synced before it is acknowledged: a quorum that loses its power loses none.
_NODE_CONFIG = """\
server_name: n{index}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
jetstream {{
  store_dir: "{store}"
  sync_interval: "always"
}}
cluster {{
  name: eventlog
  listen: "127.0.0.1:{route_port}"
  routes: [{routes}]
}}
"""


class Program(NamedTuple):
    """A process of the cluster, and how it is started."""

    name: str
    role: str
    words: tuple[object, ...]


class Cluster:
    """All processes. Those that have ended are started again by `start_ended`."""

    def __init__(self, home: Path, rate: float, processes: ProcessGroup) -> None:
        self.primary, self.replica = home / "primary", home / "replica"
        self._processes = processes
        free = free_ports(3 * NODES)
        ports, routes, self._monitor_ports = (free[i::3] for i in range(3))
        self._urls = [f"nats://127.0.0.1:{port}" for port in ports]
        self._configs = [home / f"n{index}.conf" for index in range(NODES)]
        for index, path in enumerate(self._configs):
            others = (f'"nats://127.0.0.1:{port}"' for port in routes if port != routes[index])
            text = _NODE_CONFIG.format(
                index=index,
                port=ports[index],
                monitor_port=self._monitor_ports[index],
                store=home / f"n{index}",
                route_port=routes[index],
                routes=", ".join(others),
            )
            path.write_text(text)
        self.programs = (*self._servers(), *self._clients(rate))
        self.running: dict[str, ManagedProcess] = {}
        self._reported: set[str] = set()  # names of processes whose end was printed

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands that use the stream."""
        monitors = (f"http://127.0.0.1:{port}" for port in self._monitor_ports)
        return {
            "EVENTLOG_STREAM": STREAM,
            "EVENTLOG_NATS_URL": ",".join(self._urls),
            "EVENTLOG_NATS_MONITOR_URL": ",".join(monitors),
        }

    def _servers(self) -> list[Program]:
        program = PROGRAMS / "nats-server"
        return [
            Program(f"n{index}", f"server {self._urls[index]}", (program, "-c", config))
            for index, config in enumerate(self._configs)
        ]

    def _clients(self, rate: float) -> list[Program]:
        command, script = PROGRAMS / "eventlog", CHECKOUT / "tools/generator.py"
        generate = (sys.executable, script, "--home", self.primary, "--rate", rate)
        return [
            Program("generator", f"appends {rate:g} entries a second to the primary", generate),
            Program(
                "mirror",
                "eventlog --home primary project sqlite mirror",
                (command, "--home", self.primary, "project", "sqlite", "mirror"),
            ),
            Program(
                "follower",
                "eventlog --home replica follow",
                (command, "--home", self.replica, "follow"),
            ),
            Program(
                "table",
                "eventlog --home replica project sqlite",
                (command, "--home", self.replica, "project", "sqlite"),
            ),
        ]

    def start(self, stop: StopRequest) -> None:
        """Starts the servers, creates the stream, and starts the rest. Raises Stopped."""
        for program in self.programs[:NODES]:
            self._start(program)
        end_s = time.monotonic() + START_S_MAX
        words = (PROGRAMS / "eventlog", "mirror", "create")
        while True:
            created = self._processes.run("create", *words, env=self.env)
            if created.code == 0:
                break
            if time.monotonic() > end_s:
                raise ProcessFailed(f"the stream was not created: {created.output}", code=1)
            stop.sleep(STEP_S)
        for program in self.programs[NODES:]:
            self._start(program)

    def start_ended(self) -> list[str]:
        """Starts what has ended, with the same files and ports; returns the names."""
        ended = [program for program in self.programs if self._has_ended(program.name)]
        for program in ended:
            self._start(program)
        return [f"{program.name} ({self.pid(program.name)})" for program in ended]

    def newly_ended(self) -> list[str]:
        """The names of what has ended since the last call, each with how."""
        found = [
            program.name
            for program in self.programs
            if self._has_ended(program.name) and program.name not in self._reported
        ]
        self._reported.update(found)
        return [f"{name} {_end_text(self.running[name].process.returncode)}" for name in found]

    def pid(self, name: str) -> int:
        """The pid of a process."""
        return self.running[name].process.pid

    def leader(self) -> str | None:
        """The server that leads the stream, as the first server says that knows it."""
        for port in self._monitor_ports:
            with suppress(urllib.error.URLError, OSError, ValueError, LookupError):
                url = f"http://127.0.0.1:{port}/jsz?streams=1"
                with urllib.request.urlopen(url, timeout=MONITOR_S) as answer:
                    (account,) = json.load(answer)["account_details"]
                leader = account["stream_detail"][0]["cluster"]["leader"]
                if leader:
                    return str(leader)
        return None

    def _start(self, program: Program) -> None:
        self._reported.discard(program.name)
        self.running[program.name] = self._processes.start(
            program.name, *program.words, env=self.env
        )

    def _has_ended(self, name: str) -> bool:
        return self.running[name].process.poll() is not None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # else a pipe gets each line late
        sys.stdout.reconfigure(line_buffering=True)
    stop = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        home = _home(options.home)
    except ProcessFailed as error:
        return _report(error)
    try:
        with ProcessGroup(home / "logs", stop) as processes:
            cluster = Cluster(home, options.rate, processes)
            _write_environment(home, cluster)
            print(f"Starting three servers, a primary and a replica in {home}")
            cluster.start(stop)
            _print_programs(home, cluster)
            _watch(cluster, stop)
    except Stopped:
        print(f"\nEvery process is stopped; {home} is kept. When done: rm -r {home}")
        return EXIT_INTERRUPTED if stop.name == "SIGINT" else 0
    except ProcessFailed as error:
        return _report(error)


def _report(error: ProcessFailed) -> int:
    print(f"cluster: {error}", file=sys.stderr)
    return error.code


def _watch(cluster: Cluster, stop: StopRequest) -> NoReturn:
    """Prints figures until a signal arrives, and starts what has ended at each Enter."""
    is_open, line_s = True, 0.0
    while True:
        for text in cluster.newly_ended():
            print(f"  {text}; Enter starts it again")
        if time.monotonic() >= line_s:
            print(f"  {_figures(cluster)}")
            line_s = time.monotonic() + LINE_S
        stop.sleep(STEP_S)
        if is_open and select.select([0], [], [], 0)[0]:
            is_open = bool(os.read(0, 4096))
            if is_open and (started := cluster.start_ended()):
                print(f"  started again: {', '.join(started)}")


def _figures(cluster: Cluster) -> str:
    """How far each place is, and what the mirror says."""
    log, copy = _last_seq(cluster.primary), _last_seq(cluster.replica)
    record = read_mirror_record(cluster.primary)
    acked = record.acked if record is not None else 0
    with suppress(EventLogError):
        if record is None or not is_replicated(str(cluster.primary), acked):
            acked = 0
    state = record.state if record is not None else "starting"
    if record is not None and record.state == MIRRORING:  # else the figures are old
        servers = f"{record.replicas_current} of {record.replicas} servers"
        state = f"{state}, {servers}, leader {cluster.leader() or 'unknown'}"
    return f"log {log:>6}  replicated {acked:>6}  replica {copy:>6}  {state}"


def _last_seq(home: Path) -> int:
    try:
        return int(str(log_status(str(home), count=False)["last_seq"]))
    except (EventLogError, OSError):
        return 0


def _print_programs(home: Path, cluster: Cluster) -> None:
    for program in cluster.programs:
        print(f"  {program.name:<10} {cluster.pid(program.name):>8}  {program.role}")
    print("Kill what you like from another terminal, such as the leader: kill -9 PID")
    print("Enter starts again what has ended. Ctrl-C ends everything.")
    print(f"For commands:  source {shlex.quote(str(home / ENV_NAME))}")
    print("               eventlog --home $PRIMARY status; eventlog --home $REPLICA verify")


def _write_environment(home: Path, cluster: Cluster) -> None:
    """Writes a file for a shell to source."""
    values = {
        **cluster.env,
        "PRIMARY": str(cluster.primary),
        "REPLICA": str(cluster.replica),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    lines.append(f"export PATH={shlex.quote(str(PROGRAMS))}:$PATH")
    (home / ENV_NAME).write_text("\n".join(lines) + "\n")


def _home(named: Path | None) -> Path:
    """The directory of all files: new, or one of an earlier run."""
    home = (named or Path(tempfile.mkdtemp(prefix="eventlog-cluster-"))).absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(home.iterdir()) and not (home / ENV_NAME).is_file():
        what = f"{home} has files that are not from tools/cluster: name another --home, or none"
        raise ProcessFailed(what, code=EXIT_COULD_NOT_RUN)
    return home


def _end_text(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/cluster",
        description="Run a primary and a replica over three NATS servers on this machine.",
    )
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="where the files go; default: a new directory"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=RATE,
        metavar="PER_SECOND",
        help=f"entries that the generator appends; default: {RATE:g}",
    )
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return rate


if __name__ == "__main__":
    sys.exit(main())
