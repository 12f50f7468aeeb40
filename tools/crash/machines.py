"""The kill loop of replication: `python -m tools.crash.machines --seconds N --seed S`.

A primary appends, and is mirrored over three NATS servers into a replica. At random moments one,
two or all servers, their leader, the mirror and the follower are killed with SIGKILL and started
again; servers are also paused. Whatever counts as replicated is noted outside the mirror.

The seed determines what is killed and how long it is down. The timing differs from run to run, so a
seed does not repeat a failure exactly.

Invariant: whatever counted as replicated is in the stream when the kills end, no loss is reported,
and then the replica becomes the primary, byte for byte.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventlog import EventLog
from eventlog.plumbing import (
    StreamEnd,
    StreamUnavailable,
    open_stream,
    read_mirror_record,
)
from projections.replication.follow_record import read_follow_figures
from tools.homes import last_seq, replicated_end, segments
from tools.processes import ProcessFailed, ProcessGroup, Stopped, StopRequest
from tools.programs import (
    NODES,
    NatsServers,
    Programs,
    follower_program,
    mirror_program,
)

MIRROR, FOLLOWER = "mirror", "follower"
SEGMENT_BYTES = 64 * 1024  # a rotation every hundred entries
APPENDS_MAX, APPEND_PAUSE_S = 12, 0.03  # some two hundred entries a second
PAUSE_S = (0.3, 1.5)  # between two kills
DOWN_S = (0.5, 4.0)
# What is killed or paused, and how often beside the others.
ACTIONS = {
    "one server": 3,
    "the leader": 2,
    "two servers": 1,
    "all servers": 1,
    "pause of a server": 2,
    "pause of the leader": 1,
    MIRROR: 4,
    FOLLOWER: 4,
}
# Most kills wait until a client has done something since its start, else a slow machine would kill
# each one while it still imports its modules.
EARLY_SHARE = 0.2
SETTLE_S_MAX = 60.0  # until the servers have a leader that knows the end of the stream
LINE_S = 30.0  # between two lines of figures


@dataclass(slots=True, kw_only=True)
class MachinesResult:
    """The figures of a run."""

    kills: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    replicated: int = 0  # the highest seq that counted as replicated while processes were killed
    checked: int = 0  # how many such seqs were noted, and looked up in the replica
    resets: int = 0  # how often the followers opened the stream anew, as far as they noted it
    segments: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kills}); {self.entries} entries in {self.segments} "
            f"segments, {self.replicated} replicated before the end, {self.checked} seqs noted, "
            f"{self.resets} resets, {len(self.problems)} problems"
        )


class _Loop:
    """One run."""

    def __init__(
        self, home: Path, rng: random.Random, processes: ProcessGroup, stop: StopRequest
    ) -> None:
        self._primary, self._replica = home / "primary", home / "replica"
        self._rng = rng
        self._stop = stop
        self._servers = NatsServers(home)
        clients = (mirror_program(self._primary), follower_program(self._replica))
        self._programs = Programs((*self._servers.programs, *clients), self._servers.env, processes)
        self._down: dict[str, float] = {}  # servers that are killed or paused, and until when
        self._next_s = 0.0
        self._started_at: dict[str, int] = {}  # how far mirror and follower were at their start
        self._noted: dict[int, str] = {}  # seqs that counted as replicated, and their chains
        self.found = MachinesResult()

    def start(self) -> None:
        """Starts everything. Raises ProcessFailed, Stopped."""
        self._programs.start(*self._servers.names)
        self._servers.create_stream(self._programs, self._stop)
        for client in (MIRROR, FOLLOWER):
            self._start_client(client)

    def _start_client(self, client: str) -> None:
        self._started_at[client] = self._progress(client)
        self._programs.start(client)

    def run(self, seconds: float) -> None:
        """Appends and kills. Raises Stopped."""
        end_s = time.monotonic() + seconds
        line_s = time.monotonic() + LINE_S
        self._next_s = time.monotonic() + PAUSE_S[1]
        with EventLog(self._primary, segment_bytes=SEGMENT_BYTES) as log:
            while time.monotonic() < end_s:
                count = self._rng.randint(1, APPENDS_MAX)
                log.append_many(list(_signals(self.found.entries, count)))
                self.found.entries += count
                self._note_replicated()
                self._kill_what_is_due()
                self._stop.sleep(APPEND_PAUSE_S)
                if time.monotonic() > line_s:
                    print(f"  {self.found}", flush=True)
                    line_s += LINE_S

    def _note_replicated(self) -> None:
        if (end := replicated_end(self._primary)) is not None:
            self.found.replicated = max(self.found.replicated, end.seq)
            self._noted.setdefault(end.seq, end.chain)

    def _kill_what_is_due(self) -> None:
        now_s = time.monotonic()
        for name in [name for name, due_s in self._down.items() if now_s > due_s]:
            self._bring_back(name)
        if now_s > self._next_s:
            self._next_s = now_s + self._rng.uniform(*PAUSE_S)
            actions = [MIRROR, FOLLOWER] if self._down else list(ACTIONS)
            (action,) = self._rng.choices(actions, [ACTIONS[name] for name in actions])
            is_early = self._rng.random() < EARLY_SHARE
            if is_early or self._has_progressed(action):
                self._act(action)
                self.found.kills[action] += 1
        for name in self._programs.newly_ended():
            self.found.problems.append(str(self._programs.process(name).failed("ended by itself")))

    def _has_progressed(self, action: str) -> bool:
        """Whether what is to be killed has done something since it was started."""
        return action not in self._started_at or self._progress(action) > self._started_at[action]

    def _progress(self, client: str) -> int:
        """The seq that counts as replicated, or the last one in the replica."""
        if client == MIRROR:
            return self.found.replicated
        return last_seq(self._replica)

    def _act(self, action: str) -> None:
        if action in (MIRROR, FOLLOWER):
            self._note_resets()
            self._programs.kill(action)
            self._start_client(action)
            return
        count = {"two servers": 2, "all servers": NODES}.get(action, 1)
        names = self._rng.sample(self._servers.names, count)
        if action.endswith("the leader"):
            names = [self._servers.leader() or names[0]]
        for name in names:
            if action.startswith("pause"):
                self._programs.send(name, signal.SIGSTOP)
            else:
                self._programs.kill(name)
            self._down[name] = time.monotonic() + self._rng.uniform(*DOWN_S)

    def _bring_back(self, name: str) -> None:
        del self._down[name]
        if self._programs.process(name).process.poll() is None:
            self._programs.send(name, signal.SIGCONT)
        else:
            self._programs.start(name)

    def _note_resets(self) -> None:
        figures = read_follow_figures(self._replica)
        self.found.resets += figures.resets if figures is not None else 0

    def check(self) -> None:
        """Ends the kills, and compares what is left. Raises Stopped."""
        self._note_resets()
        for name in (MIRROR, FOLLOWER):
            self._programs.kill(name)
        for name in list(self._down):
            self._bring_back(name)
        # Before the mirror fills it again: what counted as replicated must be there.
        end = self._settled_end()
        if end.seq < self.found.replicated:
            self._report(f"the stream ends at {end.seq}, and {self.found.replicated} counted")
        for name, *words in (
            ("mirror", "--home", self._primary, "project", "mirror", "--once"),
            ("follow", "--home", self._replica, "follow", "--once"),
        ):
            done = self._programs.run(f"last-{name}", *words)
            if done.code != 0:
                self._report(f"the last {name} ended with {done.code}: {done.output}")
        record = read_mirror_record(self._primary)
        if record is None or record.lost_acked or record.acked != self.found.entries:
            self._report(f"after {self.found.entries} entries the mirror has noted {record}")
        self._compare()

    def _settled_end(self) -> StreamEnd:
        """The end of the stream. Waits while it is below what counted as replicated."""

        async def last() -> StreamEnd:
            stream = await open_stream(self._servers.settings)
            try:
                return await stream.last()
            finally:
                await stream.close()

        give_up_s, end = time.monotonic() + SETTLE_S_MAX, None
        while time.monotonic() < give_up_s:
            with suppress(StreamUnavailable):
                end = asyncio.run(last())
                if end.seq >= self.found.replicated:
                    break
            self._stop.sleep(0.1)
        return end or StreamEnd()

    def _compare(self) -> None:
        ours, theirs = (segments(home) for home in (self._primary, self._replica))
        self.found.segments = len(ours)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                self._report(f"segment {name} differs between primary and replica")
        with EventLog(self._replica) as log:
            chains = {entry.seq: entry.chain for entry in log.read()}
        for seq, chain in self._noted.items():
            if chains.get(seq) != chain:
                self._report(f"seq {seq} counted as replicated and is missing from the replica")
        self.found.checked = len(self._noted)

    def _report(self, problem: str) -> None:
        self.found.problems.append(problem)


def _signals(after: int, count: int) -> Iterator[dict[str, Any]]:
    for number in range(after + 1, after + count + 1):
        yield {
            "signal_id": f"m-{number}",
            "symbol": "KILL",
            "action": "BUY",
            "entry_price": 100.0 + number,
            "target_price": 110.0 + number,
            "stop_price": 90.0 + number,
            "confidence": 80.0,
            "strategy": "kill_loop",
            "timestamp": "2025-11-18T02:00:00Z",
        }


def run(
    home: Path, *, seconds: float, seed: int, stop: StopRequest | None = None
) -> MachinesResult:
    """Kills for so long, then checks; a problem is in the result. Raises ProcessFailed, Stopped."""
    stop = stop or StopRequest()
    with ProcessGroup(home / "logs", stop) as processes:
        loop = _Loop(home, random.Random(seed), processes, stop)
        loop.start()
        loop.run(seconds)
        loop.check()
        return loop.found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.crash.machines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="an empty directory, which is kept"
    )
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    stop = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory() as directory:
        home = options.home or Path(directory)
        home.mkdir(parents=True, exist_ok=True)
        try:
            found = run(home, seconds=options.seconds, seed=seed, stop=stop)
        except Stopped:
            return 130
        except ProcessFailed as error:
            print(error, file=sys.stderr)
            return 3
    print(found)
    for problem in found.problems[:20]:
        print(problem)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
