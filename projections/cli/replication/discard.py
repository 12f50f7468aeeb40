"""Discards the projections that have applied entries which are cut from the log.

The table is removed, since `project` builds it again. The delivery state is kept under another
name: only it knows what Alpine has of the entries that were cut.

Invariant: no process runs a projection of the home meanwhile.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from eventlog.plumbing import MIRROR, free_name, printable
from projections.delivery.lease import DeliveryLease
from projections.delivery.outbox import outbox_path
from projections.errors import ProjectionError
from projections.evidence.tree.level_files import NAME as TREE  # which builds itself again
from projections.monitoring.status import projections_status
from projections.run_directory import run_directory, run_file_name, run_lock
from projections.runtime.registry import projection_names
from projections.sqlite.database import database_path
from projections.sqlite.file import read_database, remove_database
from projections.sqlite.lock import write_lock

_LAST_DELIVERED = """SELECT max(
    (SELECT coalesce(max(seq), 0) FROM checkpoint), (SELECT coalesce(max(seq), 0) FROM done),
    (SELECT coalesce(max(seq), 0) FROM parked))"""


@contextmanager
def stopped_projections(home: Path) -> Iterator[None]:
    """Keeps daemons from running projections. Raises ProjectionError where one does."""
    with ExitStack() as stack:
        for name in projection_names():
            if not (run_directory(home) / run_file_name(name)).exists():
                continue
            lock = run_lock(home, run_file_name(name))
            stack.callback(lock.drop)
            if not lock.try_take():
                raise ProjectionError(
                    f"a process runs the projection {name}",
                    where=str(home),
                    do="stop `eventlog project` of this home first",
                )
        yield


def discard_beyond(home: Path, seq: int) -> list[str]:
    """Discards each projection with entries after `seq`; returns what it did, in words."""
    done = []
    for name, figures in projections_status(home).items():
        checkpoint = figures.get("checkpoint")
        if name == "alpine":
            checkpoint = _last_delivered(home)
        if name in (MIRROR, TREE) or not isinstance(checkpoint, int) or checkpoint <= seq:
            continue
        if name == "sqlite":
            with write_lock(home).held():
                remove_database(database_path(home))
            done.append("discarded the table: `eventlog project` builds it again")
        elif name == "alpine":
            kept = _set_delivery_aside(home, seq)
            done.append(f"set the delivery state aside in {printable(str(kept))}")
        else:
            done.append(
                f"the projection {printable(name)} has applied entry {checkpoint}, and the log is "
                f"cut after {seq}: delete its data, and let it start again"
            )
    return done


def _last_delivered(home: Path) -> int:
    """The last seq that delivery has noted anything about."""
    with suppress(FileNotFoundError, sqlite3.Error):
        return int(
            read_database(outbox_path(home), lambda db: db.execute(_LAST_DELIVERED).fetchone()[0])
        )
    return 0


def _set_delivery_aside(home: Path, seq: int) -> Path:
    """Renames the delivery state, with its -wal and -shm, to a free name; returns that name."""
    lease = DeliveryLease.take(home)
    if lease is None:
        raise ProjectionError(
            "a process delivers from this home", where=str(home), do="stop `eventlog project` first"
        )
    try:
        path = outbox_path(home)
        name = free_name(f"{path.name}.forked-{seq + 1}", os.listdir(path.parent))
        kept = path.with_name(name)
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{kept}{suffix}")
        return kept
    finally:
        lease.release()
