"""Tracks acknowledged entries: a checkpoint up to which all are done, and those above it. No IO.

Delivery takes entries in the order of the log and completes them in any order.

Invariant: the checkpoint passes an entry only when it and all entries before it are done.
"""

from collections import deque
from collections.abc import Iterable

from projections.projection import Checkpoint


class AckTracker:
    """The entries of one run, from its checkpoint on. `done`: seqs done in an earlier run."""

    def __init__(self, checkpoint: Checkpoint, done: Iterable[int] = ()) -> None:
        self.checkpoint = checkpoint
        self.unsaved: set[int] = set()  # done above the checkpoint, but not stored yet
        self._done = set(done)
        self._tracked: deque[tuple[int, str]] = deque()  # seq and chain, from the checkpoint on

    @property
    def entries_tracked(self) -> int:
        """The number of entries above the checkpoint that were taken."""
        return len(self._tracked)

    def is_done(self, seq: int) -> bool:
        """Whether the entry is done."""
        return seq <= self.checkpoint.seq or seq in self._done

    def is_in_flight(self, seq: int) -> bool:
        """Whether the entry was taken and is not done yet."""
        return bool(self._tracked) and seq <= self._tracked[-1][0] and not self.is_done(seq)

    def take(self, seq: int, chain: str) -> None:
        """Takes the next entry of the log."""
        self._tracked.append((seq, chain))

    def mark_done(self, seq: int) -> bool:
        """Marks an entry as done; False if it was done before. `advance` moves the checkpoint."""
        if self.is_done(seq):
            return False
        self._done.add(seq)
        self.unsaved.add(seq)
        return True

    def advance(self) -> None:
        """Moves the checkpoint to the last entry before the first that is not done."""
        last = None
        while self._tracked and self._tracked[0][0] in self._done:
            last = self._tracked.popleft()
            self._done.discard(last[0])
            self.unsaved.discard(last[0])
        if last is not None:
            name = self.checkpoint.projection
            self.checkpoint = Checkpoint(projection=name, seq=last[0], chain=last[1])
