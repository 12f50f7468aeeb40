"""Reads the position of the log and of each projection from disk, whether daemons run or not.

Invariant: nothing is created or changed. A figure that cannot be read is None, and `problem` beside
it says why.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from eventlog.plumbing import (
    MIRROR,
    log_status,
    printable,
    read_mirror_record,
    replica_state,
)
from projections.delivery.outbox import NAME as ALPINE
from projections.delivery.outbox import STOPPED, is_delivering, load_outbox, outbox_path
from projections.errors import SchemaTooOld
from projections.evidence.tree.level_files import NAME as TREE
from projections.evidence.tree.level_files import stored_state
from projections.monitoring.drill_record import last_drill
from projections.monitoring.evidence_status import evidence_status
from projections.monitoring.lag import lag, other_log_problem
from projections.replication.follow_record import FOLLOW, read_follow_figures
from projections.run_directory import read_run_state
from projections.runtime.registry import make_projection, projection_names
from projections.signals.schema import SELECT_CHECKPOINT, SQLITE
from projections.sqlite.database import database_path, read_table


def status(home: str | os.PathLike[str]) -> dict[str, object]:
    """The object that `eventlog status --json` prints. Raises LogNotFound."""
    log = log_status(os.fspath(home))
    path = Path(home)
    found = projections_status(path)
    sqlite = found.get(SQLITE, {})
    if log["signals"] is None and sqlite.get("lag_entries") == 0:
        log["signals"] = sqlite.get("rows")  # counting them in the log would mean reading all of it
    replica = replica_status(path, log["last_seq"])
    return {
        "log": log,
        "projections": found,
        **({} if replica is None else {"replica": replica}),
        "evidence": evidence_status(path),
        "backup": last_drill(path),
    }


def replica_status(home: Path, last_seq: object) -> dict[str, object] | None:
    """The figures of a replica, whose log ends at `last_seq`; None for a home that is none.

    `lag_entries` counts what the stream held when the follower saw it last.
    """
    assert isinstance(last_seq, int)
    try:
        state = replica_state(home)
    except (EventLogError, OSError) as error:
        return {**dict.fromkeys(_REPLICA_KEYS), "checkpoint": last_seq, "problem": str(error)}
    if state is None:
        return None
    figures = read_follow_figures(home)
    return {
        "primary": state.primary,
        "epoch": state.epoch,
        "checkpoint": last_seq,
        "lag_entries": None if figures is None else max(0, figures.stream_seq - last_seq),
        "resets": None if figures is None else figures.resets,
        "stream": state.stream,
        "daemon": read_run_state(home, FOLLOW).to_json(),
    }


def projections_status(home: Path) -> dict[str, Mapping[str, object]]:
    """The figures of every registered projection, and who runs it, by name. Raises LogNotFound.

    A mirror and a tree are left out where none was ever started.
    """
    found: dict[str, Mapping[str, object]] = {}
    for name in projection_names():
        reader = _READERS.get(name)
        figures = reader(home) if reader is not None else _third_party_status(name, home)
        if figures is None:
            continue
        found[name] = {**figures, "daemon": read_run_state(home, name).to_json()}
    return found


def sqlite_status(home: Path) -> dict[str, object]:
    """The figures of the SQLite projection. Without a database its checkpoint is 0."""
    path = database_path(home)
    figures: dict[str, object] = {
        **dict.fromkeys(("checkpoint", "lag_entries", "lag_seconds", "rows", "conflicts")),
        "bytes": _size(path),
        "wal_bytes": _size(Path(f"{path}-wal")),
        "latest_timestamp": None,
    }
    try:
        found = read_table(path, _read_figures)
    except FileNotFoundError:
        found = {"checkpoint": 0, "rows": 0, "conflicts": 0, "problem": "there is no database yet"}
    except SchemaTooOld as error:
        return figures | {"problem": str(error)}
    except (sqlite3.Error, OSError, UnsafePath) as error:
        return figures | {"problem": f"the database cannot be read: {error}"}
    checkpoint, chain = found["checkpoint"], found.pop("chain", None)
    assert isinstance(checkpoint, int)
    return figures | (other_log_problem(home, checkpoint, chain) or lag(home, checkpoint)) | found


def _read_figures(database: sqlite3.Connection) -> dict[str, object]:
    row = database.execute(SELECT_CHECKPOINT, (SQLITE,)).fetchone()
    (rows,) = database.execute("SELECT count(*) FROM signals").fetchone()
    (conflicts,) = database.execute("SELECT count(*) FROM conflicts").fetchone()
    (latest,) = database.execute("SELECT max(timestamp) FROM signals").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it has no checkpoint")
    return {
        "checkpoint": row[0],
        "chain": row[1],
        "rows": rows,
        "conflicts": conflicts,
        "latest_timestamp": latest,
    }


def alpine_status(home: Path) -> dict[str, object]:
    """The figures of delivery. Parked signals count as done."""
    counts = ("delivered", "parked", "failing")
    rest: dict[str, object] = {"state": STOPPED, "last_error": None}
    try:
        checkpoint, done, figures = load_outbox(outbox_path(home))
    except FileNotFoundError:
        return {"checkpoint": 0, **lag(home, 0), **dict.fromkeys(counts, 0), **rest}
    except (sqlite3.Error, OSError, UnsafePath) as error:
        unknown = dict.fromkeys(("checkpoint", "lag_entries", "lag_seconds", *counts))
        return {**unknown, **rest, "problem": f"the delivery state cannot be read: {error}"}
    if not is_delivering(home):
        figures["state"] = STOPPED
    return {"checkpoint": checkpoint.seq, **lag(home, checkpoint.seq, done), **figures}


def _is_replica(home: Path) -> bool:
    try:
        return replica_state(home) is not None
    except (EventLogError, OSError):
        return True  # a file is there that cannot be read


def mirror_status(home: Path) -> dict[str, object] | None:
    """The figures of the mirror, by its record; None in a home that has no mirror, or is a replica.

    The record may be behind the stream by half a second.
    """
    record = read_mirror_record(home)
    if record is None or _is_replica(home):
        return None
    return {
        "stream": record.stream,
        "checkpoint": record.acked,
        **lag(home, record.acked),
        "state": record.state,
        "replicas": record.replicas,
        "replicas_current": record.replicas_current,
        "lost_acked": record.lost_acked,
        "last_error": record.last_error,
    }


def tree_status(home: Path) -> dict[str, object] | None:
    """The figures of the tree; None where none was ever built."""
    state = stored_state(home)
    if state is None:
        return None
    problem = other_log_problem(home, state.seq, state.chain)
    return {"checkpoint": state.seq, **(problem or lag(home, state.seq))}


_REPLICA_KEYS = ("primary", "epoch", "checkpoint", "lag_entries", "resets", "stream")
_Reader = Callable[[Path], Mapping[str, object] | None]
_READERS: dict[str, _Reader] = {
    SQLITE: sqlite_status,
    ALPINE: alpine_status,
    MIRROR: mirror_status,
    TREE: tree_status,
}


def _third_party_status(name: str, home: Path) -> dict[str, object]:
    """The figures that a plug-in projection reports about itself."""
    import asyncio  # needed for plug-ins only

    async def query() -> dict[str, object]:
        projection = make_projection(name)
        checkpoint = await projection.open(home)
        try:
            own = dict(await projection.status())
        finally:
            await projection.close()
        return {"checkpoint": checkpoint.seq, **lag(home, checkpoint.seq), **own}

    try:
        return asyncio.run(query())
    except (Exception, SystemExit) as error:  # noqa: BLE001  # plug-in code may raise anything
        return {"checkpoint": None, "problem": printable(f"{type(error).__name__}: {error}")}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
