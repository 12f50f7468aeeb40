"""The home of B16 and B17: 1,000,000 signals of two years, four of five of them closed.

Each close follows its signal by up to some thousand entries, so that many trades are open at once.

Invariant: two homes of one size hold the same entries, but for the time of recording.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from pathlib import Path

from eventlog import EventLog
from tools.benchmarks.ours import BUILD_ENTRIES, command
from tools.benchmarks.peers import command_s
from tools.benchmarks.runner import Bench
from tools.benchmarks.signals import SignalDict, Signals, Value

SIGNALS, QUICK_SIGNALS = 1_000_000, 20_000
SEGMENT_BYTES = 64 * 1024 * 1024
FIRST_TIMESTAMP = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=1)
STRATEGIES = ("breakout", "consensus", "mean_reversion", "momentum", "pairs")
CLOSED_SHARE = 0.8
HELD_SIGNALS_MAX = 3_000  # signals that come before a close
RETURN_SPREAD_PCT = 4.0


def trading_home(bench: Bench) -> tuple[Path, int]:
    """The home with its table, and the number of its signals; made once in a run."""
    count = QUICK_SIGNALS if bench.quick else SIGNALS
    if "trading" not in bench.shared:
        bench.progress(f"making a log of {count:,} signals and their closes")
        home = bench.fresh_dir("trading")
        build(home, count)
        bench.progress("making its table")
        command_s(command("--home", home, "rebuild-database", "--json"))
        bench.shared["trading"] = home
    return bench.shared["trading"], count


def build(home: Path, count: int) -> None:
    """Writes the log of `count` signals."""
    batch: list[dict[str, Value]] = []
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        for item in _items(count):
            batch.append(item)
            if len(batch) == BUILD_ENTRIES:
                log.append_many(batch)
                batch = []
        log.append_many(batch)


def _items(count: int) -> Iterator[dict[str, Value]]:
    """The signals and closes in the order of the log."""
    rng, signals = random.Random(23), Signals(seed=23)
    due: list[tuple[int, int, dict[str, Value]]] = []  # the signal that it follows, its own number
    for number in range(count):
        (signal,) = signals.take(1)
        signal["timestamp"] = (FIRST_TIMESTAMP + number * STEP).isoformat()
        signal["strategy"] = STRATEGIES[int(rng.random() * len(STRATEGIES))]
        yield signal
        if rng.random() < CLOSED_SHARE:
            after = number + int(rng.random() * HELD_SIGNALS_MAX)
            heappush(due, (after, number, _close(signal, after, rng)))
        while due and due[0][0] <= number:
            yield heappop(due)[2]
    while due:
        yield heappop(due)[2]


def _close(signal: SignalDict, after: int, rng: random.Random) -> dict[str, Value]:
    entry, pct = signal["entry_price"], rng.gauss(0.2, RETURN_SPREAD_PCT)
    assert isinstance(entry, float)
    return {
        "event": "closed",
        "signal_id": signal["signal_id"],
        "exit_price": round(entry * (1 + pct / 100), 4),
        "closed_at": (FIRST_TIMESTAMP + (after + 1) * STEP).isoformat(),
    }
