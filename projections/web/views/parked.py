"""Parked signals, and the requests to retry or discard them.

A request is what `eventlog parked` writes: rows in the outbox, which the process that delivers
executes. Without one, a discard is executed here under the delivery lease, as the command does, and
a retry waits for the next one that delivers.

Invariant: nothing but operator requests, and discards under the lease, is written.
"""

import json
import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from projections.delivery.lease import DeliveryLease
from projections.delivery.outbox import (
    DISCARD,
    RETRY,
    STOPPED,
    Outbox,
    is_delivering,
    load_outbox,
    outbox_path,
    read_open_requests,
    read_parked,
)
from projections.delivery.outbox_rows import ParkedSignal
from projections.errors import ProjectionError
from projections.web.answers import Refusal
from projections.web.table import read_home

SHOWN_MAX = 1_000  # of the list; `total` counts all
SEQS_MAX = 2_000  # in one action: what 16 KiB hold
ACTIONS = {"retry": RETRY, "discard": DISCARD}

Json = dict[str, object]


def read_parked_page(home: Path) -> Json:
    """The object of /api/parked, without `as_of`."""
    path = outbox_path(home)
    try:
        rows = read_parked(path)
        state = load_outbox(path)[2]["state"] if is_delivering(home) else STOPPED
        asked = read_open_requests(path)
    except FileNotFoundError:
        return {"parked": [], "total": 0, "state": STOPPED, "asked": []}
    except (OSError, sqlite3.Error, UnsafePath) as error:
        raise _unreadable_error(error) from error
    shown = rows[:SHOWN_MAX]
    symbols = _symbols(home, [row.seq for row in shown])
    return {
        "parked": [{**_parked_json(row), "symbol": symbols.get(row.seq)} for row in shown],
        "total": len(rows),
        "state": state,
        "asked": [{"seq": request.seq, "action": request.what} for request in asked],
    }


def request_action(home: Path, body: Mapping[str, object]) -> int:
    """Writes what an action asks for; returns how many signals it is about. Raises Refusal."""
    action, seqs = body.get("action"), body.get("seqs")
    what = ACTIONS.get(action) if isinstance(action, str) else None
    if what is None:
        raise _invalid("action must be retry or discard")
    is_all = body.get("all") is True
    if is_all and seqs is not None:
        raise _invalid("give seqs or all, not both")
    chosen = set() if is_all else _seqs(seqs)
    path = outbox_path(home)
    try:
        parked = [row.seq for row in read_parked(path) if is_all or row.seq in chosen]
        if parked:
            _request(home, path, what, parked)
    except FileNotFoundError:
        return 0  # no process has delivered from this home yet
    except (OSError, sqlite3.Error, UnsafePath) as error:
        raise _unreadable_error(error) from error
    return len(parked)


def _seqs(given: object) -> set[int]:
    if not isinstance(given, list) or not 0 < len(given) <= SEQS_MAX:
        raise _invalid(f"seqs must be a list of 1 to {SEQS_MAX} numbers, or all must be true")
    if not all(type(seq) is int and seq > 0 for seq in given):
        raise _invalid("seqs must be whole numbers above 0")
    return set(given)


def _request(home: Path, path: Path, what: str, seqs: list[int]) -> None:
    requester = f"web-{secrets.token_hex(8)}"
    with closing(Outbox(path)) as outbox:
        outbox.request(requester, what, seqs)
        if what == DISCARD and (lease := DeliveryLease.take(home)) is not None:
            try:
                outbox.execute_discards(requester)
            finally:
                lease.release()
        outbox.delete_answered(requester)


def _symbols(home: Path, seqs: list[int]) -> dict[int, str]:
    """The symbols of signals; empty without a readable table, which delivery does not need."""
    statement = "SELECT id, symbol FROM signals WHERE id IN (SELECT value FROM json_each(?))"
    try:
        return dict(
            read_home(home, lambda db: db.execute(statement, (json.dumps(seqs),)).fetchall())
        )
    except EventLogError:
        return {}


def _parked_json(row: ParkedSignal) -> Json:
    return {
        "seq": row.seq,
        "signal_id": row.signal_id,
        "kind": row.kind,
        "status": row.status,
        "body": row.body,
        "attempts": row.attempts,
        "since": _time(row.first_at),
        "last_at": _time(row.last_at),
        "next_at": None if row.next_at is None else _time(row.next_at),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _invalid(what: str) -> Refusal:
    do = 'send {"action": "retry" or "discard", "seqs": [...]}, or "all": true'
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, what, do=do)


def _unreadable_error(error: Exception) -> ProjectionError:
    return ProjectionError(
        f"the delivery state cannot be read: {error}",
        do="the daemon sets a damaged file aside when it starts",
    )
