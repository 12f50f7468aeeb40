"""What delivery knows across restarts: `data/alpine.db`.

Signals are delivered out of order, so there is a checkpoint below which all is done, and a table
of what is done above it. Losing this file costs repeated requests, which Alpine answers with
duplicate, and the record of what was parked, which Alpine refuses again.

Invariant: an entry is below the checkpoint or in `done` only if it was delivered, parked, or is
no signal.
"""

import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from eventlog import UnsafePath
from projections.delivery.lease import is_held
from projections.delivery.outbox_schema import BUSY_S_MAX, is_intact, set_up
from projections.delivery.outbox_schema import NAME as NAME
from projections.projection import Checkpoint
from projections.sqlite.file import create_private_file, is_damage, read_database, set_aside

T = TypeVar("T")

DISABLED, STOPPED = "disabled", "stopped"  # states beside those of dispatcher.DeliveryState
REFUSED, FAILING = "refused", "failing"  # why a signal is parked
DISCARDED = "discarded"  # it was, and a person gave it up
RETRY, REPLAY, DISCARD = "retry", "replay", "discard"  # what a command may ask of the sender
STORED, DUPLICATE, PARKED, GONE = "stored", "duplicate", "parked", "gone"  # how that ended

REQUESTS_MAX = 1_000  # written or taken at a time
OUTCOME_KEPT_S_MAX = 3600.0  # an answer that nobody came for, since the command was killed


class ParkedSignal(NamedTuple):
    """A signal that Alpine does not take."""

    seq: int
    signal_id: str
    kind: str  # REFUSED: only retried by hand; FAILING: retried for ever, slowly; or DISCARDED
    status: int | None
    body: str  # of the answer, cut
    attempts: int
    first_at: float  # seconds since 1970
    last_at: float
    next_at: float | None  # when it is tried again; None: not by itself


class OperatorRequest(NamedTuple):
    """Work that a command handed over."""

    id: int
    what: str
    seq: int


@dataclass(slots=True, kw_only=True)
class UnsavedChanges:
    """What changed since the last save, beside the checkpoint and what is done."""

    park: dict[int, ParkedSignal] = field(default_factory=dict)
    unpark: set[int] = field(default_factory=set)
    request_outcomes: dict[int, str] = field(default_factory=dict)  # outcome by OperatorRequest.id
    delivered: int = 0

    def clear(self) -> None:
        """It was saved."""
        self.park.clear()
        self.unpark.clear()
        self.request_outcomes.clear()
        self.delivered = 0


class Outbox:
    """The file of one home. Not thread-safe; its transactions take some 100 us and sync nothing.

    Raises sqlite3.Error, also from each of its methods; SchemaTooNew, UnsafePath.
    """

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            create_private_file(path)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UnsafePath(
                "no regular file stands where the delivery state should be",
                where=str(path),
                do="move it",
            )
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S_MAX)
        try:
            set_up(self._db, path)
            self._inode = _inode(path)
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """For the sender: a file that is damaged or not ours is set aside, and a new one made."""
        try:
            outbox = cls(path)
            if is_intact(outbox._db):
                return outbox
            outbox.close()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        set_aside(path)
        return cls(path)

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    def set_busy_timeout(self, seconds: float) -> None:
        """For somebody else's transaction; the sender's event loop stands still meanwhile."""
        self._db.execute(f"PRAGMA busy_timeout = {int(1_000 * seconds)}")

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: another one would not get what is saved."""
        return _inode(self._path) == self._inode

    def checkpoint(self) -> Checkpoint:
        """All entries up to it are done."""
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
        """What was done since, with the checkpoint, in one transaction."""
        now_s = time.time()
        request_outcomes = [
            (outcome, now_s, request_id) for request_id, outcome in unsaved.request_outcomes.items()
        ]
        execute, each = self._db.execute, self._db.executemany
        execute("BEGIN IMMEDIATE")
        try:
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
            execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    def write_state(self, *, state: str, last_error: str | None) -> None:
        """Keeps for `eventlog status` what delivery is doing."""
        rows = [("state", state), ("last_error", last_error)]
        self._db.executemany("REPLACE INTO state VALUES (?, ?)", rows)

    def state(self) -> dict[str, object]:
        """state, last_error, delivered, and rejections: in a row, without an acceptance."""
        return _state(self._db)

    def parked(self, seq: int) -> ParkedSignal | None:
        """What is parked, or was discarded, under a seq."""
        return _parked(self._db, seq)

    def failing_count(self) -> int:
        """How many signals are parked as failing."""
        statement = "SELECT count(*) FROM parked WHERE kind = ?"
        (count,) = self._db.execute(statement, (FAILING,)).fetchone()
        return int(count)

    def due(self, now_s: float, count: int) -> list[ParkedSignal]:
        """The failing signals whose time has come, the longest overdue first."""
        rows = self._db.execute(
            "SELECT * FROM parked WHERE next_at <= ? ORDER BY next_at LIMIT ?", (now_s, count)
        )
        return [ParkedSignal._make(row) for row in rows]

    def request(self, requester: str, what: str, seqs: Iterable[int]) -> None:
        """Hands work to the sender, who does it now or when there is one."""
        rows = iter((requester, what, seq) for seq in seqs)
        while batch := list(islice(rows, REQUESTS_MAX)):  # so that the sender never waits long
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT INTO asked(who, what, seq) VALUES (?, ?, ?)", batch)
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def asked(self, *, after: int = 0) -> list[OperatorRequest]:
        """Work that is not done, from the oldest on, REQUESTS_MAX at a time."""
        rows = self._db.execute(
            "SELECT id, what, seq FROM asked WHERE outcome IS NULL AND id > ? ORDER BY id LIMIT ?",
            (after, REQUESTS_MAX),
        )
        return [OperatorRequest._make(row) for row in rows]

    def execute_discards(self, requester: str) -> None:
        """Does the discards that `requester` asked for, where nobody else delivers."""
        statement = "SELECT id, seq FROM asked WHERE who = ? AND outcome IS NULL"
        for request_id, seq in self._db.execute(statement, (requester,)).fetchall():
            outcome = DISCARDED if self.discard(seq) else GONE
            self._db.execute(
                "UPDATE asked SET outcome = ?, answered_at = ? WHERE id = ?",
                (outcome, time.time(), request_id),
            )

    def cancel_requests(self, requester: str) -> None:
        """Forgets all that `requester` asked for."""
        self._db.execute("DELETE FROM asked WHERE who = ?", (requester,))

    def outcomes(self, requester: str) -> dict[str | None, int]:
        """How the work that `requester` handed over has ended; None: it has not."""
        statement = "SELECT outcome, count(*) FROM asked WHERE who = ? GROUP BY outcome"
        return dict(self._db.execute(statement, (requester,)).fetchall())

    def delete_answered(self, requester: str) -> None:
        """Forgets answers that were read, and those that nobody comes for. The rest stays."""
        self._db.execute(
            "DELETE FROM asked WHERE outcome IS NOT NULL AND (who = ? OR answered_at < ?)",
            (requester, time.time() - OUTCOME_KEPT_S_MAX),
        )

    def discard(self, seq: int) -> bool:
        """A person gives a parked signal up: it stays undelivered. False: it is not parked."""
        statement = "UPDATE parked SET kind = ?, next_at = NULL WHERE seq = ? AND kind IN (?, ?)"
        values = (DISCARDED, seq, REFUSED, FAILING)
        return self._db.execute(statement, values).rowcount == 1

    def figures(self) -> dict[str, object]:
        """What status shows of the file."""
        return _figures(self._db)


def outbox_path(home: Path) -> Path:
    """`data/alpine.db` of a home."""
    return home / "data" / "alpine.db"


def read_outbox(path: Path) -> tuple[Checkpoint, set[int], dict[str, object]] | None:
    """Checkpoint, done above it, and figures; None without a readable file. Changes nothing."""
    try:
        return load_outbox(path)
    except (OSError, sqlite3.Error):
        return None


def load_outbox(path: Path) -> tuple[Checkpoint, set[int], dict[str, object]]:
    """The same. Raises FileNotFoundError where there is none yet, OSError, sqlite3.Error."""
    return _read_snapshot(path, lambda db: (_checkpoint(db), _done_above(db), _figures(db)))


def read_parked(path: Path) -> list[ParkedSignal]:
    """All that is parked, in the order of the log. Raises FileNotFoundError, sqlite3.Error."""
    statement = "SELECT * FROM parked WHERE kind IN (?, ?) ORDER BY seq"
    rows = _read_snapshot(path, lambda db: db.execute(statement, (REFUSED, FAILING)).fetchall())
    return [ParkedSignal._make(row) for row in rows]


def read_seq(path: Path, seq: int) -> tuple[bool, ParkedSignal | None]:
    """Whether an entry is done, and how it is parked. Raises FileNotFoundError, sqlite3.Error."""

    def read(db: sqlite3.Connection) -> tuple[bool, ParkedSignal | None]:
        is_done = db.execute("SELECT 1 FROM done WHERE seq = ?", (seq,)).fetchone() is not None
        return is_done or seq <= _checkpoint(db).seq, _parked(db, seq)

    return _read_snapshot(path, read)


def _read_snapshot(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What `read` finds at one moment of all tables. Raises FileNotFoundError, sqlite3.Error."""

    def read_whole(db: sqlite3.Connection) -> T:
        db.execute("BEGIN")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            raise FileNotFoundError(f"{path} is being set up")
        return read(db)

    return read_database(path, read_whole)


def _checkpoint(db: sqlite3.Connection) -> Checkpoint:
    row = db.execute("SELECT seq, chain FROM checkpoint WHERE name = ?", (NAME,)).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("there is no checkpoint in it")
    seq, chain = row
    return Checkpoint(projection=NAME, seq=seq, chain=chain)


def _done_above(db: sqlite3.Connection) -> set[int]:
    return {seq for (seq,) in db.execute("SELECT seq FROM done")}


def _parked(db: sqlite3.Connection, seq: int) -> ParkedSignal | None:
    row = db.execute("SELECT * FROM parked WHERE seq = ?", (seq,)).fetchone()
    return ParkedSignal._make(row) if row is not None else None


def _state(db: sqlite3.Connection) -> dict[str, object]:
    return dict(db.execute("SELECT name, value FROM state").fetchall())


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
    """Whether a daemon stands behind the state in the file: it sends, or says that it is disabled.

    One that is disabled does not hold the lock, so that another one may send.
    """
    if is_held(home):
        return True  # also where this account cannot tell: what the file says stands
    found = read_outbox(outbox_path(home))
    return found is not None and found[2]["state"] == DISABLED
