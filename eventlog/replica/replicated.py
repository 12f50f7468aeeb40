"""Whether an entry is replicated: a quorum of the stream's servers, three or more, has synced it.

A waiter reads the record that the mirror keeps, so it needs neither the client of NATS nor a
connection.

Invariant: an entry counts as replicated only if the stream has acknowledged a line of this log at
or behind it. With fewer than REPLICAS_MIN replicas nothing counts, and neither does anything while
the stream breaks a rule or messages are missing from it: nobody then knows what it still holds.
"""

import os
import time
from collections.abc import Callable

from eventlog.errors import LogDiverged, LogNotFound, NotReplicated, WaitTimeout
from eventlog.read.inspect import end_seq, read_entries, replica_state
from eventlog.replica.mirror_record import (
    MIRROR,
    MIRRORING,
    RECORD_NAME,
    SHORT,
    UNFIT,
    MirrorRecord,
    read_mirror_record,
)
from eventlog.replica.stream_rules import REPLICAS_MIN
from eventlog.storage.locks import FileLock

POLL_S_MIN, POLL_S_MAX = 0.002, 0.05


def is_replicated(home: str, seq: int) -> bool:
    """Whether entry `seq`, and so each one before it, is replicated. Raises NotReplicated."""
    record = read_mirror_record(home)
    if record is None:
        return seq == 0
    _require_replicas(record, home)
    return seq == 0 or (
        seq <= record.acked
        and record.replicas is not None
        and record.state not in (SHORT, UNFIT)
        and _chain_at(home, record.acked) == record.acked_chain
    )


def require_replicas(home: str) -> None:
    """Raises NotReplicated where the stream has too few replicas, as far as the mirror knows."""
    record = read_mirror_record(home)
    if record is not None:
        _require_replicas(record, home)


def _require_replicas(record: MirrorRecord, home: str) -> None:
    if record.replicas is not None and record.replicas < REPLICAS_MIN:
        raise NotReplicated(
            f"the stream {record.stream} has {record.replicas} of the {REPLICAS_MIN} replicas that "
            "are needed, so no entry counts as replicated",
            where=home,
            do="create a stream of another name with `eventlog mirror create`, and set "
            "EVENTLOG_STREAM to it",
        )


def _chain_at(home: str, seq: int) -> str:
    """The chain of that entry; empty where this log does not have it."""
    try:
        entry = next(read_entries(home, after=seq - 1, first_only=True), None)
    except (LogDiverged, LogNotFound):  # the log ends before it
        return ""
    return entry.chain if entry is not None and entry.seq == seq else ""


def replication_obstacles(home: str, seq: int) -> list[str]:
    """The reasons why the entry cannot be replicated now. Raises LogNotFound."""
    last_seq = end_seq(home)
    found = []
    if last_seq < seq:
        found.append(f"entry {seq} is not in the log yet, which ends at entry {last_seq}")
    if replica_state(home) is not None:
        return [*found, "this home is a replica: only its primary knows what is replicated"]
    # The projection holds the lock of its run file while it runs.
    if not FileLock(os.path.join(home, "run", RECORD_NAME)).is_held():
        found.append(f"no mirror runs: start `eventlog project {MIRROR}`")
    record = read_mirror_record(home)
    if record is not None and record.state != MIRRORING:
        error = f": {record.last_error}" if record.last_error else ""
        found.append(f"the mirror is {record.state}{error}")
    return found


def wait_replicated(
    home: str,
    seq: int,
    timeout_s: float | None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Waits until entry `seq` is replicated; False once `is_stopped` says so.

    Raises WaitTimeout after `timeout_s`, with what kept the entry from it, and NotReplicated.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    poll_s = POLL_S_MIN
    while not is_replicated(home, seq):
        if is_stopped():
            return False
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise WaitTimeout(
                f"entry {seq} was not replicated within {timeout_s:g} s",
                where=home,
                do="; ".join(replication_obstacles(home, seq))
                or "check with `eventlog status` how far the mirror is",
            )
        time.sleep(poll_s)
        poll_s = min(2 * poll_s, POLL_S_MAX)
    return True
