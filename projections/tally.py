"""What one process has done since it began: counts that only grow.

Invariant: a count never goes back while the process lives, whatever is closed and opened anew.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Upper ends of the buckets, in seconds. A commit takes a few ms; a slow disk takes 100 times that,
# and from 10 s on a projection is stalled rather than slow.
COMMIT_S_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Tally:
    """The batches that a projection has applied."""

    batches: int = 0
    entries: int = 0
    commit_s: float = 0.0  # all of them together
    buckets: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_S_BUCKETS) + 1))

    def add(self, entries: int, commit_s: float) -> None:
        """A batch of so many entries was committed, and that took so long."""
        self.batches += 1
        self.entries += entries
        self.commit_s += commit_s
        self.buckets[bisect_left(COMMIT_S_BUCKETS, commit_s)] += 1


@dataclass(slots=True)
class Requests:
    """What was asked of somebody else."""

    in_flight: int = 0
    by_outcome: Counter[str] = field(default_factory=Counter)
