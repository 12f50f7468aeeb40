"""B18: the tree over the lines of a log, built from nothing, and extended by batches.

Invariant: the tree that is measured is complete and on the device; the peer hashes the same lines.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from statistics import median

from eventlog import EventLog
from projections.evidence.tree.projection import TreeProjection, update_tree
from projections.projection import Checkpoint
from tools.benchmarks.ours import build_log, long_log
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds

BATCH_LINES = 1_000
BATCHES, BATCHES_QUICK = 20, 5  # of one round
# Of the whole process, interpreter and packages included. Not ru_maxrss, which begins with the size
# of the process that started it.
_PEAK_MB = """\
import re, sys
from pathlib import Path
from projections.evidence.tree.projection import update_tree
update_tree(Path(sys.argv[1]))
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def tree_against_sha256(bench: Bench) -> Rounds:
    """B18: lines a second of the tree, against one process that hashes each line."""
    home, entries = long_log(bench)

    def ours() -> float:
        _remove_tree(home)
        started_s = time.perf_counter()
        seq = update_tree(home).seq
        took_s = time.perf_counter() - started_s
        if seq != entries:
            raise NotMeasured(f"the tree ends at seq {seq}, not at {entries}")
        return entries / took_s

    def peer() -> float:
        started_s = time.perf_counter()
        for line in _lines(home):
            sha256(line).digest()
        return entries / (time.perf_counter() - started_s)

    rounds = bench.alternate(ours, peer, rounds=ROUNDS_MIN)
    _remove_tree(home)
    peak_mb = subprocess.run(
        [sys.executable, "-c", _PEAK_MB, home], capture_output=True, check=True, text=True
    ).stdout
    took_s = entries / median(rounds.ours)
    note = (
        f"{entries:,} lines in {took_s:.1f} s; a process of its own takes {float(peak_mb):.0f} MB"
    )
    return Rounds(ours=rounds.ours, peer=rounds.peer, note=note)


def batch_ms(bench: Bench) -> Rounds:
    """B18-batch: ms until a batch of 1,000 lines is in the tree and synced, p50 of each round."""
    count = BATCHES_QUICK if bench.quick else BATCHES
    home = bench.fresh_dir("b18")
    build_log(home, BATCH_LINES * count, segment_bytes=64 * 1024 * 1024)
    found = []
    for number in range(ROUNDS_MIN):
        bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
        _remove_tree(home)
        found.append(1_000 * median(asyncio.run(_batches_s(home))))
    return Rounds(ours=tuple(found), note=f"{ROUNDS_MIN} rounds of {count} batches")


async def _batches_s(home: Path) -> list[float]:
    """The seconds of each batch of the whole log, by the projection itself."""
    projection = TreeProjection()
    before, taken_s = await projection.open(home), []
    with EventLog(home) as log:
        entries = log.read()
        while batch := list(islice(entries, BATCH_LINES)):
            after = Checkpoint(projection="tree", seq=batch[-1].seq, chain=batch[-1].chain)
            started_s = time.perf_counter()
            await projection.apply(batch, before=before, after=after)
            taken_s.append(time.perf_counter() - started_s)
            before = after
    return taken_s


def _lines(home: Path) -> Iterator[bytes]:
    for segment in sorted((home / "logs").glob("*.jsonl")):
        with segment.open("rb") as file:
            yield from file


def _remove_tree(home: Path) -> None:
    shutil.rmtree(home / "data" / "tree", ignore_errors=True)
