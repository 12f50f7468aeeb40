"""B13: an append to a log of 2,000,000 entries, against a log of 2,000.

Invariant: both logs are measured by the same steps, in this process, in turn.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from statistics import median

from eventlog import EventLog
from tools.benchmarks.ours import Appender, build_log, long_log
from tools.benchmarks.runner import Bench, Rounds
from tools.benchmarks.signals import Signals

SHORT_LOG_ENTRIES = 2_000
SEGMENT_BYTES = 64 * 1024 * 1024

# A slice is a few appends, so that the two logs take turns every few milliseconds.
SAMPLE_APPENDS = 40
SAMPLES_FACTOR = 3
# The median of these appends is subtracted from the first append after opening.
APPENDS_AFTER_OPENING = 20
WARM_APPENDS = 200


def append_against_a_short_log(bench: Bench) -> Rounds:
    """B13: milliseconds of one append, as medians of many."""
    home, _ = long_log(bench)
    short = _short_log(bench)
    with closing(Appender(home, seed=11)) as ours, closing(Appender(short, seed=11)) as peer:
        ours.each_s(WARM_APPENDS), peer.each_s(WARM_APPENDS)
        return bench.alternate(
            lambda: 1_000 * median(ours.each_s(SAMPLE_APPENDS)),
            lambda: 1_000 * median(peer.each_s(SAMPLE_APPENDS)),
            rounds=SAMPLES_FACTOR * bench.rounds,
        )


def opening(bench: Bench) -> Rounds:
    """B13-open: milliseconds from opening to the first receipt, minus one append."""
    home, entries = long_log(bench)
    short = _short_log(bench)
    signals = Signals(seed=12)
    opened = [_opening_ms(home, signals) for _ in range(bench.rounds)]
    small = [_opening_ms(short, signals) for _ in range(bench.rounds)]
    return Rounds(
        ours=tuple(whole_ms for whole_ms, _ in opened),
        note=(
            f"{entries:,} entries; constructing and last_seq alone "
            f"{median(ready_ms for _, ready_ms in opened):.1f} ms; "
            f"a log of {SHORT_LOG_ENTRIES:,} opens in {median(ms for ms, _ in small):.1f} ms"
        ),
    )


def _short_log(bench: Bench) -> Path:
    return build_log(bench.fresh_dir("short"), SHORT_LOG_ENTRIES, segment_bytes=SEGMENT_BYTES)


def _opening_ms(home: Path, signals: Signals) -> tuple[float, float]:
    first, *others = signals.take(1 + APPENDS_AFTER_OPENING)
    started_s = time.perf_counter()
    with EventLog(home) as log:
        assert log.last_seq > 0
        ready_s = time.perf_counter() - started_s
        log.append(first)
        first_s = time.perf_counter() - started_s
        took_s = []
        for signal in others:
            before_s = time.perf_counter()
            log.append(signal)
            took_s.append(time.perf_counter() - before_s)
    return 1_000 * (first_s - median(took_s)), 1_000 * ready_s
