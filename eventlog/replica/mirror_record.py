"""`data/mirror.json`: what the stream has acknowledged of this log, as the mirror noted it.

It shows the end of the stream where no server can be reached, and is what a waiter for a replicated
entry reads. It is synced, and so written twice a second at most. `run/mirror.acked` is written at
each acknowledgement, in place and without a sync, so that a waiter need not wait for the record. It
counts beside a record with the same `lost_acked`: once the stream has lost lines, what it had
acknowledged before counts no more, even where a crash brings an older state of that file back.

Invariant: reading changes nothing, and an unreadable record is none.
"""

import os
from dataclasses import dataclass, replace

from eventlog.storage.record import read_record

MIRROR = "mirror"  # the name of the projection
MIRRORING, WAITING, UNFIT, FENCED, SHORT = "mirroring", "waiting", "unfit", "fenced", "short"
MIRROR_STATES = (MIRRORING, WAITING, UNFIT, FENCED, SHORT)
RECORD_NAME = "mirror.json"
ACKED_NAME = "mirror.acked"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRecord:
    """What is known of the stream without asking it."""

    stream: str
    acked: int = 0  # the highest seq that it has acknowledged
    acked_chain: str | None = None  # of that line: proves that this log holds it; None: unknown
    lost_acked: int = 0  # lines that it had acknowledged and did not hold later
    state: str = WAITING
    last_error: str | None = None  # why the state is not MIRRORING
    replicas: int | None = None  # servers that are to hold the stream; None: not known yet
    replicas_current: int | None = None  # servers that were up to date at the last look
    created: str | None = None  # when the stream was created, by the last look
    looked: int = 0  # where it ended then


def read_mirror_record(home: str | os.PathLike[str]) -> MirrorRecord | None:
    """The record of a home, with later acknowledgements; None where there is no readable one."""
    record = _read(home, "data", RECORD_NAME)
    later = None if record is None else _read(home, "run", ACKED_NAME)
    if record is None or later is None or later.acked <= record.acked:
        return record
    if (later.stream, later.lost_acked) != (record.stream, record.lost_acked):
        return record
    return replace(
        record, acked=later.acked, acked_chain=later.acked_chain, replicas=later.replicas
    )


def _read(home: str | os.PathLike[str], directory: str, name: str) -> MirrorRecord | None:
    found = read_record(os.path.join(home, directory), name) or {}
    stream, state, error = (found.get(key) for key in ("stream", "state", "last_error"))
    counts = [found.get(key) for key in ("acked", "lost_acked", "looked")]
    replicas = [found.get(key) for key in ("replicas", "replicas_current")]
    chain = found.get("acked_chain")
    if not isinstance(stream, str) or state not in MIRROR_STATES:
        return None
    created = found.get("created")
    acked, lost_acked, looked = (
        value if type(value) is int and value >= 0 else 0 for value in counts
    )
    wanted, current = (value if type(value) is int else None for value in replicas)
    return MirrorRecord(
        stream=stream,
        acked=acked,
        acked_chain=chain if isinstance(chain, str) else None,
        lost_acked=lost_acked,
        state=str(state),
        last_error=error if isinstance(error, str) else None,
        replicas=wanted,
        replicas_current=current,
        created=created if isinstance(created, str) else None,
        looked=looked,
    )
