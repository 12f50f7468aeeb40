"""The runner: defines a target, measures two sides in turn, computes the result.

Invariant: both sides of a ratio run in the same rounds, in alternating order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

# The fewest rounds with a meaningful median; --quick runs no more.
ROUNDS_MIN = 5

# A slice is long enough for hundreds of fdatasyncs, and short enough that the load of a shared
# machine, which changes within a second, is the same for both sides of a round. Many short rounds
# survive a disturbance of seconds; a few long ones do not (seen).
SAMPLE_S = 0.2
SAMPLE_QUICK_S = 0.1
ROUNDS = 25
ROUNDS_OF_COMMANDS = 7  # if a slice is a whole command of about a second

# Bounds of the operations of one slice: fewer give no reliable rate, and the signals prepared for
# more would fill the memory.
SAMPLE_COUNT_MIN = 20
SAMPLE_COUNT_MAX = 100_000
SAMPLE_GROWTH_MAX = 8  # times the slice before: one lucky slice must not make the next one endless

# If fdatasync takes less than this, processor time is nearly all that is measured, so
# the targets about appends are informative only.
FDATASYNC_MIN_MS = 0.1

Sample = Callable[
    [], float
]  # measures one slice of one side; returns its figure, in the unit of the target
Work = Callable[[int], float]  # does so many operations; returns the seconds that they took


class NotMeasured(Exception):
    """A target could not be measured here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The figures of every round, both sides in the same order; `peer` is empty for no peer."""

    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    note: str = ""  # further observations

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: the two sides of one round saw the same machine."""
        return median(self._ratios) if self.peer else None

    @property
    def ratio_half(self) -> tuple[float, float] | None:
        """The middle half of the rounds' ratios: how noisy the machine was."""
        if not self.peer:
            return None
        low, _, high = quantiles(self._ratios, n=4, method="inclusive")
        return low, high

    @property
    def _ratios(self) -> list[float]:
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)]


@dataclass(slots=True, kw_only=True)
class Bench:
    """The argument of a measuring function: where files go, how long to measure, shared logs."""

    dir: Path
    quick: bool = False
    progress: Callable[[str], None] = lambda _: None
    shared: dict[str, Path] = field(default_factory=dict)  # homes built once in a run
    figures: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # measured once

    @property
    def rounds(self) -> int:
        return ROUNDS_MIN if self.quick else ROUNDS

    @property
    def rounds_of_commands(self) -> int:
        return ROUNDS_MIN if self.quick else ROUNDS_OF_COMMANDS

    @property
    def sample_s(self) -> float:
        return SAMPLE_QUICK_S if self.quick else SAMPLE_S

    def fresh_dir(self, name: str) -> Path:
        """An empty new directory below `dir`; `name` is for people only."""
        for attempt in range(10_000):  # more than any run needs
            path = self.dir / f"{name}-{attempt}"
            if not path.exists():
                path.mkdir(parents=True)
                return path
        raise NotMeasured(f"{self.dir} is full of {name}-*; remove it")

    def rate(self, work: Work, *, step: int = 1) -> Sample:
        """Returns a slice of `work`, warmed up and about `sample_s` long, in operations a second.

        `step` is the number of operations in one call of the work; a slice is a multiple of it.
        """
        count = max(SAMPLE_COUNT_MIN, step)

        def sample() -> float:
            # The count follows the machine: a disk may become a hundred times slower while another
            # process syncs (seen), and a slice must not last a minute then.
            nonlocal count
            done = count
            took_s = work(done)
            wanted = min(count_for(done, took_s, self.sample_s), SAMPLE_GROWTH_MAX * done)
            count = -(-wanted // step) * step
            return done / took_s

        for _ in range(6):  # enough to grow to the largest slice
            sample()
        return sample

    def alternate(self, ours: Sample, peer: Sample, *, rounds: int | None = None) -> Rounds:
        """Measures both sides in turn; the first one alternates, so that drift affects both."""
        total = self.rounds if rounds is None else rounds
        sides: list[tuple[Sample, list[float]]] = [(ours, []), (peer, [])]
        for number in range(total):
            self.progress(f"round {number + 1} of {total}")
            for side, found in sides if number % 2 == 0 else reversed(sides):
                found.append(side())
        return Rounds(ours=tuple(sides[0][1]), peer=tuple(sides[1][1]))


def count_for(count: int, took_s: float, wanted_s: float) -> int:
    """The number of operations that take about `wanted_s`, if `count` of them took `took_s`."""
    likely = int(count * wanted_s / max(took_s, 1e-9))
    return min(max(likely, SAMPLE_COUNT_MIN), SAMPLE_COUNT_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of the table of targets: `mark` must be reached, `goal` is aimed for."""

    id: str  # B1; where a row has two bounds, B13 and B13-open
    what: str
    peer: str
    unit: str  # of the figures: "/s" or "ms"
    mark: float
    goal: float
    run: Callable[[Bench], Rounds]
    better: Literal["higher", "lower"] = "higher"
    of: Literal["ratio", "ours"] = "ratio"  # what mark and goal apply to: the ratio, or our figure
    about_appends: bool = False  # holds only where fdatasync takes FDATASYNC_MIN_MS or more

    def reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.better == "higher" else value <= bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A target and its measurement; `rounds` is None if it failed, and `why` is the reason."""

    target: Target
    rounds: Rounds | None
    why: str = ""
    took_s: float = 0.0
    fdatasync_ms: float = 0.0  # of the bare machine: the lower of before and after

    @property
    def informative(self) -> bool:
        """Whether the disk syncs too fast for the target to mean anything."""
        return self.target.about_appends and self.fdatasync_ms < FDATASYNC_MIN_MS

    @property
    def ours(self) -> float | None:
        return median(self.rounds.ours) if self.rounds else None

    @property
    def peer(self) -> float | None:
        return median(self.rounds.peer) if self.rounds and self.rounds.peer else None

    @property
    def ratio(self) -> float | None:
        return self.rounds.ratio if self.rounds else None

    @property
    def verdict(self) -> Literal["goal", "mark", "missed", "not measured"]:
        value = self.ratio if self.target.of == "ratio" else self.ours
        if value is None:
            return "not measured"
        if self.target.reaches(value, self.target.goal):
            return "goal"
        return "mark" if self.target.reaches(value, self.target.mark) else "missed"


def measure(target: Target, bench: Bench, probe: Callable[[], float]) -> Result:
    """Measures one target; if that is impossible here, the result states the reason.

    `probe` returns the time of a bare fdatasync in ms; other users of the disk only add to it.
    """
    before_ms = probe()
    started_s = time.perf_counter()
    try:
        rounds = target.run(bench)
    except NotMeasured as reason:
        return Result(target=target, rounds=None, why=str(reason), fdatasync_ms=before_ms)
    assert len(rounds.ours) >= ROUNDS_MIN, f"{target.id}: a median needs {ROUNDS_MIN} rounds"
    took_s = time.perf_counter() - started_s
    lower_ms = min(before_ms, probe())
    return Result(target=target, rounds=rounds, took_s=took_s, fdatasync_ms=lower_ms)
