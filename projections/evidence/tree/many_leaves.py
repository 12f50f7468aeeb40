"""The leaf hashes of a long log, made on all cores.

A tree that is built from nothing hashes the whole log. Durable lines do not change, so each run of
them is read and verified by whichever process is free, and added in order.

Invariant: leaves are added in the order of the log, and none behind a run that gave no leaves.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eventlog import EventLog, EventLogError
from eventlog.plumbing import decode, run_in_processes
from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.tree.log_leaves import leaf_batches

RUN_LINES = 20_000  # half a second of work; 640 kB of hashes
RUNS_AT_ONCE = 256

Add = Callable[[bytes, bytes], object]
_Leaves = tuple[bytes, bytes]  # the hashes, joined, and the last line


def add_many_leaves(home: Path, after: int, add: Add) -> None:
    """Passes the leaves of whole runs behind `after` to `add`, each with its last line.

    It stops before a run with which something is wrong: a reader then says what.
    """
    with EventLog(home) as log:
        ends = range(after + RUN_LINES, log.last_seq + 1, RUN_LINES)
    for start in range(0, len(ends), RUNS_AT_ONCE):
        if not _add_runs(home, ends[start : start + RUNS_AT_ONCE], add):
            return


def _add_runs(home: Path, ends: range, add: Add) -> bool:
    """Whether all of them were added."""
    waiting: dict[int, _Leaves | None] = {}  # made before an earlier one
    added = 0

    def receive(number: int, made: _Leaves | None) -> None:
        nonlocal added
        waiting[number] = made
        while (found := waiting.pop(added, None)) is not None:
            add(*found)
            added += 1

    run_in_processes(len(ends), lambda number: _leaves(home, ends[number]), receive)
    return added == len(ends)


def _leaves(home: Path, until: int) -> _Leaves | None:
    """The leaves of the run up to `until`; None unless that is a line, and all can be read."""
    leaves = bytearray()
    last_line = b""
    with suppress(EventLogError):
        for batch in leaf_batches(home, after=until - RUN_LINES, until=until):
            leaves += b"".join(batch.leaves)
            last_line = batch.lines[-1] if batch.lines else b""
    is_whole = len(leaves) == RUN_LINES * HASH_BYTES
    if not is_whole or not last_line or decode(last_line).seq != until:
        return None
    return bytes(leaves), last_line
