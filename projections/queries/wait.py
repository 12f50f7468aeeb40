"""Waiting until an entry has reached a projection.

Invariant: it returns only after the projection's own file says so.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from eventlog import EventLogError
from eventlog.plumbing import in_thread
from projections.delivery.outbox import DISCARDED, outbox_path, read_seq
from projections.signals.schema import READ_CHECKPOINT, SQLITE
from projections.sqlite.database import database_path
from projections.sqlite.file import look

PROJECTED = "projected"
DELIVERED = "delivered"
POLL_S_MIN, POLL_S_MAX = 0.002, 0.05


class WaitTimeout(EventLogError):
    """The entry did not get there in time; it may still."""


class Parked(EventLogError):
    """Alpine does not take the signal: it is parked, and waiting longer does not help."""


def projected_seq(home: Path) -> int:
    """Last seq in the SQLite projection; 0 without a database."""
    try:
        return look(database_path(home), _checkpoint_seq)
    except (FileNotFoundError, sqlite3.Error):  # none yet, or it is damaged: it will be set up
        return 0


def is_delivered(home: Path, seq: int) -> bool:
    """Whether Alpine has the entry, or it is no signal. Raises Parked."""
    try:
        is_done, parked = read_seq(outbox_path(home), seq)
    except (FileNotFoundError, sqlite3.Error):  # none yet, or it is damaged: it will be set up
        return False
    if parked is not None:
        is_discarded = parked.kind == DISCARDED
        was = "was parked and is discarded" if is_discarded else f"is parked as {parked.kind}"
        command = "reconcile --replay" if is_discarded else "parked retry"
        raise Parked(
            f"entry {seq} {was}: Alpine answered {parked.body}",
            where=str(home),
            do=f"see `eventlog parked list`; `eventlog {command}` sends it again",
        )
    return is_done


def _checkpoint_seq(database: sqlite3.Connection) -> int:
    row = database.execute(READ_CHECKPOINT, (SQLITE,)).fetchone()
    return int(row[0]) if row is not None else 0


def _reached(home: Path, seq: int, stage: str) -> Callable[[], bool]:
    if stage == PROJECTED:
        return lambda: projected_seq(home) >= seq
    if stage == DELIVERED:
        return lambda: is_delivered(home, seq)
    raise ValueError(f"stage must be {PROJECTED!r} or {DELIVERED!r}, not {stage!r}")


def wait(
    home: str | os.PathLike[str], seq: int, stage: str, timeout_s: float | None = None
) -> None:
    """Returns when entry `seq` is "projected" into SQLite, or "delivered" to Alpine.

    Waits for ever without `timeout_s`; raises WaitTimeout after it, and Parked at once when Alpine
    does not take the signal.
    """
    asyncio.run(wait_async(home, seq, stage, timeout_s))


async def wait_async(
    home: str | os.PathLike[str], seq: int, stage: str, timeout_s: float | None = None
) -> None:
    """`wait` for asyncio."""
    has_reached = _reached(Path(home), seq, stage)
    give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
    poll_s = POLL_S_MIN
    while not await in_thread(has_reached):
        if give_up_s is not None and time.monotonic() >= give_up_s:
            raise WaitTimeout(
                f"entry {seq} was not {stage} within {timeout_s:g} s",
                where=str(home),
                do="see `eventlog status`: does the daemon run, and how far is it?",
            )
        await asyncio.sleep(poll_s)
        poll_s = min(2 * poll_s, POLL_S_MAX)


__all__ = ["DELIVERED", "PROJECTED", "Parked", "WaitTimeout", "wait", "wait_async"]
