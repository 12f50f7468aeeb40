"""The log of a home, as projections need it: it is there, and it is the one that they applied.

A daemon may be started before the first append, and waits for the log.

Invariant: nothing is created while it waits, and a checkpoint of another log is never accepted.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from eventlog import Entry, EventLog, EventLogError, LogDiverged, LogNotFound
from eventlog.plumbing import is_shortage, last_kept, require_home
from projections.projection import Checkpoint
from projections.runtime.pause import wait_for_event

WAITING_TEXT = "waiting for the first entry"  # in STATUS= of systemd and in /health
POLL_S = 0.2  # a first append is seen so late; a daemon starts within a second of it


def require_log(home: Path) -> None:
    """Raises LogNotFound where there is no log, and the error of a home that cannot be used."""
    require_home(home)
    EventLog(home).close()


async def wait_for_log(home: Path, stop: asyncio.Event, on_wait: Callable[[], object]) -> bool:
    """Waits until the home holds a log; False when stopped before.

    `on_wait` is called each time there is none. Raises the error of a home that cannot be used,
    such as LogCorrupt where the segments of a log are gone.
    """
    while not stop.is_set():
        try:
            require_log(home)
            return True
        except LogNotFound:
            on_wait()
        except (EventLogError, OSError) as error:
            if not is_shortage(error):
                raise
        await wait_for_event(stop, POLL_S)
    return False


def entry_at(log: EventLog, seq: int) -> Entry | None:
    """The entry of that seq, or the one after a gap there; None where the log does not reach it."""
    if seq == 0:
        return None
    try:
        return next(log.read(after=seq - 1), None)
    except LogDiverged:  # the log ends even before the entry before it
        return None


def last_entry_seq(log: EventLog) -> int:
    """Seq of the last entry that can be read: it is before `last_seq` where the end was lost.

    Damage that nobody has accepted is before it: reading the log reports that.
    """
    return last_kept(log.home, until=log.last_seq)


def require_same_log(checkpoint: Checkpoint, entry: Entry | None) -> None:
    """Raises LogDiverged unless `entry`, which the log holds there, is that of the checkpoint.

    A log that was shortened, rewritten or replaced must not be projected further.
    """
    if checkpoint.seq == 0:
        return
    if entry is None or (entry.seq, entry.chain) != (checkpoint.seq, checkpoint.chain):
        found = "has another entry there" if entry is not None else "does not reach so far"
        raise LogDiverged(
            f"the projection {checkpoint.projection!r} was built from another log: it has applied "
            f"seq {checkpoint.seq}, and this log {found}",
            where=f"checkpoint {checkpoint.projection}, chain {checkpoint.chain[:16]}...",
            do="find out which of the two is right (`eventlog verify` checks the log); restore the "
            "log, or build the projection again: the table with `eventlog rebuild-database`, "
            "another projection by deleting its data while no daemon runs (for `alpine`, "
            "data/alpine.db: it costs repeated requests)",
        )
