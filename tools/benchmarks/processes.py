"""B6: four processes of 16 threads on one log against one process of 64 threads.

Invariant: all threads of a slice start at one instant of the monotonic clock and stop at another.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from eventlog import EventLog
from tools.benchmarks.runner import Bench, NotMeasured, Rounds
from tools.benchmarks.signals import SignalDict, Signals

PROCESSES = 4
THREADS = 16
THREADS_ALONE = PROCESSES * THREADS

# Every worker has received the order before the slice begins.
HEADSTART_S = 0.05
# A worker needs far less to open its log or make its signals; one that takes longer hangs.
ANSWER_TIMEOUT_S = 120.0
# Signals are made before a slice: as many as the last slice took, and half as many again.
READY_FACTOR = 1.5
READY_FIRST = 200
# A thread that runs out of them makes a few more within the measured time.
REFILL = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """An order to append between two instants of the monotonic clock, which processes share."""

    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """An order to make `each` signals for each thread."""

    each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer of a worker to either order; `last_s` is the time of the last receipt."""

    entries: int = 0
    last_s: float = 0.0
    error: str = ""


def processes_against_threads(bench: Bench) -> Rounds:
    """B6: the cost of callers in several processes."""
    where = bench.fresh_dir("b6")
    with (
        closing(Workers(where / "four", processes=PROCESSES, threads=THREADS)) as four,
        closing(Workers(where / "one", processes=1, threads=THREADS_ALONE)) as one,
    ):
        for side in (four, one):  # warms both up, and measures how many signals a slice takes
            side.rate(bench.sample_s)
            side.rate(bench.sample_s)
        return bench.alternate(
            lambda: four.rate(bench.sample_s),
            lambda: one.rate(bench.sample_s),
        )


class Workers:
    """Worker processes, each with a handle on one log, that wait for orders."""

    def __init__(self, home: Path, *, processes: int, threads: int) -> None:
        # Spawned, not forked: processes of a real system do not inherit a handle.
        context = multiprocessing.get_context("spawn")
        self._threads = processes * threads
        self._each = READY_FIRST
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=worker, args=(there, home, threads, number))
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def rate(self, sample_s: float) -> float:
        """Entries a second over all threads, from the common start to the last receipt."""
        self._ask(Prepare(each=self._each))
        start_s = time.monotonic() + HEADSTART_S
        done = self._ask(Go(start_s=start_s, stop_s=start_s + sample_s))
        entries = sum(answer.entries for answer in done)
        self._each = int(entries / self._threads * READY_FACTOR) + READY_FIRST
        return entries / (max(answer.last_s for answer in done) - start_s)

    def _ask(self, order: Go | Prepare) -> list[Done]:
        for pipe in self._pipes:
            pipe.send(order)
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Connection) -> Done:
        if not pipe.poll(ANSWER_TIMEOUT_S):
            raise NotMeasured("a worker process does not answer")
        try:
            done: Done = pipe.recv()
        except EOFError:
            raise NotMeasured("a worker process died; its output is on stderr") from None
        if done.error:
            raise NotMeasured(f"a worker process failed: {done.error}")
        return done

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker ends at the end of its pipe
        for process in self._processes:
            process.join(ANSWER_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()


def worker(pipe: Connection, home: Path, threads: int, number: int) -> None:
    """The process: does what the pipe says until the pipe ends."""
    factories = [Signals(1_000 * number + thread + 1) for thread in range(threads)]
    ready: list[list[SignalDict]] = []
    with EventLog(home) as log, ThreadPoolExecutor(threads) as pool:
        while True:
            try:
                order = pipe.recv()
            except EOFError:
                return
            match order:
                case Prepare(each=each):
                    ready = [signals.take(each) for signals in factories]
                    pipe.send(Done())
                case Go():
                    pipe.send(_go(log, pool, order, ready, factories))


def _go(
    log: EventLog,
    pool: ThreadPoolExecutor,
    order: Go,
    ready: Sequence[list[SignalDict]],
    factories: Sequence[Signals],
) -> Done:
    # The barrier ensures that each thread of the pool takes exactly one job.
    together = threading.Barrier(len(ready))
    jobs = [
        pool.submit(_append_until, log.append, signals, factory, order, together)
        for signals, factory in zip(ready, factories, strict=True)
    ]
    try:
        done = [job.result() for job in jobs]
    except Exception as error:  # noqa: BLE001  # the parent process reports it
        return Done(error=f"{type(error).__name__}: {error}")
    return Done(
        entries=sum(entries for entries, _ in done),
        last_s=max(last_s for _, last_s in done),
    )


def _append_until(
    append: Callable[[SignalDict], object],
    signals: list[SignalDict],
    factory: Signals,
    order: Go,
    together: threading.Barrier,
) -> tuple[int, float]:
    together.wait()
    now_s = time.monotonic
    time.sleep(max(0.0, order.start_s - now_s()))
    entries = 0
    while True:
        for signal in signals:
            append(signal)
            entries += 1
            last_s = now_s()
            if last_s >= order.stop_s:
                return entries, last_s
        signals = factory.take(REFILL)
