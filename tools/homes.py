"""How far homes on this machine are, and their segments: for programs that run several of them.

Invariant: nothing is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eventlog import EventLogError
from eventlog.plumbing import is_replicated, log_status, read_mirror_record


class ReplicatedEnd(NamedTuple):
    """The last entry of a home that counts as replicated."""

    seq: int
    chain: str


def last_seq(home: Path) -> int:
    """The last durable seq; 0 where there is no log yet."""
    try:
        return int(str(log_status(str(home), count=False)["last_seq"]))
    except (EventLogError, OSError):
        return 0


def replicated_end(home: Path) -> ReplicatedEnd | None:
    """What counts as replicated; None where nothing does.

    Raises what `is_replicated` raises.
    """
    record = read_mirror_record(home)
    if record is None or not record.acked or not is_replicated(str(home), record.acked):
        return None
    return ReplicatedEnd(record.acked, str(record.acked_chain))


def segments(home: Path) -> dict[str, bytes]:
    """The bytes of each raw segment, by its name."""
    return {path.name: path.read_bytes() for path in (home / "logs").glob("*.jsonl")}
