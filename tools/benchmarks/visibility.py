"""B11: how long after its receipt a signal is seen in the table by another connection.

Signals are appended at a steady pace, whatever becomes of the ones before, so that a slow moment
is felt by all that fall into it. Another thread looks at the table through a connection of its own.

Invariant: each signal counts once, from the return of its append to the first look that found it.
"""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import quantiles

from eventlog import EventLog
from tools.benchmarks.ours import command
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds
from tools.benchmarks.signals import Signals

PACE_S = 0.01  # 100 signals a second
POLL_S = 0.0002  # between two looks: what is measured is some milliseconds
ROUND_SIGNALS, ROUND_QUICK_SIGNALS = 500, 200  # of one figure
WARM_SIGNALS = 50
SEEN_TIMEOUT_S = 30.0


def median_ms(bench: Bench) -> Rounds:
    """B11-p50: in each round half of the signals are seen sooner."""
    return _rounds(bench, lambda taken_s: quantiles(taken_s, n=2)[0])


def slowest_ms(bench: Bench) -> Rounds:
    """B11-p99: in each round a hundredth of the signals is seen later."""
    return _rounds(bench, lambda taken_s: quantiles(taken_s, n=100)[98])


def _rounds(bench: Bench, figure: Callable[[Sequence[float]], float]) -> Rounds:
    home = bench.fresh_dir("b11") / "home"
    count = ROUND_QUICK_SIGNALS if bench.quick else ROUND_SIGNALS
    signals = Signals(seed=31)
    with EventLog(home) as log:
        log.append_many(signals.take(1))
        daemon = subprocess.Popen(command("--home", home, "project", "sqlite"))
        try:
            with closing(_Poller(home / "data" / "signals.db")) as poller:
                _paced(log, poller, signals, WARM_SIGNALS)
                found = []
                for number in range(ROUNDS_MIN):
                    bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
                    found.append(1_000 * figure(_paced(log, poller, signals, count)))
        finally:
            daemon.terminate()
            daemon.wait()
    return Rounds(ours=tuple(found), note=f"{ROUNDS_MIN} rounds of {count} signals, 100 a second")


def _paced(log: EventLog, poller: _Poller, signals: Signals, count: int) -> list[float]:
    """Seconds from receipt to sight, of each of `count` signals."""
    returned_s: dict[int, float] = {}
    due_s = time.perf_counter()
    for signal in signals.take(count):
        time.sleep(max(0.0, due_s - time.perf_counter()))
        seq = log.append(signal).seq
        returned_s[seq] = time.perf_counter()
        due_s += PACE_S
    poller.wait_for(max(returned_s))
    return [max(0.0, poller.seen_s(seq) - at_s) for seq, at_s in returned_s.items()]


class _Poller:
    """Looks at the table again and again, and notes when its last row became another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[tuple[int, float]] = []  # last id, and when it was there first
        self._is_over = False
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def seen_s(self, seq: int) -> float:
        """When the row of entry `seq` was there."""
        return next(at_s for last, at_s in self._seen if last >= seq)

    def wait_for(self, seq: int) -> None:
        """Returns when the row is there. Raises NotMeasured."""
        give_up_s = time.perf_counter() + SEEN_TIMEOUT_S
        while not self._seen or self._seen[-1][0] < seq:
            if time.perf_counter() > give_up_s:
                raise NotMeasured(f"entry {seq} is not in the table after {SEEN_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        self._is_over = True
        self._thread.join()

    def _poll(self) -> None:
        while not self._path.exists() and not self._is_over:
            time.sleep(POLL_S)
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
            last = 0
            while not self._is_over:
                try:
                    (now,) = db.execute("SELECT max(id) FROM signals").fetchone()
                except sqlite3.OperationalError:  # it is being set up
                    now = None
                if now is not None and now > last:
                    last = now
                    self._seen.append((now, time.perf_counter()))
                time.sleep(POLL_S)
