"""The demo of a failover: three servers, a primary and a replica on this machine, step by step.

    tools/demo --machines [--home DIR]

The leader of the servers is killed, and then the primary with entries that no server has. The
replica is promoted, and the old primary comes back as a replica.

Invariant: the printed figures were read back from both homes; whatever was replicated before the
primary was killed is in both.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eventlog import EventLog
from tools.homes import last_seq, replicated_end, segments
from tools.processes import CHECKOUT, STEP_S, Ended, ProcessFailed, ProcessGroup, StopRequest
from tools.programs import NatsServers, Program, Programs, follower_program, mirror_program

RATE = 100  # entries a second
GROWTH = 100  # entries by which a place grows before the next step
STALLED_S = 60.0  # without progress, after which the demo fails


@dataclass(slots=True)
class Failover:
    """The state that the steps share."""

    home: Path
    programs: Programs
    servers: NatsServers
    stop: StopRequest
    replicated: dict[int, str] = field(default_factory=dict)  # seqs that counted, and their chains
    entries: int = 0
    resent: int = 0  # entries that only the old primary had

    @property
    def a(self) -> Path:
        """The home of the first primary."""
        return self.home / "a"

    @property
    def b(self) -> Path:
        """The home of its replica, which becomes the primary."""
        return self.home / "b"


def start(demo: Failover) -> None:
    """Start three servers, the primary `a` with a generator, and its replica `b`"""
    demo.programs.start(*demo.servers.names)
    demo.servers.create_stream(demo.programs, demo.stop)
    demo.programs.start("generator-a", "mirror-a", "follow-b")
    _wait(demo, lambda: last_seq(demo.b) > GROWTH, "a replica that follows")
    print(f"  {_figures(demo)}")


def kill_the_leader(demo: Failover) -> None:
    """Kill the server that leads the stream: appends go on, and the others elect another leader"""
    leader = demo.servers.leader()
    if leader is None:
        raise ProcessFailed("no server leads the stream", code=1)
    demo.programs.kill(leader)
    before = last_seq(demo.a)
    print(f"  $ kill -9 {leader}")
    _wait(demo, lambda: last_seq(demo.a) > before + GROWTH, "appends without the leader")
    _wait(demo, lambda: _replicated(demo) > before, "another leader")
    demo.programs.start(leader)
    piled_up = last_seq(demo.a)
    _wait(demo, lambda: _replicated(demo) >= piled_up, "a mirror that has caught up")
    print(f"  {_figures(demo)}; {leader} is started again")


def kill_the_primary(demo: Failover) -> None:
    """Kill the primary while it has entries that no server has: durable, not replicated"""
    demo.programs.kill("mirror-a")
    before = last_seq(demo.a)
    _wait(demo, lambda: last_seq(demo.a) > before + GROWTH, "entries of its own")
    demo.programs.kill("generator-a")
    replicated = _replicated(demo)
    _wait(demo, lambda: last_seq(demo.b) >= replicated, "a replica with all that is replicated")
    print(f"  {_figures(demo)}")


def promote(demo: Failover) -> None:
    """Promote `b`; the generator and the mirror go on there"""
    demo.programs.end("follow-b")
    _eventlog(demo, demo.b, "promote", "--host", "b")
    demo.programs.start("generator-b", "mirror-b")
    before = last_seq(demo.a)
    _wait(demo, lambda: last_seq(demo.b) > before, "a generator that goes on")
    demo.programs.end("generator-b")
    print(f"  b ends at seq {last_seq(demo.b):,}")


def rejoin(demo: Failover) -> None:
    """Let `a` come back as a replica; append what only it had to `b`: nothing is written twice"""
    _eventlog(demo, demo.a, "rejoin")
    for path in sorted((demo.a / "logs").glob("forked-*.aside")):
        demo.resent += len(path.read_bytes().splitlines())
        ended = _eventlog(demo, demo.b, "append", "--stored", "--skip-invalid", path, shown=0)
        known = sum(json.loads(line)["duplicate"] for line in ended.output.splitlines())
        print(f"    {known:,} of {demo.resent:,} entries were appended to b again by the generator")
    before = last_seq(demo.b)
    demo.programs.start("follow-a", "generator-b")
    _wait(demo, lambda: last_seq(demo.a) > before + GROWTH, "a replica that follows")
    demo.programs.end("generator-b")
    demo.entries = last_seq(demo.b)
    _wait(demo, lambda: last_seq(demo.a) == demo.entries, "a replica that has caught up")
    print(f"  a and b end at seq {demo.entries:,}")


def compare(demo: Failover) -> None:
    """Compare both homes, byte for byte, with what was replicated before the primary was killed"""
    demo.programs.end("follow-a")
    demo.programs.end("mirror-b")
    ours, theirs = (segments(home) for home in (demo.a, demo.b))
    if ours != theirs:
        raise ProcessFailed("the homes differ", code=1)
    chains, ids = {}, Counter[object]()
    with EventLog(demo.b) as log:
        for entry in log.read():
            chains[entry.seq] = entry.chain
            if entry.event == "signal":
                ids[entry.payload["signal_id"]] += 1
    missing = [seq for seq, chain in demo.replicated.items() if chains.get(seq) != chain]
    if missing:
        raise ProcessFailed(f"replicated entries are missing: {missing[:5]}", code=1)
    if max(ids.values()) > 1:
        raise ProcessFailed("a signal is in the log twice", code=1)
    _eventlog(demo, demo.a, "verify")
    print(f"  {len(ours)} files of {demo.entries:,} entries are the same in a and b")


STEPS: tuple[Callable[[Failover], None], ...] = (
    start,
    kill_the_leader,
    kill_the_primary,
    promote,
    rejoin,
    compare,
)


def prepare(home: Path, processes: ProcessGroup, stop: StopRequest) -> Failover:
    """The demo, with nothing started yet."""
    servers = NatsServers(home)
    a, b = home / "a", home / "b"
    programs = (
        *servers.programs,
        *(_generator(place) for place in (a, b)),
        *(mirror_program(place, name=f"mirror-{place.name}") for place in (a, b)),
        *(follower_program(place, f"follow-{place.name}") for place in (a, b)),
    )
    return Failover(home, Programs(programs, servers.env, processes), servers, stop)


def summary(demo: Failover) -> str:
    """The outcome, in one sentence."""
    return (
        f"{demo.entries:,} entries are the same in both homes, the {max(demo.replicated):,} that "
        "were replicated when the primary was killed are among them, and none of the "
        f"{demo.resent:,} that only it had is lost or there twice"
    )


def _generator(home: Path) -> Program:
    script = CHECKOUT / "tools/generator.py"
    words = (sys.executable, script, "--home", home, "--rate", RATE, "--batch", "day")
    return Program(f"generator-{home.name}", "appends", words)


def _wait(demo: Failover, condition: Callable[[], bool], what: str) -> None:
    """Waits until something holds, and notes meanwhile what counts as replicated."""
    end_s = time.monotonic() + STALLED_S
    while not condition():
        _replicated(demo)
        for name in demo.programs.newly_ended():
            raise demo.programs.process(name).failed("ended")
        if time.monotonic() > end_s:
            raise ProcessFailed(f"{what} has not come after {STALLED_S:g} s", code=1)
        demo.stop.sleep(STEP_S)


def _replicated(demo: Failover) -> int:
    """The last seq of `a` that counts as replicated."""
    if (end := replicated_end(demo.a)) is not None:
        demo.replicated[end.seq] = end.chain
    return max(demo.replicated, default=0)


def _figures(demo: Failover) -> str:
    ends = f"a ends at seq {last_seq(demo.a):,}, b at {last_seq(demo.b):,}"
    return f"{ends}; replicated up to {_replicated(demo):,}"


def _eventlog(demo: Failover, home: Path, *words: object, shown: int = 20) -> Ended:
    """Runs a command, and prints it with the first lines of its output. Raises ProcessFailed."""
    line = [str(word) for word in ("--home", home, *words)]
    print(f"  $ eventlog {shlex.join(line)}")
    ended = demo.programs.run(str(words[0]), *line)
    for text in ended.output.splitlines()[:shown]:
        print(f"    {text}")
    if ended.code != 0:
        raise ProcessFailed(f"eventlog {words[0]} ended with exit code {ended.code}", code=1)
    return ended
