"""Decides on the pause between two commits, by the rate at which entries come.

A commit has a fixed cost, of which each entry of a small batch bears a large part. Above a rate the
projector therefore lets some more entries come before it reads the log again. Entries stay in the
log meanwhile, where they are durable.

Invariant: no pause below ENTRIES_PER_S_MIN, so that a lone entry is applied at once.
"""

from projections.projection import Gathering, Projection

PAUSE_S = 0.01  # at 1,000 signals a second it saves a third of the processor time
# Below this rate most commits hold one entry, and their processor time does not matter.
ENTRIES_PER_S_MIN = 300
BURST_ENTRIES = 100  # so many above the rate are applied without a pause
LEVEL_MAX = 2 * BURST_ENTRIES  # the pauses end within a third of a second of the last entry
# A larger batch would save little more per entry, and shows that entries wait: a projection that
# catches up is not slowed down.
BATCH_ENTRIES_MAX = 200


class Load:
    """The rate of entries, as a leaky bucket: it fills by entries, and drains by time.

    `pause_s`: the pause above the rate.
    """

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._level = 0.0  # entries above the rate
        self._at_s: float | None = None
        self._batch_entries = 0

    def add(self, entries: int, now_s: float) -> None:
        """Counts a batch that is taken at `now_s`."""
        self._drain(now_s)
        self._level = min(self._level + entries, LEVEL_MAX)
        self._batch_entries = entries

    def pause_s(self, now_s: float) -> float:
        """How long to wait before the log is read for the next batch."""
        self._drain(now_s)
        is_high = self._level > BURST_ENTRIES and self._batch_entries < BATCH_ENTRIES_MAX
        return self._pause_s if is_high else 0.0

    def _drain(self, now_s: float) -> None:
        elapsed_s = now_s - self._at_s if self._at_s is not None else 0.0
        self._level = max(0.0, self._level - elapsed_s * ENTRIES_PER_S_MIN)
        self._at_s = now_s


def load_of(projection: Projection) -> Load:
    """The load of a projection, with its own pause where it names one."""
    return Load(projection.gather_s if isinstance(projection, Gathering) else PAUSE_S)
