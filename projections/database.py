"""The file of the SQLite projection: whose it is, how it is set up, and who may write it.

`data/signals.db.lock` is held around each transaction that writes, with its WAL checkpoint, and
by a rebuild while it swaps; so there is one writing and checkpointing connection at a time.

Invariant: a database that is not ours is never written, and a damaged one is kept aside.
"""

import fcntl
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from eventlog import ForeignHome, UnsafePath
from projections import schema
from projections.errors import SchemaTooNew
from projections.projection import CHAIN_START

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of SQLite's own locks; ours is taken first, so only foreign writers make us wait. Half of the time
# that a daemon has to end in.
BUSY_TIMEOUT_S = 5.0
JOURNAL_BYTES_MAX = 64 * 1024 * 1024  # the WAL is cut to this after a long reader let go of it
LOCK_POLL_S_MIN, LOCK_POLL_S_MAX = 0.0005, 0.01

IMMUTABLE = "mode=ro&immutable=1"  # takes no lock and makes no file: only while nobody writes
MISSING, OURS, FOREIGN, DAMAGED = "missing", "ours", "foreign", "damaged"
OLDER, NEWER = "older", "newer"  # ours, of another schema
# A full disk, a file limit, a failed read or write, or a lock that somebody else holds.
_PASSING = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM),
    }
)
_OUR_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def database_path(home: Path) -> Path:
    """`data/signals.db` of a home."""
    return home / "data" / "signals.db"


def examine(path: Path, *, thoroughly: bool) -> str:
    """What stands at `path`: one of the six words above. Changes nothing.

    `thoroughly` looks at every page for damage, which takes a second a gigabyte or so.
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
        return look(path, lambda database: _judge(database, thoroughly))
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return DAMAGED
        raise


def _judge(database: sqlite3.Connection, thoroughly: bool) -> str:
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application_id != schema.APPLICATION_ID:
        return FOREIGN
    if version != schema.SCHEMA_VERSION:
        return NEWER if version > schema.SCHEMA_VERSION else OLDER
    if thoroughly:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            return DAMAGED
    # Our tables are all there, or SQLite says that there is no such one, and so is the checkpoint.
    for name in ("signals", "signal_extras", "lifecycle", "conflicts"):
        database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
    checkpoint = database.execute(schema.READ_CHECKPOINT, (schema.SQLITE,)).fetchone()
    return OURS if checkpoint is not None else DAMAGED


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken, not that it is busy or full."""
    code = getattr(error, "sqlite_errorcode", None)
    broken = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    # "no such table": ours by its header, but the schema is gone.
    return code is not None and (code & 0xFF in broken or "no such table" in str(error))


def may_pass(error: sqlite3.Error) -> bool:
    """Whether SQLite could not do it now, and may be able to later, with nothing changed."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """A plain connection, for reads and for bulk work in a thread or process of its own."""
    if not readonly:
        return _connect(path, "mode=rw")
    database = _connect(path, "mode=ro")
    try:
        database.execute("PRAGMA query_only = ON")
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        database.close()
        if not isinstance(error, sqlite3.OperationalError) or _wal_exists(path):
            raise
        # Nobody writes, and this account may not make the -shm file that WAL needs: read the file.
        database = _connect(path, IMMUTABLE)
    return database


def look(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What `read` finds. Where nobody has the database open, nothing is made beside it."""
    before = identity(path)
    if not _wal_exists(path):
        # Nobody writes without a WAL; whether somebody came meanwhile is seen afterwards.
        try:
            with closing(_connect(path, IMMUTABLE)) as database:
                found = read(database)
            if identity(path) == before:
                return found
        except sqlite3.Error:
            if identity(path) == before:
                raise
    with closing(connect(path, readonly=True)) as database:
        return read(database)


def identity(path: Path) -> tuple[int, ...]:
    """Changes when another file stands at `path`, and when a connection that took no locks, since
    nobody was writing, can no longer be trusted. Raises FileNotFoundError.
    """
    status = path.stat()
    if _wal_exists(path):
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _wal_exists(path: Path) -> bool:
    return os.path.exists(f"{path}-wal")


def _connect(path: Path, query: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?{query}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )


def refuse(path: Path, found: str) -> None:
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


def set_up(path: Path, *, thoroughly: bool = True) -> str:
    """Brings a database of our schema to `path`, whatever of ours stood there. Under the lock.

    Returns what was found. A damaged file is set aside; tables of an older schema are dropped, to
    be filled again from the log. Raises ForeignHome, SchemaTooNew.
    """
    found = examine(path, thoroughly=thoroughly)
    refuse(path, found)
    if found == OLDER and not _renew(path):
        found = DAMAGED
    if found == DAMAGED:
        set_aside(path)
    if found in (MISSING, DAMAGED):
        _make_database(path)
    return found


def _renew(path: Path) -> bool:
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


def _make_database(path: Path) -> None:
    """Makes it under another name, so that nobody ever sees half a schema."""
    new = path.with_name(f"{path.name}.new")
    remove_with_wal(new)  # whoever began it was killed
    make_file(new)
    with closing(connect(new)) as database:
        create_schema(database)
        database.execute("PRAGMA journal_mode = WAL")
    # Where a database was deleted alone, SQLite would take its WAL for that of the new one.
    remove_with_wal(path)
    new.rename(path)


def remove_with_wal(path: Path) -> None:
    """Removes a database, or what is left of one."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(name)


def create_schema(database: sqlite3.Connection, *, replace: bool = False) -> None:
    """Makes our tables and indexes, in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if replace:
            for (name,) in database.execute(_OUR_TABLES).fetchall():
                database.execute(f'DROP TABLE "{name}"')
        for statement in (*schema.TABLES, *schema.INDEXES):
            database.execute(statement)
        database.execute(schema.FIRST_CHECKPOINT, (schema.SQLITE, CHAIN_START))
        database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def make_file(path: Path) -> None:
    """An empty file with our mode, which SQLite then gives to -wal and -shm too.

    0600; 0640 where the operator opened the data directory to a group.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = 0o640 if path.parent.stat().st_mode & stat.S_IRWXG else 0o600
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    os.fchmod(fd, mode)
    os.close(fd)


def set_aside(path: Path) -> Path:
    """Moves a damaged database, with its -wal and -shm, to a name of its own beside it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 0
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{stamp}.{number}")
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
    logger.warning("database_damaged path=%s kept=%s", path, kept)
    return kept


class WriteLock:
    """`data/signals.db.lock`, by flock: among threads, tasks and processes alike."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    async def __aenter__(self) -> None:
        import asyncio  # not at the top: `eventlog status` must not wait for it

        poll_s = LOCK_POLL_S_MIN
        while True:
            with suppress(BlockingIOError):
                if (fd := open_locked(self._path, fcntl.LOCK_NB)) is not None:
                    self._fd = fd
                    return
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LOCK_POLL_S_MAX)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The same for code that has no event loop."""
        while (fd := open_locked(self._path)) is None:
            pass
        try:
            yield
        finally:
            os.close(fd)


def open_locked(path: Path, flags: int = 0) -> int | None:
    """The descriptor of a lock file that we hold; None where it was replaced or deleted meanwhile.

    Waits for who holds it; with fcntl.LOCK_NB it raises BlockingIOError instead.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | flags)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd)):
                return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def write_lock(home: Path) -> WriteLock:
    """The lock that whoever writes the database of this home must hold."""
    return WriteLock(home / "data" / "signals.db.lock")
