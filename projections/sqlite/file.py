"""A SQLite file: connect, create, inspect, set aside.

Invariant: a file that is not ours is never written.
"""

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from eventlog.plumbing import free_name

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of SQLite's own locks; ours is taken first, so only foreign writers make us wait. Half of the time
# that a daemon has to end in.
BUSY_TIMEOUT_S = 5.0
JOURNAL_BYTES_MAX = 64 * 1024 * 1024  # the WAL is cut to this after a long reader let go of it

IMMUTABLE_QUERY = "mode=ro&immutable=1"  # takes no lock and makes no file: only while nobody writes

# A full disk, a file limit, a failed read or write, or a lock that somebody else holds.
_TRANSIENT_CODES = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM),
    }
)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken, not that it is busy or full."""
    code = getattr(error, "sqlite_errorcode", None)
    broken = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    # "no such table": ours by its header, but the schema is gone.
    return code is not None and (code & 0xFF in broken or "no such table" in str(error))


def is_transient(error: sqlite3.Error) -> bool:
    """Whether SQLite could not do it now, and may be able to later, with nothing changed."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRANSIENT_CODES


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
        database = _connect(path, IMMUTABLE_QUERY)
    return database


def read_database(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What `read` finds. Where nobody has the database open, nothing is made beside it."""
    before = file_identity(path)
    if not _wal_exists(path):
        # Nobody writes without a WAL; whether somebody came meanwhile is seen afterwards.
        try:
            with closing(_connect(path, IMMUTABLE_QUERY)) as database:
                found = read(database)
            if file_identity(path) == before:
                return found
        except sqlite3.Error:
            if file_identity(path) == before:
                raise
    with closing(connect(path, readonly=True)) as database:
        return read(database)


def file_identity(path: Path) -> tuple[int, ...]:
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


def remove_database(path: Path) -> None:
    """Removes a database, or what is left of one."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(name)


def create_private_file(path: Path) -> None:
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
    kept = path.with_name(free_name(f"{path.name}.damaged-{stamp}", os.listdir(path.parent)))
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
    logger.warning("database_damaged path=%s kept=%s", path, kept)
    return kept
