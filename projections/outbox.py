"""What delivery knows across restarts: `data/alpine.db`.

Signals are delivered out of order, so there is a checkpoint below which all is done, and a table
of what is done above it. Losing this file costs repeated requests, which Alpine answers with
duplicate, and the record of what was parked, which Alpine refuses again.

Invariant: an entry is below the checkpoint or in `done` only if it was delivered, parked, or is
no signal.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from projections.database import make_file
from projections.projection import CHAIN_START, Checkpoint

NAME = "alpine"
REFUSED, FAILING = "refused", "failing"  # why a signal is parked
RETRY, REPLAY, DISCARD = "retry", "replay", "discard"  # what a command may ask of the daemon

_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoint(name TEXT PRIMARY KEY, seq INTEGER NOT NULL,
    chain TEXT NOT NULL, segment INTEGER, byte_offset INTEGER);
CREATE TABLE IF NOT EXISTS done(seq INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS parked(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL,
    kind TEXT NOT NULL, status INTEGER, body TEXT NOT NULL, attempts INTEGER NOT NULL,
    first_at REAL NOT NULL, last_at REAL NOT NULL, next_at REAL);
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS asked(id INTEGER PRIMARY KEY, what TEXT NOT NULL, seq INTEGER NOT NULL);
"""


def outbox_path(home: Path) -> Path:
    """`data/alpine.db` of a home."""
    return home / "data" / "alpine.db"


def is_delivering(home: Path) -> bool:
    """Whether a daemon holds the sender's lock."""
    try:
        fd = os.open(home / "data" / "alpine.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Parked(NamedTuple):
    """A signal that Alpine does not take."""

    seq: int
    signal_id: str
    kind: str  # REFUSED: only retried by hand; FAILING: retried for ever, slowly
    status: int | None
    body: str  # of the answer, cut
    attempts: int
    first_at: float  # seconds since 1970
    last_at: float
    next_at: float | None  # when it is tried again; None: not by itself


class Outbox:
    """The file of one home. Not thread-safe; its transactions take some 50 us and sync nothing."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            with suppress(FileExistsError):
                make_file(path)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "INSERT OR IGNORE INTO checkpoint(name, seq, chain) VALUES (?, 0, ?)",
                (NAME, CHAIN_START),
            )
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    def checkpoint(self) -> Checkpoint:
        """All entries up to it are done."""
        seq, chain, segment, byte_offset = self._db.execute(
            "SELECT seq, chain, segment, byte_offset FROM checkpoint WHERE name = ?", (NAME,)
        ).fetchone()
        return Checkpoint(
            projection=NAME, seq=seq, chain=chain, segment=segment, byte_offset=byte_offset
        )

    def done_above(self) -> set[int]:
        """Seqs above the checkpoint that are done."""
        return {seq for (seq,) in self._db.execute("SELECT seq FROM done")}

    def save(
        self,
        checkpoint: Checkpoint,
        *,
        done: Iterable[int] = (),
        park: Iterable[Parked] = (),
        unpark: Iterable[int] = (),
        delivered: int = 0,
    ) -> None:
        """What was done since, with the checkpoint, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR IGNORE INTO done VALUES (?)", [(s,) for s in done])
            self._db.executemany("DELETE FROM parked WHERE seq = ?", [(s,) for s in unpark])
            self._db.executemany("REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", park)
            self._db.execute("DELETE FROM done WHERE seq <= ?", (checkpoint.seq,))
            self._db.execute(
                "UPDATE checkpoint SET seq = ?, chain = ? WHERE name = ? AND seq < ?",
                (checkpoint.seq, checkpoint.chain, NAME, checkpoint.seq),
            )
            if delivered:
                self._db.execute(
                    "INSERT INTO state VALUES ('delivered', ?) ON CONFLICT(name)"
                    " DO UPDATE SET value = value + excluded.value",
                    (delivered,),
                )
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def say(self, **values: object) -> None:
        """Keeps facts for `eventlog status`: state, last_error."""
        rows = list(values.items())
        self._db.executemany("REPLACE INTO state VALUES (?, ?)", rows)

    def parked(self, kind: str | None = None) -> list[Parked]:
        """All that is parked, in the order of the log."""
        rows = self._db.execute("SELECT * FROM parked ORDER BY seq")
        return [row for row in map(Parked._make, rows) if kind in (None, row.kind)]

    def due(self, now_s: float, count: int) -> list[Parked]:
        """The failing signals whose time has come, the longest overdue first."""
        rows = self._db.execute(
            "SELECT * FROM parked WHERE next_at <= ? ORDER BY next_at LIMIT ?", (now_s, count)
        )
        return [Parked._make(row) for row in rows]

    def ask(self, what: str, seqs: Iterable[int]) -> None:
        """Hands work to the daemon that delivers, now or later."""
        with self._db:
            rows = [(what, seq) for seq in seqs]
            self._db.executemany("INSERT INTO asked(what, seq) VALUES (?, ?)", rows)

    def asked(self) -> list[tuple[int, str, int]]:
        """Work that was handed over: its number, what, and the seq."""
        return self._db.execute("SELECT id, what, seq FROM asked ORDER BY id LIMIT 1000").fetchall()

    def answered(self, numbers: Iterable[int]) -> None:
        """Work that is done is forgotten."""
        rows = [(number,) for number in numbers]
        self._db.executemany("DELETE FROM asked WHERE id = ?", rows)

    def discard(self, seq: int) -> None:
        """Forgets a parked signal: it stays undelivered."""
        self._db.execute("DELETE FROM parked WHERE seq = ?", (seq,))

    def figures(self) -> dict[str, object]:
        """What status shows of the file."""
        state = dict(self._db.execute("SELECT name, value FROM state").fetchall())
        counts = dict(self._db.execute("SELECT kind, count(*) FROM parked GROUP BY kind"))
        return {
            "delivered": state.get("delivered", 0),
            "parked": sum(counts.values()),
            "failing": counts.get(FAILING, 0),
            "state": state.get("state", "stopped"),
            "last_error": state.get("last_error"),
        }


def read_outbox(path: Path) -> "tuple[Checkpoint, set[int], dict[str, object]] | None":
    """Checkpoint, done above it, and figures; None without a readable file. Changes nothing."""
    if not path.exists():
        return None
    with suppress(sqlite3.Error), closing(Outbox(path)) as outbox:
        return outbox.checkpoint(), outbox.done_above(), outbox.figures()
    return None
