"""B15: what a daemon costs: wakeups and processor time in silence and under load.

A wakeup is a voluntary switch of a thread, as /proc counts it. The few switches of a thread that
ends between two counts are missed. The processor time is that of the whole process, including
threads that have ended, but not the work that the kernel does in threads of its own, such as syncs.

Invariant: nothing is appended while silence is measured, and the daemons are ended by their own
handles, however the run ends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from eventlog import EventLog
from tools.benchmarks.ours import command
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds
from tools.benchmarks.signals import SignalDict, Signals
from tools.benchmarks.visibility import Poller, paced

SILENT_ROUNDS, SILENT_ROUND_S = 6, 10.0  # a silent minute
SILENT_QUICK_ROUND_S = 2.0
SETTLE_S = 10.0  # after the start, until the longer step of the watch is taken
HOMES = 20
START_TIMEOUT_S = 60.0

LOAD_ROUND_S, LOAD_QUICK_ROUND_S = 5.0, 1.0
RATES_PER_S = (10, 100, 1_000)
RATE_PER_S = RATES_PER_S[-1]
WARM_SIGNALS = 300  # so that a pause between commits has begun
CALL_ENTRIES, CALLS = 500, 40  # at the highest rate

LONE_SILENCE_S = 5.0  # the longest step is taken; a minute would make no difference
LONE_ROUND_SIGNALS, LONE_QUICK_ROUND_SIGNALS = 20, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of daemons during one round, for each home on average."""

    wakeups_per_s: float
    core_percent: float


def idle_wakeups(bench: Bench) -> Rounds:
    """B15-wakeups: wakeups a second of an idle `project sqlite`."""
    costs, of_all = _silence_of_one(bench, "sqlite"), _silence_of_one(bench, "all")
    return Rounds(
        ours=tuple(cost[0] for cost in costs),
        note=f"`project all`: {median(cost[0] for cost in of_all):.1f} /s",
    )


def idle_percent(bench: Bench) -> Rounds:
    """B15-idle: percent of a core that an idle `project sqlite` takes."""
    costs, of_all = _silence_of_one(bench, "sqlite"), _silence_of_one(bench, "all")
    return Rounds(
        ours=tuple(cost[1] for cost in costs),
        note=f"`project all`: {median(cost[1] for cost in of_all):.2f} %",
    )


def idle_percent_of_many(bench: Bench) -> Rounds:
    """B15-homes: the same for each of 20 homes, whose daemons run at the same time."""
    costs = _silence(bench, "sqlite", homes=HOMES)
    wakeups = median(cost.wakeups_per_s for cost in costs)
    return Rounds(
        ours=tuple(cost.core_percent for cost in costs),
        note=f"{HOMES} homes together: {HOMES * median(c.core_percent for c in costs):.1f} % of a "
        f"core, {HOMES * wakeups:.0f} wakeups a second",
    )


def load_us(bench: Bench) -> Rounds:
    """B15-load: microseconds of processor time a signal at 1,000 signals a second."""
    round_s = LOAD_QUICK_ROUND_S if bench.quick else LOAD_ROUND_S
    with _daemon(bench, "sqlite") as (log, process, home):
        signals = Signals(seed=41)
        rounds = tuple(
            _load_us(log, process, home, signals.take(int(RATE_PER_S * round_s)), RATE_PER_S)
            for _ in range(ROUNDS_MIN)
        )
        slow = signals.take(int(10 * max(round_s, 5.0)))
        notes = [
            f"at 10 a second {_load_us(log, process, home, slow, 10):,.0f} us",
            f"as fast as possible {_fastest(log, process, home, signals)}",
        ]
        with closing(Poller(home / "data" / "signals.db")) as poller:
            for per_s in RATES_PER_S:
                count = max(50, int(per_s * round_s))
                taken_s = paced(log, poller, signals, count, 1 / per_s)
                p50, p99 = (1_000 * quantiles(taken_s, n=100)[at] for at in (49, 98))
                notes.append(f"visible at {per_s:,} a second: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    with _daemon(bench, "all") as (log, process, home):
        further = signals.take(int(RATE_PER_S * round_s))
        notes.append(f"`all`: {_load_us(log, process, home, further, RATE_PER_S):,.0f} us")
    return Rounds(ours=rounds, note="; ".join(notes))


def lone_signal_ms(bench: Bench) -> Rounds:
    """B15-lone: ms from receipt to row of a signal after a silence, the highest of each round."""
    count = LONE_QUICK_ROUND_SIGNALS if bench.quick else LONE_ROUND_SIGNALS
    signals, found = Signals(seed=43), []
    with _daemon(bench, "sqlite") as (log, _, home):
        for number in range(ROUNDS_MIN):
            bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
            taken_s = []
            for at, signal in enumerate(signals.take(count)):
                # The phase of the watch differs from one signal to the next.
                time.sleep(LONE_SILENCE_S + 0.0137 * at)
                with closing(Poller(home / "data" / "signals.db")) as poller:
                    time.sleep(0.01)  # it has opened the table
                    seq = log.append(signal).seq
                    appended_s = time.perf_counter()
                    poller.wait_for(seq)
                    taken_s.append(max(0.0, poller.seen_s(seq) - appended_s))
            found.append([1_000 * taken for taken in taken_s])
    each_ms = [ms for round_ms in found for ms in round_ms]
    p99 = quantiles(each_ms, n=100, method="inclusive")[98]
    return Rounds(
        ours=tuple(map(max, found)),
        note=f"{len(each_ms)} signals after {LONE_SILENCE_S:g} s of silence: p50 "
        f"{median(each_ms):.1f} ms, p99 {p99:.1f} ms",
    )


def _silence_of_one(bench: Bench, name: str) -> list[tuple[float, float]]:
    """The costs of one home: each round's wakeups a second and percent of a core."""
    if name not in bench.figures:  # two targets share one measurement
        bench.figures[name] = [(c.wakeups_per_s, c.core_percent) for c in _silence(bench, name)]
    return bench.figures[name]


def _silence(bench: Bench, name: str, *, homes: int = 1) -> list[Cost]:
    """The cost of each round of silence."""
    round_s = SILENT_QUICK_ROUND_S if bench.quick else SILENT_ROUND_S
    with ExitStack() as ending:
        pids = []
        for number in range(homes):
            bench.progress(f"starting daemon {number + 1} of {homes}")
            pids.append(ending.enter_context(_daemon(bench, name))[1].pid)
        time.sleep(SETTLE_S)
        found = []
        for number in range(SILENT_ROUNDS):
            bench.progress(f"silence of `project {name}`, {number + 1} of {SILENT_ROUNDS}")
            wakeups, cpu_s = list(map(_wakeups, pids)), sum(map(_cpu_s, pids))
            started_s = time.perf_counter()
            time.sleep(round_s)
            cpu_s = sum(map(_cpu_s, pids)) - cpu_s
            took_s = homes * (time.perf_counter() - started_s)
            later = list(map(_wakeups, pids))
            woken = sum(
                count - before.get(thread, 0)
                for before, after in zip(wakeups, later, strict=True)
                for thread, count in after.items()
            )
            found.append(Cost(wakeups_per_s=woken / took_s, core_percent=100 * cpu_s / took_s))
    return found


@contextmanager
def _daemon(bench: Bench, name: str) -> Iterator[tuple[EventLog, subprocess.Popen[bytes], Path]]:
    """A daemon on a home of its own that has caught up, and a handle on its log.

    Delivery is disabled, so that `all` costs what each further projection does.
    """
    if not Path("/proc/self/task").is_dir():
        raise NotMeasured("/proc does not show the threads of a process here")
    home = bench.fresh_dir("b15") / "home"
    environment = {**os.environ, "ALPINE_SYNC_ENABLED": "false"}
    with EventLog(home) as log:
        receipt = log.append_many(Signals(seed=40).take(1))[-1]
        process = subprocess.Popen(
            command("--home", home, "-q", "project", name),
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(home, receipt.seq)
            yield log, process, home
        finally:
            process.terminate()
            process.wait()


def _wait(home: Path, seq: int) -> None:
    from projections import WaitTimeout, wait

    try:
        wait(home, seq, "projected", START_TIMEOUT_S)
    except WaitTimeout as error:
        raise NotMeasured(f"the daemon does not keep up: {error}") from None


def _load_us(
    log: EventLog,
    process: subprocess.Popen[bytes],
    home: Path,
    signals: Sequence[SignalDict],
    per_s: int,
) -> float:
    """Microseconds of the daemon's processor time for each of `signals`."""
    warm = Signals(seed=42 + log.last_seq).take(WARM_SIGNALS if per_s == RATE_PER_S else 1)
    _append_paced(log, warm, per_s)
    before_s = _cpu_s(process.pid)
    seq = _append_paced(log, signals, per_s)
    _wait(home, seq)
    return 1e6 * (_cpu_s(process.pid) - before_s) / len(signals)


def _append_paced(log: EventLog, signals: Sequence[SignalDict], per_s: int) -> int:
    """Appends `per_s` signals a second; returns the last seq."""
    due_s, seq = time.perf_counter(), 0
    for signal in signals:
        time.sleep(max(0.0, due_s - time.perf_counter()))
        seq = log.append(signal).seq
        due_s += 1 / per_s
    return seq


def _fastest(log: EventLog, process: subprocess.Popen[bytes], home: Path, signals: Signals) -> str:
    """Processor time a signal and signals a second, while calls of 500 follow one another."""
    calls = [signals.take(CALL_ENTRIES) for _ in range(CALLS)]
    started_s, before_s, seq = time.perf_counter(), _cpu_s(process.pid), 0
    for call in calls:
        seq = log.append_many(call)[-1].seq
    _wait(home, seq)
    took_s, count = time.perf_counter() - started_s, CALLS * CALL_ENTRIES
    us = 1e6 * (_cpu_s(process.pid) - before_s) / count
    return f"{us:.0f} us ({count / took_s:,.0f} a second)"


def _wakeups(pid: int) -> dict[str, int]:
    """The voluntary switches of each thread so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text()
        except OSError:  # it has just ended
            continue
        found[task.name] = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def _cpu_s(pid: int) -> float:
    """The processor time of a process so far; /proc shows it in steps of 10 ms only."""
    if not sys.platform.startswith("linux"):
        raise NotMeasured("the processor time of another process is read by Linux means")
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise NotMeasured(f"the processor time of the daemon cannot be read: {os.strerror(error)}")
    return time.clock_gettime(clock.value)
