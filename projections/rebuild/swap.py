"""A new database in the place of the live one, in one step, while readers go on reading.

Where the live database can be read it is overwritten by one SQLite backup, which is one
transaction of it: each reader sees the old table or the new one, whole. Where it cannot, or where
there is none, the new file takes its name.

Everything here happens under the write lock.

Invariant: a crash at any moment leaves the old database, the new one, or, where the old one was
damaged, for a moment none.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from eventlog.plumbing import rename_durably
from projections.errors import ProjectionError
from projections.signals import schema
from projections.sqlite import file

BACKUP_BUSY_S_MAX = 30.0  # a foreign writer may hold the database for so long


def overwrite(path: Path, new: Path) -> None:
    """Copies the database `new` over the live one at `path`. Raises sqlite3.Error, ProjectionError.

    Readers that are under way go on with what they see; the next ones see the new tables.
    """
    with closing(file.connect(path)) as live, closing(file.connect(new)) as source:
        (mode,) = live.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ProjectionError(
                f"the database is in journal mode {mode!r}, and somebody keeps it there",
                where=str(path),
                do="close the other program, then run it again",
            )
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA wal_autocheckpoint = 0")  # once, below, and not while it is copied
        deadline_s = time.monotonic() + BACKUP_BUSY_S_MAX

        def check_time(status: int, _remaining: int, _total: int) -> None:
            if status != sqlite3.SQLITE_DONE and time.monotonic() > deadline_s:
                raise ProjectionError(
                    "somebody else is writing to the database, and does not end",
                    where=str(path),
                    do="find the program that holds it, then run it again",
                )

        source.backup(live, pages=-1, progress=check_time)


def checkpoint_wal(path: Path) -> None:
    """Brings the pages of the WAL into the database, as far as readers allow, and cuts the WAL."""
    with closing(file.connect(path)) as live:
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA busy_timeout = 0")  # who reads now will not be waited for
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def move_into_place(path: Path, new: Path) -> None:
    """Gives the file `new` the name `path`, where nothing usable stands."""
    with closing(file.connect(new)) as source:
        source.execute("PRAGMA journal_mode = WAL")
    # What is left of a database that was deleted would be taken for the WAL of this one.
    file.remove_database(path)
    rename_durably(new, path)


_COMPARED_COLUMNS = schema.COLUMNS[1:]
_OLD = ", ".join(f"old.{column}" for column in _COMPARED_COLUMNS)
_NEW = ", ".join(f"new.{column}" for column in _COMPARED_COLUMNS)
# Both tables lie in the order of the id: a merge, and no index is needed.
_COUNT_DIFFERENCES = f"""SELECT count(*), coalesce(sum(old.id IS NULL), 0),
    coalesce(sum(old.id IS NOT NULL AND ({_NEW}) IS NOT ({_OLD})), 0)
    FROM new.signals AS new LEFT JOIN main.signals AS old ON old.id = new.id"""
_COUNT_OLD = "SELECT count(*) FROM main.signals"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """Rows, by their id."""

    added: int
    removed: int
    changed: int


class TableComparison:
    """The live table at `old`, as it is now, beside the one in `new`. May run in another thread."""

    def __init__(self, old: Path, new: Path) -> None:
        self._db = file.connect(old, readonly=True)
        try:
            self._db.execute("ATTACH ? AS new", (f"file:{quote(str(new))}?mode=ro",))
            self._db.execute("BEGIN")
            self._db.execute("SELECT 1 FROM main.signals LIMIT 1").fetchone()  # from here on
        except BaseException:
            self._db.close()
            raise

    def run(self) -> TableDifference | None:
        """The difference; None where the old table cannot be read."""
        with closing(self._db):
            try:
                rows, added, changed = self._db.execute(_COUNT_DIFFERENCES).fetchone()
                (before,) = self._db.execute(_COUNT_OLD).fetchone()
            except sqlite3.Error:
                return None
            return TableDifference(added=added, removed=before - (rows - added), changed=changed)
