"""A new database in the place of the live one, in one step, while readers go on reading.

Where the live database can be read it is overwritten by one SQLite backup, which is one
transaction of it: each reader sees the old table or the new one, whole. Where it cannot, or where
there is none, the new file takes its name.

Everything here happens under the write lock.

Invariant: a crash at any moment leaves the old database, the new one, or, where the old one was
damaged, for a moment none.
"""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from projections import database
from projections.errors import ProjectionError

BACKUP_BUSY_S_MAX = 30.0  # a foreign writer may hold the database for so long


def overwrite(path: Path, new: Path) -> None:
    """Copies the database `new` over the live one at `path`. Raises sqlite3.Error, ProjectionError.

    Readers that are under way go on with what they see; the next ones see the new tables.
    """
    with closing(database.connect(path)) as live, closing(database.connect(new)) as source:
        (mode,) = live.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ProjectionError(
                f"the database is in journal mode {mode!r}, and somebody keeps it there",
                where=str(path),
                do="close the other program, then run it again",
            )
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA wal_autocheckpoint = 0")  # once, below, and not while it is copied
        give_up_s = time.monotonic() + BACKUP_BUSY_S_MAX

        def check_time(status: int, _remaining: int, _total: int) -> None:
            if status != sqlite3.SQLITE_DONE and time.monotonic() > give_up_s:
                raise ProjectionError(
                    "somebody else is writing to the database, and does not end",
                    where=str(path),
                    do="find the program that holds it, then run it again",
                )

        source.backup(live, pages=-1, progress=check_time)


def write_back(path: Path) -> None:
    """Brings the pages of the WAL into the database, as far as readers allow, and cuts the WAL."""
    with closing(database.connect(path)) as live:
        live.execute("PRAGMA synchronous = NORMAL")
        live.execute("PRAGMA busy_timeout = 0")  # who reads now will not be waited for
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def put_in_place(path: Path, new: Path) -> None:
    """Gives the file `new` the name `path`, where nothing usable stands."""
    with closing(database.connect(new)) as source:
        source.execute("PRAGMA journal_mode = WAL")
    _sync(new)
    # What is left of a database that was deleted would be taken for the WAL of this one.
    database.remove_with_wal(path)
    new.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
