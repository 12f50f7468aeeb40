"""The outbox: delivery's durable state, in `data/alpine.db`.

Signals are delivered out of order, so it holds a checkpoint up to which all entries are done, and a
table of those done above it. Losing the file costs repeated requests, which Alpine answers with
duplicate, and the record of parked signals, which Alpine then refuses again.

Invariant: an entry is at or below the checkpoint, or in `done`, only if it was delivered or parked,
or is no signal.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from eventlog import UnsafePath
from projections.delivery.lease import is_held
from projections.delivery.outbox_rows import (
    OperatorRequest,
    ParkedSignal,
    checkpoint_of,
    operator_request,
    parked_signal,
    state_of,
)
from projections.delivery.outbox_schema import (
    BUSY_S_MAX,
    is_being_set_up,
    require_exact,
    require_whole,
    set_up,
)
from projections.delivery.outbox_schema import NAME as NAME
from projections.projection import Checkpoint
from projections.sqlite.file import (
    JOURNAL_BYTES_MAX,
    create_private_file,
    is_damage,
    open_file,
    read_database,
    set_aside,
    transaction,
)

T = TypeVar("T")

DISABLED, STOPPED = "disabled", "stopped"  # states beside those of state.DeliveryState
REFUSED, FAILING = "refused", "failing"  # why a signal is parked
DISCARDED = "discarded"  # it was parked, and an operator gave it up
RETRY, REPLAY, DISCARD = "retry", "replay", "discard"  # the operator requests
STORED, DUPLICATE, PARKED, GONE = "stored", "duplicate", "parked", "gone"  # their outcomes

REQUESTS_MAX = 1_000  # written or read in one transaction
OUTCOME_KEPT_S_MAX = 3600.0  # for a command that was killed before it read its outcomes


@dataclass(slots=True, kw_only=True)
class UnsavedChanges:
    """Changes since the last save, besides the checkpoint and the done entries."""

    park: dict[int, ParkedSignal] = field(default_factory=dict)
    unpark: set[int] = field(default_factory=set)
    request_outcomes: dict[int, str] = field(default_factory=dict)  # outcome by OperatorRequest.id
    delivered: int = 0

    def clear(self) -> None:
        """Forgets the changes, once they are saved."""
        self.park.clear()
        self.unpark.clear()
        self.request_outcomes.clear()
        self.delivered = 0


class Outbox:
    """The outbox of one home. Not thread-safe; a transaction takes about 100 us, without a sync.

    Raises sqlite3.Error, also from each of its methods; SchemaTooNew, UnsafePath.
    """

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            create_private_file(path)
        self._path = path
        self._db = open_file(path, "mode=rw", timeout_s=BUSY_S_MAX, wal_bytes_max=JOURNAL_BYTES_MAX)
        try:
            set_up(self._db, path)
            self._inode = _inode(path)
            self._schema_version = self._read_schema_version()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens it for delivery: a damaged or foreign file is set aside, and a new one created."""
        outbox = None
        try:
            outbox = cls(path)
            outbox._require_intact()
            return outbox
        except sqlite3.DatabaseError as error:
            if outbox is not None:
                outbox.close()
            if not is_damage(error):
                raise
        set_aside(path)
        return cls(path)

    def _require_intact(self) -> None:
        """Raises DamagedDatabase unless all tables and rows are ours, and no page is damaged."""
        require_exact(self._db)
        require_whole(self._db)
        self.checkpoint()
        self.state()
        for _ in map(parked_signal, self._db.execute("SELECT * FROM parked")):
            pass
        for _ in map(operator_request, self._db.execute("SELECT id, what, seq FROM asked")):
            pass

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def set_busy_timeout(self, seconds: float) -> None:
        """Limits the wait for another process's transaction; it blocks the event loop."""
        self._db.execute(f"PRAGMA busy_timeout = {int(1_000 * seconds)}")

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open file; a save into a deleted one is lost."""
        return _inode(self._path) == self._inode

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A write transaction, in which no trigger of another program runs."""
        with transaction(self._db):
            self.check_schema()
            yield

    def check_schema(self) -> None:
        """Raises DamagedDatabase where another program has changed the tables or added a trigger.

        It looks at them only after SQLite has counted a change of the schema.
        """
        version = self._read_schema_version()
        if version != self._schema_version:
            require_exact(self._db)
            self._schema_version = version

    def _read_schema_version(self) -> int:
        (version,) = self._db.execute("PRAGMA schema_version").fetchone()
        return int(version)

    def checkpoint(self) -> Checkpoint:
        """The checkpoint: all entries up to it are done."""
        return _checkpoint(self._db)

    def done_above(self) -> set[int]:
        """Seqs above the checkpoint that are done."""
        return _done_above(self._db)

    def save(
        self,
        checkpoint: Checkpoint,
        done: Collection[int],
        unsaved: UnsavedChanges,
        rejections: int,
    ) -> None:
        """Stores the checkpoint and all changes in one transaction."""
        now_s = time.time()
        request_outcomes = [
            (outcome, now_s, request_id) for request_id, outcome in unsaved.request_outcomes.items()
        ]
        execute, each = self._db.execute, self._db.executemany
        with self._transaction():
            each("INSERT OR IGNORE INTO done VALUES (?)", [(seq,) for seq in done])
            each("DELETE FROM parked WHERE seq = ?", [(seq,) for seq in unsaved.unpark])
            each(
                "REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                list(unsaved.park.values()),
            )
            each("UPDATE asked SET outcome = ?, answered_at = ? WHERE id = ?", request_outcomes)
            execute("DELETE FROM done WHERE seq <= ?", (checkpoint.seq,))
            execute(
                "UPDATE checkpoint SET seq = ?, chain = ? WHERE name = ? AND seq < ?",
                (checkpoint.seq, checkpoint.chain, NAME, checkpoint.seq),
            )
            execute(
                "UPDATE state SET value = value + ? WHERE name = 'delivered'", (unsaved.delivered,)
            )
            execute("UPDATE state SET value = ? WHERE name = 'rejections'", (rejections,))

    def write_state(self, *, state: str, last_error: str | None) -> None:
        """Stores for `eventlog status` what delivery is doing."""
        rows = [("state", state), ("last_error", last_error)]
        with self._transaction():
            self._db.executemany("REPLACE INTO state VALUES (?, ?)", rows)

    def state(self) -> dict[str, object]:
        """Values of state, last_error, delivered and rejections (those in a row), by name."""
        return _state(self._db)

    def parked(self, seq: int) -> ParkedSignal | None:
        """The parked or discarded signal with this seq."""
        return _parked(self._db, seq)

    def failing_count(self) -> int:
        """The number of signals that are parked as failing."""
        statement = "SELECT count(*) FROM parked WHERE kind = ?"
        (count,) = self._db.execute(statement, (FAILING,)).fetchone()
        return int(count)

    def due(self, now_s: float, count: int) -> list[ParkedSignal]:
        """The failing signals whose retry is due, the longest overdue first."""
        rows = self._db.execute(
            "SELECT * FROM parked WHERE next_at <= ? ORDER BY next_at LIMIT ?", (now_s, count)
        )
        return [parked_signal(row) for row in rows]

    def request(self, requester: str, what: str, seqs: Iterable[int]) -> None:
        """Stores operator requests for the process that delivers, now or later."""
        rows = iter((requester, what, seq) for seq in seqs)
        while batch := list(
            islice(rows, REQUESTS_MAX)
        ):  # so that the sender is never blocked for long
            with self._transaction():
                self._db.executemany("INSERT INTO asked(who, what, seq) VALUES (?, ?, ?)", batch)

    def open_requests(self, *, after: int = 0) -> list[OperatorRequest]:
        """Requests without an outcome, the oldest first, at most REQUESTS_MAX."""
        return [operator_request(row) for row in _open_requests(self._db, after)]

    def execute_discards(self, requester: str) -> None:
        """Executes the discards that `requester` asked for; no other process may deliver."""
        statement = "SELECT id, seq FROM asked WHERE who = ? AND outcome IS NULL"
        for request_id, seq in self._db.execute(statement, (requester,)).fetchall():
            outcome = DISCARDED if self.discard(seq) else GONE
            with self._transaction():
                self._db.execute(
                    "UPDATE asked SET outcome = ?, answered_at = ? WHERE id = ?",
                    (outcome, time.time(), request_id),
                )

    def cancel_requests(self, requester: str) -> None:
        """Deletes all requests of `requester`."""
        with self._transaction():
            self._db.execute("DELETE FROM asked WHERE who = ?", (requester,))

    def outcomes(self, requester: str) -> dict[str | None, int]:
        """Counts the requests of `requester` by outcome; None: not executed yet."""
        statement = "SELECT outcome, count(*) FROM asked WHERE who = ? GROUP BY outcome"
        return dict(self._db.execute(statement, (requester,)).fetchall())

    def delete_answered(self, requester: str) -> None:
        """Deletes executed requests of `requester`, and those whose outcome has expired."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM asked WHERE outcome IS NOT NULL AND (who = ? OR answered_at < ?)",
                (requester, time.time() - OUTCOME_KEPT_S_MAX),
            )

    def discard(self, seq: int) -> bool:
        """Gives a parked signal up: it stays undelivered. False: it is not parked."""
        statement = "UPDATE parked SET kind = ?, next_at = NULL WHERE seq = ? AND kind IN (?, ?)"
        values = (DISCARDED, seq, REFUSED, FAILING)
        with self._transaction():
            return self._db.execute(statement, values).rowcount == 1

    def figures(self) -> dict[str, object]:
        """The figures that `eventlog status` shows."""
        return _figures(self._db)


def outbox_path(home: Path) -> Path:
    """`data/alpine.db` of a home."""
    return home / "data" / "alpine.db"


def read_outbox(path: Path) -> tuple[Checkpoint, set[int], dict[str, object]] | None:
    """Checkpoint, seqs done above it, figures; None without a readable file. Changes nothing."""
    try:
        return load_outbox(path)
    except (OSError, sqlite3.Error, UnsafePath):
        return None


def load_outbox(path: Path) -> tuple[Checkpoint, set[int], dict[str, object]]:
    """The same, but raises: FileNotFoundError if there is none yet, OSError, sqlite3.Error,
    UnsafePath."""
    return _read_snapshot(path, lambda db: (_checkpoint(db), _done_above(db), _figures(db)))


def read_parked(path: Path) -> list[ParkedSignal]:
    """All parked signals, in the order of the log. Raises FileNotFoundError, sqlite3.Error."""
    statement = "SELECT * FROM parked WHERE kind IN (?, ?) ORDER BY seq"
    rows = _read_snapshot(path, lambda db: db.execute(statement, (REFUSED, FAILING)).fetchall())
    return [parked_signal(row) for row in rows]


def read_open_requests(path: Path) -> list[OperatorRequest]:
    """Requests without an outcome, the oldest first, at most REQUESTS_MAX. Raises the same."""
    return [operator_request(row) for row in _read_snapshot(path, _open_requests)]


def read_seq(path: Path, seq: int) -> tuple[bool, ParkedSignal | None]:
    """Whether an entry is done, and how it is parked. Raises FileNotFoundError, sqlite3.Error."""

    def read(db: sqlite3.Connection) -> tuple[bool, ParkedSignal | None]:
        is_done = db.execute("SELECT 1 FROM done WHERE seq = ?", (seq,)).fetchone() is not None
        return is_done or seq <= _checkpoint(db).seq, _parked(db, seq)

    return _read_snapshot(path, read)


def _read_snapshot(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """The result of `read` in one snapshot. Raises FileNotFoundError, sqlite3.Error."""

    def read_whole(db: sqlite3.Connection) -> T:
        db.execute("BEGIN")
        if is_being_set_up(db):
            raise FileNotFoundError(f"{path} is being set up")
        require_exact(db)
        return read(db)

    return read_database(path, read_whole)


def _checkpoint(db: sqlite3.Connection) -> Checkpoint:
    row = db.execute("SELECT seq, chain FROM checkpoint WHERE name = ?", (NAME,)).fetchone()
    return checkpoint_of(NAME, row)


def _done_above(db: sqlite3.Connection) -> set[int]:
    return {seq for (seq,) in db.execute("SELECT seq FROM done")}


def _open_requests(db: sqlite3.Connection, after: int = 0) -> list[tuple[object, ...]]:
    return db.execute(
        "SELECT id, what, seq FROM asked WHERE outcome IS NULL AND id > ? ORDER BY id LIMIT ?",
        (after, REQUESTS_MAX),
    ).fetchall()


def _parked(db: sqlite3.Connection, seq: int) -> ParkedSignal | None:
    row = db.execute("SELECT * FROM parked WHERE seq = ?", (seq,)).fetchone()
    return parked_signal(row) if row is not None else None


def _state(db: sqlite3.Connection) -> dict[str, object]:
    return state_of(db.execute("SELECT name, value FROM state"))


def _figures(db: sqlite3.Connection) -> dict[str, object]:
    state = _state(db)
    counts: Mapping[str, int] = dict(
        db.execute("SELECT kind, count(*) FROM parked GROUP BY kind").fetchall()
    )
    return {
        "delivered": state.get("delivered", 0),
        "parked": counts.get(REFUSED, 0) + counts.get(FAILING, 0),
        "failing": counts.get(FAILING, 0),
        "state": state.get("state", STOPPED),
        "last_error": state.get("last_error"),
    }


def _inode(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def is_delivering(home: Path) -> bool:
    """Whether a daemon maintains the state in the outbox: it delivers, or reports `disabled`.

    A disabled daemon does not hold the lease, so that another one may deliver.
    """
    if is_held(home):
        return True  # also if this account cannot find out: the stored state is believed
    found = read_outbox(outbox_path(home))
    return found is not None and found[2]["state"] == DISABLED
