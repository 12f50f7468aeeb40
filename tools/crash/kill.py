"""The kill loop: kills real pipes at random moments: `python -m tools.crash.kill`.

Several `eventlog append` processes write to one home without a pause. Each is killed with SIGKILL
again and again and started again; lines without a receipt are sent again.

Invariant: each receipt that a pipe printed is in the log, no signal is there twice, and the chain
is whole.
"""

import argparse
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from eventlog import EventLog
from eventlog.verify.verify import verify

COMMAND = Path(sys.executable).with_name("eventlog")
UNANSWERED_MAX = 64  # lines sent to one pipe and not answered
SEGMENT_BYTES = 64 * 1024  # a rotation every hundred entries
LIFE_S = (0.12, 0.45)  # from before the first commit of a pipe to well after it


@dataclass(slots=True)
class KillLoopResult:
    """The figures of a run."""

    kills: int = 0
    receipts: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)


class _Pipe:
    """One generator: its lines, the process that appends them, and the receipts."""

    def __init__(self, home: Path, name: str, rng: random.Random) -> None:
        self._home = home
        self._name = name
        self._rng = rng
        self._number = 0
        self._unanswered: dict[str, bytes] = {}
        self.received: dict[str, int] = {}  # signal_id: seq
        self.start()

    def start(self) -> None:
        """Starts a process and sends the unanswered lines again."""
        words = [str(COMMAND), "--quiet", "--home", str(self._home), "append"]
        words += ["--segment-bytes", str(SEGMENT_BYTES)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._rest = b""
        self.dies_at_s = time.monotonic() + self._rng.uniform(*LIFE_S)
        self._send(list(self._unanswered.values()))

    def turn(self) -> None:
        """Sends new lines and reads receipts."""
        lines = []
        while len(self._unanswered) < UNANSWERED_MAX:
            self._number += 1
            signal_id = f"{self._name}-{self._number}"
            self._unanswered[signal_id] = _line(signal_id, self._number)
            lines.append(self._unanswered[signal_id])
        self._send(lines)
        self._receive()

    def kill(self) -> None:
        """Kills the process with SIGKILL and reads the receipts that it had printed."""
        self._process.kill()
        self._receive(until_eof=True)
        self._process.wait()
        self._close()

    def finish(self) -> None:
        """Closes stdin and waits for all answers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._receive(until_eof=True)
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _send(self, lines: list[bytes]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: the lines are sent again
            os.write(
                self._process.stdin.fileno(), b"".join(lines)
            )  # fits into the buffer of the pipe

    def _receive(self, *, until_eof: bool = False) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while until_eof or select.select([fd], [], [], 0)[0]:
            data = os.read(fd, 1 << 16)
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                receipt = json.loads(line)
                self.received[receipt["signal_id"]] = receipt["seq"]
                self._unanswered.pop(receipt["signal_id"], None)


def _line(signal_id: str, number: int) -> bytes:
    fields = {
        "signal_id": signal_id,
        "symbol": "KILL",
        "action": "BUY",
        "entry_price": 100.0 + number,
        "target_price": 110.0 + number,
        "stop_price": 90.0 + number,
        "confidence": 80.0,
        "strategy": "kill_loop",
        "timestamp": "2025-11-18T02:00:00Z",
    }
    return json.dumps(fields).encode() + b"\n"


def run(home: Path, *, kills: int, pipes: int, seed: int) -> KillLoopResult:
    """Kills `kills` pipes, then lets all of them finish and checks the log."""
    rng = random.Random(seed)
    found = KillLoopResult()
    running = [_Pipe(home, f"p{number}", rng) for number in range(pipes)]
    while found.kills < kills:
        for pipe in running:
            pipe.turn()
            if time.monotonic() >= pipe.dies_at_s and found.kills < kills:
                pipe.kill()
                pipe.start()
                found.kills += 1
        time.sleep(0.002)
    for pipe in running:
        pipe.finish()
    _check(home, running, found)
    return found


def _check(home: Path, pipes: list[_Pipe], found: KillLoopResult) -> None:
    report = verify(home)
    found.problems += [f"{f.segment} at {f.byte_offset}: {f.problem}" for f in report.findings]
    seqs: dict[object, int] = {}
    with EventLog(home) as log:
        for entry in log.read():
            signal_id = entry.payload["signal_id"]
            if signal_id in seqs:
                found.problems.append(
                    f"{signal_id} is in the log twice: {seqs[signal_id]}, {entry.seq}"
                )
            seqs[signal_id] = entry.seq
    found.entries = len(seqs)
    for pipe in pipes:
        found.receipts += len(pipe.received)
        for signal_id, seq in pipe.received.items():
            if seqs.get(signal_id) != seq:
                found.problems.append(
                    f"{signal_id} was acknowledged as {seq}, and is {seqs.get(signal_id)}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--pipes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as home:
        start_s = time.monotonic()
        found = run(Path(home), kills=options.kills, pipes=options.pipes, seed=seed)
        took_s = time.monotonic() - start_s
    print(
        f"{found.kills} kills in {took_s:.0f} s: {found.receipts} receipts,"
        f" {found.entries} entries, {len(found.problems)} problems"
    )
    for problem in found.problems[:20]:
        print(problem)
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
