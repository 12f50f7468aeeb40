"""Waits until an entry has reached a stage: projected, delivered or replicated.

Invariant: `wait` returns only after a file of the projection shows that it has the entry.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eventlog import EventLogError, UnsafePath, WaitTimeout
from eventlog.plumbing import is_replicated, log_status, replication_obstacles, run_in_thread
from projections.delivery.outbox import DISCARDED, load_outbox, outbox_path, read_seq
from projections.delivery.outbox import NAME as ALPINE
from projections.delivery.state import DeliveryState
from projections.run_directory import FAILED, RUNNING, STOPPED, read_run_state
from projections.signals.schema import SQLITE
from projections.sqlite.database import database_path, read_checkpoint, read_table

PROJECTED = "projected"
DELIVERED = "delivered"
REPLICATED = "replicated"
POLL_S_MIN, POLL_S_MAX = 0.002, 0.05
_UNUSABLE = (FileNotFoundError, sqlite3.Error, UnsafePath)  # of a database


class SignalParked(EventLogError):
    """Alpine rejected the signal and it is parked: waiting longer does not help."""


def projected_seq(home: Path) -> int:
    """The last seq applied to the SQLite projection; 0 without a usable database."""
    try:
        checkpoint = read_table(database_path(home), read_checkpoint)
    except _UNUSABLE:  # missing or damaged: the daemon will create it
        return 0
    return checkpoint.seq if checkpoint is not None else 0


def is_delivered(home: Path, seq: int) -> bool:
    """Whether Alpine has the entry, or the entry is not a signal. Raises SignalParked."""
    try:
        is_done, parked = read_seq(outbox_path(home), seq)
    except _UNUSABLE:  # missing or damaged: the daemon will create it
        return False
    if parked is not None:
        is_discarded = parked.kind == DISCARDED
        state = "was parked and is discarded" if is_discarded else f"is parked as {parked.kind}"
        command = "reconcile --replay" if is_discarded else "parked retry"
        raise SignalParked(
            f"entry {seq} {state}: Alpine answered {parked.body}",
            where=str(home),
            do=f"see `eventlog parked list`; `eventlog {command}` sends it again",
        )
    return is_done


def stage_check(home: Path, seq: int, stage: str) -> Callable[[], bool]:
    """A function that returns whether the entry has reached the stage. Raises ValueError."""
    if stage == PROJECTED:
        return lambda: projected_seq(home) >= seq
    if stage == DELIVERED:
        return lambda: is_delivered(home, seq)
    if stage == REPLICATED:
        return lambda: is_replicated(os.fspath(home), seq)
    stages = f"{PROJECTED!r}, {DELIVERED!r} or {REPLICATED!r}"
    raise ValueError(f"stage must be {stages}, not {stage!r}")


def obstacles(home: Path, seq: int, stage: str) -> list[str]:
    """The reasons why the entry cannot reach the stage now. Raises LogNotFound."""
    if stage == REPLICATED:
        return replication_obstacles(os.fspath(home), seq)
    found = []
    last_seq = log_status(os.fspath(home), count=False)["last_seq"]
    assert isinstance(last_seq, int)
    if last_seq < seq:
        found.append(f"entry {seq} is not in the log yet, which ends at entry {last_seq}")
    name = ALPINE if stage == DELIVERED else SQLITE
    daemon = read_run_state(home, name)
    if daemon.state == STOPPED:
        found.append(f"no daemon runs the projection {name}: start `eventlog project {name}`")
    if daemon.state == FAILED:
        found.append(f"the projection {name} has failed: {daemon.reason}")
    if daemon.state == RUNNING and stage == DELIVERED:
        found += _delivery_obstacles(home)
    return found


def _delivery_obstacles(home: Path) -> list[str]:
    """The reason why the running daemon delivers nothing, if it does not."""
    with suppress(*_UNUSABLE):  # missing or damaged: the daemon will create it
        _, _, figures = load_outbox(outbox_path(home))
        state, last_error = figures["state"], figures["last_error"]
        if state != DeliveryState.DELIVERING:
            return [f"delivery is {state}" + (f": {last_error}" if last_error else "")]
    return []


def wait(
    home: str | os.PathLike[str], seq: int, stage: str, timeout_s: float | None = None
) -> None:
    """Waits until entry `seq` has reached a stage.

    The stages: "projected" into SQLite, "delivered" to Alpine, "replicated" by a quorum of servers.
    Raises WaitTimeout after `timeout_s`, where it is given, SignalParked as soon as Alpine has
    rejected the signal, and NotReplicated where the stream has fewer than three replicas.
    """
    asyncio.run(wait_async(home, seq, stage, timeout_s))


async def wait_async(
    home: str | os.PathLike[str], seq: int, stage: str, timeout_s: float | None = None
) -> None:
    """Does what `wait` does, for asyncio."""
    is_reached = stage_check(Path(home), seq, stage)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    poll_s = POLL_S_MIN
    while not await run_in_thread(is_reached):
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise WaitTimeout(
                f"entry {seq} was not {stage} within {timeout_s:g} s",
                where=str(home),
                do="check with `eventlog status` that the daemon runs, and how far it is",
            )
        await asyncio.sleep(poll_s)
        poll_s = min(2 * poll_s, POLL_S_MAX)


__all__ = [
    "DELIVERED",
    "PROJECTED",
    "REPLICATED",
    "SignalParked",
    "WaitTimeout",
    "obstacles",
    "stage_check",
    "wait",
    "wait_async",
]
