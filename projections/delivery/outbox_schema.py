"""The tables of `data/alpine.db`, and their creation.

Invariant: a file of a newer version, or with foreign tables, is left unchanged.
"""

import sqlite3
import time
from functools import cache
from pathlib import Path

from projections.errors import SchemaTooNew
from projections.projection import CHAIN_START
from projections.sqlite.file import DamagedDatabase, transaction
from projections.sqlite.schema_check import Schema, foreign_names, schema_of, schema_problem

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

_STATEMENTS = tuple(f"CREATE TABLE {name}({columns})" for name, columns in _TABLES.items())


def set_up(db: sqlite3.Connection, path: Path) -> None:
    """Creates the tables in an empty file. Raises SchemaTooNew, sqlite3.Error."""
    # NORMAL: a power loss may take the last commits, never half of one; that repeats requests.
    db.execute("PRAGMA synchronous = NORMAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION and not _is_empty(db):
        return  # foreign tables, or another process was faster: see require_exact
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
        if _is_empty(db):  # no other process was faster
            for statement in _STATEMENTS:
                db.execute(statement)
            first = "INSERT INTO checkpoint(name, seq, chain) VALUES (?, 0, ?)"
            db.execute(first, (NAME, CHAIN_START))
            db.execute("INSERT INTO state VALUES ('delivered', 0), ('rejections', 0)")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def is_being_set_up(db: sqlite3.Connection) -> bool:
    """Whether the file is empty: another process has created it and goes on."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return version == 0 and _is_empty(db)


def require_exact(db: sqlite3.Connection) -> None:
    """Raises DamagedDatabase unless the tables are exactly ours, and no others."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise DamagedDatabase(f"its schema has version {version}, not {SCHEMA_VERSION}")
    problem = schema_problem(db, _expected_schema())
    if problem is None and foreign_names(db, _expected_schema()):
        problem = "it holds tables, views or indexes of that program"
    if problem is not None:
        raise DamagedDatabase(f"another program has changed its schema: {problem}")


def require_whole(db: sqlite3.Connection) -> None:
    """Raises DamagedDatabase where a page is damaged."""
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DamagedDatabase(str(found))


@cache
def _expected_schema() -> Schema:
    return schema_of(_STATEMENTS)


def _is_empty(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master").fetchone() is None


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
