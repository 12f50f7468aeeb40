"""Home: the paths of a log and its data, their creation, and the check of ownership.

Invariant: a home of the old tracker is never changed.
"""

import os
import stat
from dataclasses import dataclass

from eventlog.errors import ForeignHome, LogNotFound, UnsafePath
from eventlog.format.segment import segment_name, segment_seqs
from eventlog.storage.disk import Disk

APPLICATION_ID = 0x53474C47  # "SGLG": marks a SQLite database as ours (PRAGMA application_id)
# SQLite takes paths of 512 bytes, a suffix such as -journal included, after it has followed links.
# A rebuild makes databases one directory deeper, with up to 48 bytes below `run/`.
DATA_DIR_BYTES_MAX = 512 - 8 - 48


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one home. `root` is absolute."""

    root: str

    @property
    def log_dir(self) -> str:
        return f"{self.root}/logs"

    @property
    def data_dir(self) -> str:
        return f"{self.root}/data"

    @property
    def run_dir(self) -> str:
        return f"{self.root}/run"

    @property
    def lock_path(self) -> str:
        return f"{self.root}/logs/.lock"

    @property
    def durable_path(self) -> str:
        return f"{self.root}/logs/.durable"

    @property
    def link_path(self) -> str:
        return f"{self.root}/logs/signals.log"

    @property
    def database_path(self) -> str:
        return f"{self.root}/data/signals.db"

    def segment_path(self, first_seq: int) -> str:
        return f"{self.root}/logs/{segment_name(first_seq)}"


def home_at(path: str | os.PathLike[str]) -> Home:
    """The home at `path`, which need not exist. Raises ForeignHome and UnsafePath."""
    home = Home(os.path.abspath(resolved_home(path)))
    _refuse_long_path(home)
    refuse_foreign(home)
    return home


def resolved_home(path: str | os.PathLike[str]) -> str:
    """The path with `..` resolved as the kernel does: behind a link it leads to another parent."""
    path = os.fspath(path)
    return os.path.realpath(path) if os.pardir in path.split(os.sep) else path


def _refuse_long_path(home: Home) -> None:
    for path in (home.data_dir, home.run_dir):
        length = len(os.fsencode(os.path.realpath(path)))
        if length > DATA_DIR_BYTES_MAX:
            raise UnsafePath(
                f"the path of {os.path.basename(path)}/ has {length} bytes, and SQLite cannot use"
                f" more than {DATA_DIR_BYTES_MAX}",
                where=path,
                do="use a home with a shorter path, for example by a bind mount",
            )


def make_home(disk: Disk, home: Home) -> bool:
    """Creates home, logs/ and data/ where missing, top down, each durable before the next.

    Returns whether it created logs/.
    """
    created = [
        path
        for path in (home.root, home.log_dir, home.data_dir)
        if not disk.is_dir(path) and make_durable_dir(disk, path)
    ]
    return home.log_dir in created


def make_durable_dir(disk: Disk, path: str) -> bool:
    """Creates a directory and its missing parents, durably. Raises UnsafePath, OSError.

    Returns whether it was this call that created it.
    """
    parent = os.path.dirname(path)
    if not disk.is_dir(parent):
        make_durable_dir(disk, parent)
    is_new = True
    try:
        disk.make_dir(path)
    except FileExistsError:
        is_new = False
        if not disk.is_dir(path):
            raise UnsafePath(
                "a file is where a directory should be", where=path, do="use another home"
            ) from None
    disk.fsync_dir(parent)
    return is_new


def log_not_found(home: Home) -> LogNotFound:
    """The error for a command that needs a log where there is none."""
    return LogNotFound(
        "there is no log at this home",
        where=home.root,
        do="name the right home with --home or EVENTLOG_HOME, or append a signal first",
    )


def refuse_foreign(home: Home) -> None:
    """Raises ForeignHome for a home of the old tracker, UnsafePath where it is no directory."""
    try:
        if stat.S_ISREG(os.lstat(home.link_path).st_mode):
            raise _foreign_home_error(home.link_path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise UnsafePath(
            "the home is not a directory", where=home.root, do="name a directory with --home"
        ) from None
    try:
        is_foreign = is_foreign_database(home.database_path)
    except UnsafePath:
        if os.path.islink(home.link_path):
            return  # our log stands here, and this account need not read the database
        raise
    if is_foreign:
        raise _foreign_home_error(home.database_path)


def _foreign_home_error(path: str) -> ForeignHome:
    return ForeignHome(
        "this home belongs to the old tracker",
        where=path,
        do="choose a new home, and bring the old signals over with `eventlog import-legacy`",
    )


def is_foreign_database(path: str) -> bool:
    """Whether a SQLite database without our application_id is at `path`.

    A damaged database is not foreign. SQLite itself reads the file: opening and closing it directly
    would drop the locks that this process holds on it through SQLite. Raises UnsafePath where the
    file cannot be examined: it may be the old tracker's.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unexamined_error(path, error) from error
    if status.st_size == 0 or not stat.S_ISREG(status.st_mode):
        return False
    import sqlite3  # only where there is a database: most appends need none

    # immutable: takes no lock and creates no -wal or -shm beside a file that may not be ours.
    try:
        database = sqlite3.connect(database_uri(path, "mode=ro&immutable=1"), uri=True)
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (application_id,) = database.execute("PRAGMA application_id").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return False
        raise _unexamined_error(path, error) from error
    return bool(application_id != APPLICATION_ID)


def _unexamined_error(path: str, error: Exception) -> UnsafePath:
    return UnsafePath(
        f"the database cannot be examined, and may be the old tracker's: {error}",
        where=path,
        do="let this account read it, or move it away",
    )


def database_uri(path: str | os.PathLike[str], query: str) -> str:
    """The URI that opens the database at `path`, any bytes, with SQLite's URI parameters `query`.

    The authority is empty: otherwise the first name of `//tmp/home` would be taken for a host.
    """
    from urllib.parse import quote

    return f"file://{quote(os.fsencode(os.path.abspath(path)))}?{query}"


def list_segments(disk: Disk, home: Home) -> list[int]:
    """First seqs of all segments, in order; empty when there is no log. Raises LogCorrupt."""
    try:
        return segment_seqs(disk.names(home.log_dir))
    except FileNotFoundError:
        return []
