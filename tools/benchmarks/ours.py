"""Our side of a comparison: opens a log, appends to it, and runs its commands.

Invariant: only the public interface is used: `from eventlog import EventLog`, and `eventlog`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

from eventlog import EventLog
from tools.benchmarks.peers import Command
from tools.benchmarks.producers import in_one_thread, in_tasks
from tools.benchmarks.runner import Bench, NotMeasured
from tools.benchmarks.signals import Signals

CALL_ENTRIES = 1_000  # signals in one call of append_many, B5
BUILD_ENTRIES = 10_000  # signals in one call when a log is built

# The log of B13 to B15; --quick builds a smaller one and prints that.
LONG_LOG_ENTRIES = 2_000_000
LONG_LOG_QUICK_ENTRIES = 200_000


class Appender:
    """One open log and the ways to append to it, each as work that the runner can count."""

    def __init__(self, home: Path, seed: int = 1) -> None:
        self.log = EventLog(home)
        self._signals = Signals(seed)
        self._runner = asyncio.Runner()

    def one_thread(self, count: int) -> float:
        return in_one_thread(self.log.append, self._signals.take(count))

    def many(self, count: int) -> float:
        signals = self._signals.take(count)
        calls = [signals[at : at + CALL_ENTRIES] for at in range(0, count, CALL_ENTRIES)]
        return in_one_thread(self.log.append_many, calls)

    def producers(self, count: int) -> float:
        """64 coroutines, each waiting for its receipt before it appends again."""
        return self._runner.run(in_tasks(self.log.append_async, self._signals.take(count)))

    def each_s(self, count: int) -> list[float]:
        """The seconds of each of `count` appends, made one after the other."""
        append, now_s = self.log.append, time.perf_counter
        took_s = []
        for signal in self._signals.take(count):
            started_s = now_s()
            append(signal)
            took_s.append(now_s() - started_s)
        return took_s

    def close(self) -> None:
        self._runner.close()
        self.log.close()


def command(*arguments: str | Path) -> Command:
    """The command line of the `eventlog` that is installed beside this Python."""
    script = shutil.which("eventlog", path=str(Path(sys.executable).parent))
    if script is None:
        raise NotMeasured("the command `eventlog` is not installed: pip install -e .")
    return [script, *arguments]


def build_log(home: Path, entries: int, *, segment_bytes: int, seed: int = 7) -> Path:
    """Builds and closes a log of `entries` signals; returns its home."""
    signals = Signals(seed)
    with EventLog(home, segment_bytes=segment_bytes) as log:
        for at in range(0, entries, BUILD_ENTRIES):
            log.append_many(signals.take(min(BUILD_ENTRIES, entries - at)))
    return home


def long_log(bench: Bench) -> tuple[Path, int]:
    """The home of the long log that B13, B14 and B15 share, and its number of entries."""
    entries = LONG_LOG_QUICK_ENTRIES if bench.quick else LONG_LOG_ENTRIES
    if "long log" not in bench.shared:
        bench.progress(f"making a log of {entries:,} entries")
        home = bench.fresh_dir("long")
        bench.shared["long log"] = build_log(home, entries, segment_bytes=64 * 1024 * 1024)
    return bench.shared["long log"], entries
