"""A primary, a replica and three NATS servers on this machine, to kill and to start again.

    tools/cluster [--home DIR] [--rate PER_SECOND]

It prints what runs, and every few seconds how far log, stream and replica are. A process that is
killed stays dead until Enter is pressed. Ctrl-C ends all of them.

Invariant: no process outlives this program, unless it is killed with SIGKILL itself.
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from eventlog import EventLogError
from eventlog.plumbing import MIRRORING, read_mirror_record
from tools.homes import last_seq, replicated_end
from tools.processes import (
    CHECKOUT,
    STEP_S,
    ProcessFailed,
    ProcessGroup,
    Stopped,
    StopRequest,
)
from tools.programs import (
    BIN,
    NatsServers,
    Program,
    Programs,
    follower_program,
    mirror_program,
)

RATE = 5.0  # entries a second
LINE_S = 2.0  # between two lines of figures
ENV_NAME = "environment"  # it also marks a directory as one of this program
EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 3, 130


class Cluster:
    """The servers, a primary with a generator, a mirror and a table, and a replica with a table."""

    def __init__(self, home: Path, rate: float, processes: ProcessGroup) -> None:
        self.primary, self.replica = home / "primary", home / "replica"
        self.servers = NatsServers(home)
        self._clients = self._client_programs(rate)
        self.programs = Programs(
            (*self.servers.programs, *self._clients), self.servers.env, processes
        )

    def _client_programs(self, rate: float) -> tuple[Program, ...]:
        script = CHECKOUT / "tools/generator.py"
        generate = (sys.executable, script, "--home", self.primary, "--rate", rate)
        table = (BIN / "eventlog", "--home", self.replica, "project", "sqlite")
        return (
            Program("generator", f"appends {rate:g} entries a second to the primary", generate),
            mirror_program(self.primary, "sqlite"),
            follower_program(self.replica),
            Program("table", "eventlog --home replica project sqlite", table),
        )

    def start(self, stop: StopRequest) -> None:
        """Starts the servers, creates the stream, and starts the rest. Raises Stopped."""
        self.programs.start(*self.servers.names)
        self.servers.create_stream(self.programs, stop)
        self.programs.start(*(program.name for program in self._clients))


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
    programs, is_open, line_s = cluster.programs, True, 0.0
    while True:
        for name in programs.newly_ended():
            code = programs.process(name).process.returncode
            print(f"  {name} {_end_text(code)}; Enter starts it again")
        if time.monotonic() >= line_s:
            print(f"  {_figures(cluster)}")
            line_s = time.monotonic() + LINE_S
        stop.sleep(STEP_S)
        if is_open and select.select([0], [], [], 0)[0]:
            is_open = bool(os.read(0, 4096))
            if is_open and (started := programs.start_ended()):
                names = (f"{name} ({programs.pid(name)})" for name in started)
                print(f"  started again: {', '.join(names)}")


def _figures(cluster: Cluster) -> str:
    """How far each place is, and what the mirror says."""
    log, copy = last_seq(cluster.primary), last_seq(cluster.replica)
    record, end = read_mirror_record(cluster.primary), None
    with suppress(EventLogError):
        end = replicated_end(cluster.primary)
    acked = end.seq if end is not None else 0
    state = record.state if record is not None else "starting"
    if record is not None and record.state == MIRRORING:  # else the figures are old
        servers = f"{record.replicas_current} of {record.replicas} servers"
        state = f"{state}, {servers}, leader {cluster.servers.leader() or 'unknown'}"
    return f"log {log:>6}  replicated {acked:>6}  replica {copy:>6}  {state}"


def _print_programs(home: Path, cluster: Cluster) -> None:
    for program in cluster.programs.all:
        print(f"  {program.name:<10} {cluster.programs.pid(program.name):>8}  {program.role}")
    print("Kill what you like from another terminal, such as the leader: kill -9 PID")
    print("Enter starts again what has ended. Ctrl-C ends everything.")
    print(f"For commands:  source {shlex.quote(str(home / ENV_NAME))}")
    print("               eventlog --home $PRIMARY status; eventlog --home $REPLICA verify")


def _write_environment(home: Path, cluster: Cluster) -> None:
    """Writes a file for a shell to source."""
    values = {
        **cluster.servers.env,
        "PRIMARY": str(cluster.primary),
        "REPLICA": str(cluster.replica),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    lines.append(f"export PATH={shlex.quote(str(BIN))}:$PATH")
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
