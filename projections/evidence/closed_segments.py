"""The leaf hashes of closed segments, made on all cores.

A tree that is built from nothing hashes the whole log. A segment that another one follows does not
grow, so each is read and verified by whichever process is free, and added in order.

Invariant: leaves are added in the order of the log, and none behind a segment that gave no leaves.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from eventlog import EventLogError
from eventlog.plumbing import decode, run_in_processes, segment_starts
from projections.evidence.log_leaves import leaf_batches

SEGMENTS_AT_ONCE = 256  # of some 100,000 lines each

Add = Callable[[bytes, bytes], object]
_Leaves = tuple[bytes, bytes]  # the hashes, joined, and the last line


def add_closed_segments(home: Path, after: int, add: Add) -> None:
    """Passes the leaves of the closed segments behind `after` to `add`, with their last lines.

    It stops before a segment with which something is wrong: a reader then says what.
    """
    ends = [(first, behind - 1) for first, behind in pairwise(segment_starts(home))]
    spans = [(max(first - 1, after), last) for first, last in ends if last > after]
    for start in range(0, len(spans), SEGMENTS_AT_ONCE):
        if not _add_spans(home, spans[start : start + SEGMENTS_AT_ONCE], add):
            return


def _add_spans(home: Path, spans: list[tuple[int, int]], add: Add) -> bool:
    """Whether all of them were added."""
    waiting: dict[int, _Leaves | None] = {}  # made before an earlier one
    added = 0

    def receive(number: int, made: _Leaves | None) -> None:
        nonlocal added
        waiting[number] = made
        while (found := waiting.pop(added, None)) is not None:
            add(*found)
            added += 1

    run_in_processes(len(spans), lambda number: _leaves(home, *spans[number]), receive)
    return added == len(spans)


def _leaves(home: Path, after: int, until: int) -> _Leaves | None:
    """The leaves behind `after` up to `until`; None unless that is a line, and all can be read."""
    leaves: list[bytes] = []
    lines: list[bytes] = []
    with suppress(EventLogError):
        for batch in leaf_batches(home, after=after, until=until):
            leaves += batch.leaves
            lines = batch.lines
    if len(leaves) != until - after or not lines or decode(lines[-1]).seq != until:
        return None
    return b"".join(leaves), lines[-1]
