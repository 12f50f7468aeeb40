"""The file of the SQLite projection: whose it is, how it is set up, and who may write it.

`data/signals.db.lock` is held around each transaction that writes, with its WAL checkpoint, and
by a rebuild while it swaps; so there is one writing and checkpointing connection at a time.

Invariant: a database that is not ours is never written, and a damaged one is kept aside.
"""

import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

from eventlog import ForeignHome, UnsafePath
from projections.errors import SchemaTooNew
from projections.projection import CHAIN_START
from projections.signals import schema
from projections.sqlite.file import (
    connect,
    create_private_file,
    is_damage,
    read_database,
    remove_database,
    set_aside,
)

MISSING, CURRENT, FOREIGN, DAMAGED = "missing", "ours", "foreign", "damaged"
OLDER, NEWER = "older", "newer"  # ours, of another schema

_LIST_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def database_path(home: Path) -> Path:
    """`data/signals.db` of a home."""
    return home / "data" / "signals.db"


def inspect_database(path: Path, *, check_pages: bool) -> str:
    """What stands at `path`: one of the six words above. Changes nothing.

    `check_pages` looks at every page for damage, which takes a second a gigabyte or so.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return MISSING
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePath(
            "no regular file stands where the database should be", where=str(path), do="move it"
        )
    if status.st_size == 0:
        return DAMAGED
    try:
        return read_database(path, lambda database: _classify(database, check_pages))
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return DAMAGED
        raise


def _classify(database: sqlite3.Connection, check_pages: bool) -> str:
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application_id != schema.APPLICATION_ID:
        return FOREIGN
    if version != schema.SCHEMA_VERSION:
        return NEWER if version > schema.SCHEMA_VERSION else OLDER
    if check_pages:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            return DAMAGED
    # Our tables are all there, or SQLite says that there is no such one, and so is the checkpoint.
    for name in ("signals", "signal_extras", "lifecycle", "conflicts"):
        database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
    checkpoint = database.execute(schema.SELECT_CHECKPOINT, (schema.SQLITE,)).fetchone()
    return CURRENT if checkpoint is not None else DAMAGED


def require_compatible(path: Path, found: str) -> None:
    """Raises for a database that we may not touch."""
    if found == FOREIGN:
        raise ForeignHome(
            "this home belongs to the old tracker",
            where=str(path),
            do="choose a new home, and bring the old signals over with `eventlog import-legacy`",
        )
    if found == NEWER:
        raise SchemaTooNew(
            "a newer version of eventlog made this database",
            where=str(path),
            do="upgrade eventlog, or move the database away and rebuild it",
        )


def set_up(path: Path, *, check_pages: bool = True) -> str:
    """Brings a database of our schema to `path`, whatever of ours stood there. Under the lock.

    Returns what was found. A damaged file is set aside; tables of an older schema are dropped, to
    be filled again from the log. Raises ForeignHome, SchemaTooNew.
    """
    found = inspect_database(path, check_pages=check_pages)
    require_compatible(path, found)
    if found == OLDER and not _replace_schema(path):
        found = DAMAGED
    if found == DAMAGED:
        set_aside(path)
    if found in (MISSING, DAMAGED):
        _create_database(path)
    return found


def _replace_schema(path: Path) -> bool:
    """Puts our tables in the place of older ones; False where the file turns out to be damaged."""
    try:
        with closing(connect(path)) as database:
            create_schema(database, replace=True)
            database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise
    return True


def _create_database(path: Path) -> None:
    """Makes it under another name, so that nobody ever sees half a schema."""
    new = path.with_name(f"{path.name}.new")
    remove_database(new)  # whoever began it was killed
    create_private_file(new)
    with closing(connect(new)) as database:
        create_schema(database)
        database.execute("PRAGMA journal_mode = WAL")
    # Where a database was deleted alone, SQLite would take its WAL for that of the new one.
    remove_database(path)
    new.rename(path)


def create_schema(database: sqlite3.Connection, *, replace: bool = False) -> None:
    """Makes our tables and indexes, in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if replace:
            for (name,) in database.execute(_LIST_TABLES).fetchall():
                database.execute(f'DROP TABLE "{name}"')
        for statement in (*schema.TABLES, *schema.INDEXES):
            database.execute(statement)
        database.execute(schema.INSERT_CHECKPOINT, (schema.SQLITE, CHAIN_START))
        database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
