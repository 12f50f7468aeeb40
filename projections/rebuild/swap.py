"""Swaps a new database in for the live one, atomically, while readers go on reading.

A readable live database is overwritten by one SQLite backup, which is one transaction: each reader
sees the whole old table or the whole new one. Where the live database is missing or damaged, the
new file takes its name.

The caller holds the write lock.

Invariant: after a crash the path holds the old database or the new one; where the old one was
damaged, it may hold none.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import database_uri
from projections.errors import ProjectionError
from projections.signals import schema
from projections.sqlite import file

BACKUP_BUSY_S_MAX = 30.0  # how long a foreign writer may lock the database


def overwrite(path: Path, new: Path) -> None:
    """Copies the database `new` over the live one at `path`. Raises sqlite3.Error, ProjectionError.

    A read transaction under way keeps the old tables; later ones see the new tables.
    """
    wal_bytes_max = max(file.JOURNAL_BYTES_MAX, 2 * new.stat().st_size)  # each page, and a header
    with (
        closing(file.connect(path, wal_bytes_max=wal_bytes_max)) as live,
        closing(file.connect(new, readonly=True, is_shared=False)) as source,
    ):
        (mode,) = live.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ProjectionError(
                f"another program keeps the database in journal mode {mode!r}",
                where=str(path),
                do="close that program, then run `eventlog rebuild-database` again",
            )
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoint_wal does it, once
        deadline_s = time.monotonic() + BACKUP_BUSY_S_MAX

        def check_time(status: int, _remaining: int, _total: int) -> None:
            if status != sqlite3.SQLITE_DONE and time.monotonic() > deadline_s:
                raise ProjectionError(
                    f"another program has locked the database for {BACKUP_BUSY_S_MAX:g} s",
                    where=str(path),
                    do="close that program, then run `eventlog rebuild-database` again",
                )

        source.backup(live, pages=-1, progress=check_time)


def checkpoint_wal(path: Path) -> None:
    """Runs a WAL checkpoint as far as readers allow, and truncates the WAL."""
    with closing(file.connect(path)) as live:
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA busy_timeout = 0")  # do not wait for readers
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


_COMPARED_COLUMNS = schema.COLUMNS[1:]
_OLD = ", ".join(f"old.{column}" for column in _COMPARED_COLUMNS)
_NEW = ", ".join(f"new.{column}" for column in _COMPARED_COLUMNS)
# Both tables are stored in the order of the id: a merge, without an index.
_COUNT_DIFFERENCES = f"""SELECT count(*), coalesce(sum(old.id IS NULL), 0),
    coalesce(sum(old.id IS NOT NULL AND ({_NEW}) IS NOT ({_OLD})), 0)
    FROM new.signals AS new LEFT JOIN main.signals AS old ON old.id = new.id"""
_COUNT_OLD = "SELECT count(*) FROM main.signals"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """Rows of the new table against the old one, matched by id."""

    added: int
    removed: int
    changed: int


class TableComparison:
    """Compares the table at `old`, as of the construction, with the one at `new`.

    `run` may be called in another thread.
    """

    def __init__(self, old: Path, new: Path) -> None:
        self._db = file.connect(old, readonly=True)
        try:
            file.require_regular(new)
            self._db.execute("ATTACH ? AS new", (database_uri(new, "mode=ro"),))
            self._db.execute("BEGIN")
            self._db.execute("SELECT 1 FROM main.signals LIMIT 1").fetchone()  # pins the snapshot
        except BaseException:
            self._db.close()
            raise

    def run(self) -> TableDifference | None:
        """Returns the difference; None where the old table cannot be read."""
        with closing(self._db):
            try:
                rows, added, changed = self._db.execute(_COUNT_DIFFERENCES).fetchone()
                (before,) = self._db.execute(_COUNT_OLD).fetchone()
            except sqlite3.Error:
                return None
            return TableDifference(added=added, removed=before - (rows - added), changed=changed)
