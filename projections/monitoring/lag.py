"""How far a checkpoint is behind the real end of the log, and whether it is of this log.

Invariant: of the log a few entries are read, however long it is.
"""

import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from eventlog import EventLogError, LogDiverged
from eventlog.plumbing import last_kept, log_status, read_entries


def lag(home: Path, seq: int, done: Collection[int] = ()) -> dict[str, object]:
    """`lag_entries` and `lag_seconds` of a projection whose checkpoint is `seq`.

    `done` has the seqs above `seq` that are done already.
    """
    last_seq = log_status(os.fspath(home), count=False)["last_seq"]
    assert isinstance(last_seq, int)
    unknown: dict[str, object] = {"lag_entries": None, "lag_seconds": None}
    if last_seq < seq:
        problem = f"the log ends at seq {last_seq}: it was cut, or is not the one projected"
        return unknown | {"problem": problem}
    entries = max(0, last_seq - seq - len(done))
    oldest = None
    try:
        if entries:  # an end of the log that was lost is never applied
            entries = max(0, last_kept(home, until=last_seq) - seq - len(done))
        if entries:
            later = read_entries(os.fspath(home), after=seq, first_only=True)
            oldest = next((entry for entry in later if entry.seq not in done), None)
    except EventLogError as error:
        return unknown | {"lag_entries": entries, "problem": str(error)}
    seconds = 0.0
    if oldest is not None:
        recorded_at = datetime.fromisoformat(oldest.recorded_at)
        seconds = max(0.0, (datetime.now(UTC) - recorded_at).total_seconds())
    return {"lag_entries": entries, "lag_seconds": round(seconds, 3)}


def other_log_problem(home: Path, seq: int, chain: object) -> dict[str, object] | None:
    """The figures if the checkpoint (seq, chain) is not in this log, or the log is damaged there.

    None if the log holds it, or ends before it, which `lag` reports.
    """
    problem = f"entry {seq} of the log has another chain: this log is not the one projected"
    try:
        before = read_entries(os.fspath(home), after=seq - 1, first_only=True)
        entry = next(before, None) if seq else None
        if entry is None or (entry.seq, entry.chain) == (seq, chain):
            return None
    except LogDiverged:
        return None
    except EventLogError as error:
        problem = str(error)
    return {"lag_entries": None, "lag_seconds": None, "problem": problem}
