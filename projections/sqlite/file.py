"""A SQLite file: connecting, reading, creating, removing, setting aside when it is damaged.

Invariant: a read creates no file beside a database that no process has open.
"""

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from eventlog import UnsafePath
from eventlog.plumbing import adopt_owner, database_uri, free_name, make_private_dir
from projections.sqlite.index_space import IndexSpaceMissing, index_bytes, reserve_index

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long to wait for SQLite's own locks. Our lock is taken first, so only foreign writers make us
# wait. Half of the time in which a daemon must stop.
BUSY_TIMEOUT_S = 5.0
ALONE_TIMEOUT_S = 1.0  # the same, to read as the only connection: a process that writes holds on
JOURNAL_BYTES_MAX = 64 * 1024 * 1024  # the WAL shrinks to this once a long reader has ended

IMMUTABLE_QUERY = "mode=ro&immutable=1"  # takes no lock, creates no file; only without a writer
_PAGE_BYTES = 4096  # of our databases
# No -shm can be created or extended; on a full disk SQLite gives one of these.
_INDEX_CODES = frozenset(
    {
        *(sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL),
    }
)
_SUFFIXES = ("-wal", "-shm", "-journal")
NO_FILE = (0, 0)  # the inode of a path without a file

# A full disk, a file limit, a failed read or write, or a lock that another process holds.
_TRANSIENT_CODES = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM),
    }
)


class DamagedDatabase(sqlite3.DatabaseError):
    """The database holds what we never write, though SQLite can read it."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged, not busy or full."""
    if isinstance(error, DamagedDatabase) or "Could not decode to UTF-8" in str(error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    broken = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    # "no such table": the header is ours, but the schema is gone.
    return code is not None and (code & 0xFF in broken or "no such table" in str(error))


def is_transient(error: sqlite3.Error) -> bool:
    """Whether the same statement may succeed later: the disk is full, or the file is locked."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRANSIENT_CODES


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds a lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def connect(
    path: Path,
    *,
    readonly: bool = False,
    is_shared: bool = True,
    wal_bytes_max: int = JOURNAL_BYTES_MAX,
    timeout_s: float = BUSY_TIMEOUT_S,
) -> sqlite3.Connection:
    """Opens a connection without an event loop. `readonly` also works where we may not write.

    `is_shared` is False for a new file that no other process opens: it needs no -shm.
    `wal_bytes_max` is the size up to which the WAL may grow. `timeout_s` is how long a statement
    waits for a lock that another process holds.
    """
    if not readonly:
        database = open_file(
            path,
            "mode=rw",
            timeout_s=timeout_s,
            wal_bytes_max=wal_bytes_max if is_shared else 0,
        )
        if not is_shared:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        return database
    database = open_file(
        path, "mode=ro", timeout_s=timeout_s, wal_bytes_max=wal_bytes_max if is_shared else 0
    )
    try:
        database.execute("PRAGMA query_only = ON")
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        database.close()
        if not isinstance(error, sqlite3.OperationalError) or _wal_exists(path):
            raise
        # No process writes, and this account may not create the -shm file that WAL mode needs.
        database = open_file(path, IMMUTABLE_QUERY)
    return database


def read_database(
    path: Path, read: Callable[[sqlite3.Connection], T], *, timeout_s: float = BUSY_TIMEOUT_S
) -> T:
    """Returns `read(connection)`. Creates no file where no process has the database open.

    `read` may be called again. Raises FileNotFoundError, sqlite3.Error, UnsafePath.
    """
    before = file_identity(path)
    if not _wal_exists(path):
        # Without a WAL there is no writer; a writer that started meanwhile changes the identity.
        try:
            with closing(open_file(path, IMMUTABLE_QUERY)) as database:
                found = read(database)
            if file_identity(path) == before:
                return found
        except sqlite3.Error:
            if file_identity(path) == before:
                raise
    try:
        with closing(connect(path, readonly=True, timeout_s=timeout_s)) as database:
            return read(database)
    except sqlite3.Error as error:
        if not lacks_index(error):
            raise
        try:
            with closing(_connect_alone(path)) as database:
                return read(database)
        except sqlite3.OperationalError:
            raise error from None


def lacks_index(error: sqlite3.Error) -> bool:
    """Whether the WAL cannot be read since -shm cannot be created: the disk may be full."""
    return isinstance(error, IndexSpaceMissing) or (
        getattr(error, "sqlite_errorcode", 0) in _INDEX_CODES
    )


def _connect_alone(path: Path) -> sqlite3.Connection:
    """A connection that reads while no other is open, with the index of the WAL in memory.

    It needs the right to write the file, for the lock. Raises sqlite3.Error.
    """
    database = open_file(path, "mode=rw", timeout_s=ALONE_TIMEOUT_S)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA query_only = ON")
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        database.close()
        raise
    return database


def file_identity(path: Path) -> tuple[int, ...]:
    """Identifies the file at `path`; while it has no WAL, its content too.

    A connection that took no locks can be trusted while this stays equal. Raises FileNotFoundError,
    UnsafePath.
    """
    require_regular(path)
    status = path.lstat()
    if _wal_exists(path):
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def inode_of(path: str | Path) -> tuple[int, int]:
    """Device and inode of the file at `path`; NO_FILE where there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return NO_FILE
    return (status.st_dev, status.st_ino)


def _wal_exists(path: Path) -> bool:
    return os.path.exists(f"{path}-wal")


class _Connection(sqlite3.Connection):
    """A connection that keeps the space of its -shm reserved until it is closed."""

    release: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        release, self.release = self.release, None
        if release is not None:
            release()


def open_file(
    path: Path, query: str, *, timeout_s: float = BUSY_TIMEOUT_S, wal_bytes_max: int = 0
) -> sqlite3.Connection:
    """Opens a connection to the file at `path` itself, never to one that a link leads to.

    With `wal_bytes_max`, the index of a WAL of this size has its space. Raises sqlite3.Error,
    UnsafePath.
    """
    require_regular(path)  # before SQLite opens it: a FIFO would block the thread for ever
    release = _reserve_index(path, wal_bytes_max) if wal_bytes_max else None
    try:
        database = sqlite3.connect(
            database_uri(path, query),
            uri=True,
            isolation_level=None,
            timeout=timeout_s,
            check_same_thread=False,
            factory=_Connection,
        )
    except BaseException:
        if release is not None:
            release()
        raise
    database.release = release
    try:
        if not _is_open_at(database, path):
            raise unsafe_path_error(path)
        _refuse_journal(path)  # SQLite reads it with the first statement that reads the file
    except BaseException:
        database.close()
        raise
    return database


def _reserve_index(path: Path, wal_bytes_max: int) -> Callable[[], None] | None:
    with suppress(FileNotFoundError):
        wal_bytes_max = max(wal_bytes_max, os.stat(f"{path}-wal").st_size)
    return reserve_index(path, index_bytes(wal_bytes_max // _PAGE_BYTES))


def require_regular(path: Path) -> None:
    """Raises UnsafePath where something other than a regular file is at `path`, or beside it.

    So does a rollback journal of another account: SQLite would play it back, and remove the file
    that it names.
    """
    for beside in (path, *(path.with_name(f"{path.name}{suffix}") for suffix in _SUFFIXES)):
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(beside.lstat().st_mode):
                raise unsafe_path_error(beside)
    _refuse_journal(path)


def _refuse_journal(path: Path) -> None:
    journal = path.with_name(f"{path.name}-journal")
    with suppress(FileNotFoundError):
        owner = journal.lstat().st_uid
        if owner not in (os.geteuid(), path.parent.stat().st_uid):
            raise UnsafePath(
                "another account has put a rollback journal beside the database",
                where=str(journal),
                do="find out which program made it, and move it away",
            )


def unsafe_path_error(path: Path) -> UnsafePath:
    """The error for a link, FIFO or directory where a database should be."""
    return UnsafePath(
        "a file of the database is not a regular file", where=str(path), do="move it away"
    )


def _is_open_at(database: sqlite3.Connection, path: Path) -> bool:
    """Whether SQLite opened the file named `path`: it follows a link that was put there since."""
    text_factory, database.text_factory = database.text_factory, bytes
    (_, _, opened) = database.execute("PRAGMA database_list").fetchone()
    database.text_factory = text_factory
    wanted = os.fsencode(os.path.abspath(path))
    if opened == wanted:
        return True
    # SQLite resolves links in the path of the directory, which the user may have put there.
    folder, name = os.path.split(wanted)
    return bool(opened == os.path.join(os.path.realpath(folder), name))


def remove_database(path: Path) -> None:
    """Removes a database with its -wal and -shm, as far as they exist."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(name)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """A write transaction around a block: committed at its end, rolled back on any error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def create_private_file(path: Path) -> None:
    """Creates an empty file of mode 0600, or 0640 where a group may use the data directory.

    SQLite gives -wal and -shm the same mode. The directory is created where it is missing, but none
    above it: a home that was moved stays away. Raises FileExistsError, FileNotFoundError.
    """
    with suppress(FileExistsError):
        make_private_dir(path.parent)
    mode = file_mode_in(path.parent.stat())
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        adopt_owner(fd, path)
    finally:
        os.close(fd)


def file_mode_in(directory: os.stat_result) -> int:
    """The mode of a database in a directory: a group that may use the directory may read it."""
    return 0o640 if directory.st_mode & stat.S_IRWXG else 0o600


def set_aside(path: Path) -> Path:
    """Renames a damaged database, with its -wal and -shm, to a free name; returns that name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(free_name(f"{path.name}.damaged-{stamp}", os.listdir(path.parent)))
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
    logger.warning("database_damaged path=%s kept=%s", path, kept)
    return kept
