"""B11: the time from a receipt until another connection sees the row in the table.

Signals are appended at a constant pace, whether or not earlier ones are visible, so that a delay
affects each signal that falls into it. Another thread polls the table through its own connection.

Invariant: each signal counts once, from the return of its append to the first poll that finds it.
"""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import quantiles

from eventlog import EventLog
from tools.benchmarks.ours import command
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds
from tools.benchmarks.signals import Signals

PACE_S = 0.01  # 100 signals a second
POLL_S = 0.0002  # between two polls; the measured times are milliseconds
ROUND_SIGNALS, ROUND_QUICK_SIGNALS = 500, 200  # of one figure
WARM_SIGNALS = 50
SEEN_TIMEOUT_S = 30.0


def median_ms(bench: Bench) -> Rounds:
    """B11-p50: the median of each round."""
    return _rounds(bench, lambda taken_s: quantiles(taken_s, n=2)[0])


def p99_ms(bench: Bench) -> Rounds:
    """B11-p99: the 99th percentile of each round."""
    return _rounds(bench, lambda taken_s: quantiles(taken_s, n=100)[98])


def _rounds(bench: Bench, figure: Callable[[Sequence[float]], float]) -> Rounds:
    home = bench.fresh_dir("b11") / "home"
    count = ROUND_QUICK_SIGNALS if bench.quick else ROUND_SIGNALS
    signals = Signals(seed=31)
    with EventLog(home) as log:
        log.append_many(signals.take(1))
        daemon = subprocess.Popen(command("--home", home, "project", "sqlite"))
        try:
            with closing(Poller(home / "data" / "signals.db")) as poller:
                paced(log, poller, signals, WARM_SIGNALS, PACE_S)
                found = []
                for number in range(ROUNDS_MIN):
                    bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
                    found.append(1_000 * figure(paced(log, poller, signals, count, PACE_S)))
        finally:
            daemon.terminate()
            daemon.wait()
    return Rounds(ours=tuple(found), note=f"{ROUNDS_MIN} rounds of {count} signals, 100 a second")


def paced(
    log: EventLog, poller: Poller, signals: Signals, count: int, pace_s: float
) -> list[float]:
    """The seconds from receipt to row of each of `count` signals."""
    returned_s: dict[int, float] = {}
    due_s = time.perf_counter()
    for signal in signals.take(count):
        time.sleep(max(0.0, due_s - time.perf_counter()))
        seq = log.append(signal).seq
        returned_s[seq] = time.perf_counter()
        due_s += pace_s
    poller.wait_for(max(returned_s))
    return [max(0.0, poller.seen_s(seq) - at_s) for seq, at_s in returned_s.items()]


class Poller:
    """Polls the table, and notes the time of each change of its last row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[tuple[int, float]] = []  # last id, and the time when it was first seen
        self._is_closed = False
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def seen_s(self, seq: int) -> float:
        """When the row of entry `seq` was first seen."""
        return self._seen[bisect_left(self._seen, seq, key=lambda seen: seen[0])][1]

    def wait_for(self, seq: int) -> None:
        """Waits until the row is there. Raises NotMeasured."""
        give_up_s = time.perf_counter() + SEEN_TIMEOUT_S
        while not self._seen or self._seen[-1][0] < seq:
            if time.perf_counter() > give_up_s:
                raise NotMeasured(f"entry {seq} was not seen within {SEEN_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        self._is_closed = True
        self._thread.join()

    def _poll(self) -> None:
        while not self._path.exists() and not self._is_closed:
            time.sleep(POLL_S)
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
            last = 0
            while not self._is_closed:
                try:
                    (now,) = db.execute("SELECT max(id) FROM signals").fetchone()
                except sqlite3.OperationalError:  # the database is being created
                    now = None
                if now is not None and now > last:
                    last = now
                    self._seen.append((now, time.perf_counter()))
                time.sleep(POLL_S)
