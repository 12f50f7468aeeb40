"""`data/signals.db`: inspecting it, setting it up, reading its checkpoint.

`run/signals.lock` is held around each writing transaction with its WAL checkpoint, and by a
rebuild while it swaps. So one connection at a time writes and checkpoints.

Invariant: a database that is not ours is never written, and a damaged one is set aside.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from eventlog import ForeignHome
from projections.errors import ProjectionError, SchemaTooNew, SchemaTooOld
from projections.projection import CHAIN_START, Checkpoint
from projections.run_directory import make_run_directory
from projections.signals import schema
from projections.sqlite.file import (
    BUSY_TIMEOUT_S,
    DamagedDatabase,
    connect,
    create_private_file,
    is_damage,
    is_transient,
    read_database,
    remove_database,
    require_regular,
    set_aside,
)
from projections.sqlite.placement import place
from projections.sqlite.row_sample import check_row_sample
from projections.sqlite.schema_check import (
    Schema,
    drop_all,
    foreign_names,
    schema_of,
    schema_problem,
)

MISSING, CURRENT, FOREIGN, DAMAGED = "missing", "ours", "foreign", "damaged"
OLDER, NEWER = "older", "newer"  # ours, with another schema version
ALTERED = "altered"  # ours, but another program has changed its tables or added a trigger
UNUSABLE = (DAMAGED, ALTERED)  # set aside, and built anew from the log

T = TypeVar("T")


def database_path(home: Path) -> Path:
    """`data/signals.db` of a home."""
    return home / "data" / "signals.db"


def inspect_database(path: Path, *, check_pages: bool, whole_bytes_max: int | None = None) -> str:
    """Returns the state of the database at `path`: one of the seven words above. Changes nothing.

    `check_pages` checks every page for damage, which takes about one second per gigabyte; in a file
    of more than `whole_bytes_max` bytes, if given, it checks a bounded sample of the rows instead.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return MISSING
    require_regular(path)
    if status.st_size == 0:
        return DAMAGED
    try:
        is_sampled = whole_bytes_max is not None and status.st_size > whole_bytes_max
        check = (check_row_sample if is_sampled else _check_pages) if check_pages else None
        return read_database(path, lambda database: _classify(database, check))
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return DAMAGED
        raise


def _classify(
    database: sqlite3.Connection, check: Callable[[sqlite3.Connection], None] | None
) -> str:
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application_id != schema.APPLICATION_ID:
        return FOREIGN
    if version != schema.SCHEMA_VERSION:
        return NEWER if version > schema.SCHEMA_VERSION else OLDER
    # First: a view in place of a table may never end.
    if schema_problem(database, _expected_schema()) is not None:
        return ALTERED
    if check is not None:
        check(database)
    # SQLite raises an error where the first page of a table is damaged.
    for name in schema.ENTRY_TABLES:
        database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
    return CURRENT if read_checkpoint(database) is not None else DAMAGED


def _check_pages(database: sqlite3.Connection) -> None:
    """Raises DamagedDatabase unless every page is well-formed."""
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DamagedDatabase(found)


@cache
def _expected_schema() -> Schema:
    return schema_of((*schema.TABLES, *schema.INDEXES))


def read_table(
    path: Path, read: Callable[[sqlite3.Connection], T], *, timeout_s: float = BUSY_TIMEOUT_S
) -> T:
    """Returns `read(connection)` in one snapshot, in which the tables are exactly ours.

    `timeout_s` is how long it waits for a lock that another process holds.
    Raises FileNotFoundError, SchemaTooOld, sqlite3.Error.
    """

    def read_checked(database: sqlite3.Connection) -> T:
        database.execute("BEGIN")
        require_exact(database, path)
        return read(database)

    return read_database(path, read_checked, timeout_s=timeout_s)


def require_exact(database: sqlite3.Connection, path: Path) -> None:
    """Raises DamagedDatabase unless the tables are exactly ours, of this schema version.

    Raises SchemaTooOld where they are of an older one.
    """
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application_id == schema.APPLICATION_ID and version < schema.SCHEMA_VERSION:
        raise _too_old_error(path)
    if version != schema.SCHEMA_VERSION:
        raise DamagedDatabase(f"its schema has version {version}, not {schema.SCHEMA_VERSION}")
    problem = schema_problem(database, _expected_schema())
    if problem is not None:
        raise DamagedDatabase(f"another program has changed its schema: {problem}")


def foreign_objects(path: Path) -> tuple[str, ...]:
    """Names of the tables, views and indexes of other programs in the database.

    A table of ours in the form of an older schema is none of them.
    """
    expected = _expected_schema()
    names = read_database(path, lambda database: foreign_names(database, expected))
    ours = {name for _, name, *_ in expected}
    return tuple(name for name in names if name not in ours)


def has_signals_table(path: Path) -> bool:
    """Whether `signals` is the table of ours, whose form is the same in every schema version."""
    found = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'signals' AND sql = ?"
    row = read_database(path, lambda db: db.execute(found, (schema.TABLES[0],)).fetchone())
    return row is not None


def read_checkpoint(database: sqlite3.Connection) -> Checkpoint | None:
    """The checkpoint of the SQLite projection; None where its row is missing or not valid."""
    row = database.execute(schema.SELECT_CHECKPOINT, (schema.SQLITE,)).fetchone()
    return None if row is None else checkpoint_from_row(row)


def checkpoint_from_row(row: Iterable[Any]) -> Checkpoint:
    """The checkpoint that a row of SELECT_CHECKPOINT holds."""
    seq, chain, segment, byte_offset = row
    return Checkpoint(
        projection=schema.SQLITE, seq=seq, chain=chain, segment=segment, byte_offset=byte_offset
    )


def missing_error(path: Path) -> ProjectionError:
    """The error for a read where there is no database."""
    return ProjectionError(
        "there is no database yet",
        where=str(path),
        do="run `eventlog project sqlite --once` or `eventlog rebuild-database`",
    )


def unreadable_error(path: Path, problem: object) -> ProjectionError:
    """The error for a database that cannot be read; for an empty file, that there is none yet."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            return missing_error(path)
    return ProjectionError(
        f"the database cannot be read: {problem}",
        where=str(path),
        do="check that this account may read it; `eventlog rebuild-database` repairs a damaged one",
    )


def require_compatible(path: Path, found: str) -> None:
    """Raises ForeignHome or SchemaTooNew where `found` is a database that we may not write."""
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


def require_readable(path: Path, found: str) -> None:
    """Raises ForeignHome, SchemaTooNew or SchemaTooOld where `found` has not our schema."""
    require_compatible(path, found)
    if found == OLDER:
        raise _too_old_error(path)


def _too_old_error(path: Path) -> SchemaTooOld:
    return SchemaTooOld(
        "an older version of eventlog made this database",
        where=str(path),
        do="run `eventlog project sqlite --once` or `eventlog rebuild-database`: both build it anew"
        " from the log",
    )


def set_up(path: Path, *, check_pages: bool = True, replace_older: bool = True) -> str:
    """Makes sure that `path` holds a database of our schema. The caller holds the write lock.

    Returns what was found. A damaged or altered file is set aside. Tables of an older schema are
    dropped, and filled again from the log later; without `replace_older` they are left as they are.
    Raises ForeignHome, SchemaTooNew, SchemaTooOld.
    """
    found = inspect_database(path, check_pages=check_pages)
    (require_compatible if replace_older else require_readable)(path, found)
    if found == OLDER and not _replace_schema(path):
        found = DAMAGED
    if found in UNUSABLE:
        set_aside(path)
    if found in (MISSING, *UNUSABLE):
        _create_database(path)
    return found


def _replace_schema(path: Path) -> bool:
    """Replaces tables of an older schema by ours; False where SQLite cannot drop them."""
    try:
        with closing(connect(path)) as database:
            create_schema(database, replace=True)
            database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.DatabaseError as error:
        if is_transient(error):
            raise
        return False
    return True


def _create_database(path: Path) -> None:
    """Builds it in `run/`, so that no reader sees an incomplete schema."""
    new = make_run_directory(path.parent.parent) / f"{path.name}.new"
    remove_database(new)  # left by a process that was killed
    create_private_file(new)
    try:
        with closing(connect(new, is_shared=False)) as database:
            create_schema(database)
        place(new, path)
    except BaseException:
        with suppress(OSError):
            remove_database(new)
        raise


def create_schema(database: sqlite3.Connection, *, replace: bool = False) -> None:
    """Creates our tables, indexes and checkpoint in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if replace:
            drop_all(database)
        create_tables(database)
        for statement in schema.INDEXES:
            database.execute(statement)
        database.execute(schema.INSERT_CHECKPOINT, (schema.SQLITE, CHAIN_START))
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def create_tables(database: sqlite3.Connection) -> None:
    """Creates our tables, empty, and marks the file as ours."""
    for statement in schema.TABLES:
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
