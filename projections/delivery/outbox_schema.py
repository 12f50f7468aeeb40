"""The tables of `data/alpine.db`, and their creation.

Invariant: a file of a newer version, or with foreign tables, is left unchanged.
"""

import sqlite3
import time
from pathlib import Path

from projections.errors import SchemaTooNew
from projections.projection import CHAIN_START
from projections.sqlite.file import transaction

NAME = "alpine"
SCHEMA_VERSION = 1
BUSY_S_MAX = 10.0  # other transactions on this file take a millisecond each
_TABLES = {
    "checkpoint": "name TEXT PRIMARY KEY, seq INTEGER NOT NULL, chain TEXT NOT NULL,"
    " segment INTEGER, byte_offset INTEGER",
    "done": "seq INTEGER PRIMARY KEY",
    "parked": "seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, kind TEXT NOT NULL,"
    " status INTEGER, body TEXT NOT NULL, attempts INTEGER NOT NULL, first_at REAL NOT NULL,"
    " last_at REAL NOT NULL, next_at REAL",
    "state": "name TEXT PRIMARY KEY, value",
    # AUTOINCREMENT: the sender remembers the last id it read, so no id may be used again.
    "asked": "id INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT NOT NULL, what TEXT NOT NULL,"
    " seq INTEGER NOT NULL, outcome TEXT, answered_at REAL",
}


def set_up(db: sqlite3.Connection, path: Path) -> None:
    """Creates the tables in an empty file. Raises SchemaTooNew, sqlite3.Error."""
    # NORMAL: a power loss may take the last commits, never half of one; that repeats requests.
    db.execute("PRAGMA synchronous = NORMAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION and _names(db):
        return  # foreign tables, or another process was faster: see is_intact
    (journal,) = db.execute("PRAGMA journal_mode").fetchone()
    if journal != "wal":
        _enable_wal(db)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            "a newer version of eventlog made this file", where=str(path), do="upgrade eventlog"
        )
    if version == SCHEMA_VERSION:
        return
    with transaction(db):
        if not _names(db):  # no other process was faster
            for name, columns in _TABLES.items():
                db.execute(f"CREATE TABLE {name}({columns})")
            first = "INSERT INTO checkpoint(name, seq, chain) VALUES (?, 0, ?)"
            db.execute(first, (NAME, CHAIN_START))
            db.execute("INSERT INTO state VALUES ('delivered', 0), ('rejections', 0)")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def is_intact(db: sqlite3.Connection) -> bool:
    """Whether all our tables exist, and no page is damaged. Raises sqlite3.Error."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION or _names(db) != set(_TABLES):
        return False
    for name, columns in _TABLES.items():
        ours = [column.split()[0] for column in columns.split(",")]
        if ours != [row[1] for row in db.execute(f"PRAGMA table_info({name})")]:
            return False
    if db.execute("SELECT 1 FROM checkpoint WHERE name = ?", (NAME,)).fetchone() is None:
        return False
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return bool(found == "ok")


def _names(db: sqlite3.Connection) -> set[str]:
    statement = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return {name for (name,) in db.execute(statement)}


def _enable_wal(db: sqlite3.Connection) -> None:
    """Waits for other processes that set the file up, as changing the journal mode does not."""
    deadline_s = time.monotonic() + BUSY_S_MAX
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= deadline_s:
                raise
        time.sleep(0.01)
