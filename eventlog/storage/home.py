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
    home = Home(os.path.abspath(os.fspath(path)))
    refuse_foreign(home)
    return home


def make_home(disk: Disk, home: Home) -> None:
    """Creates home, logs/ and data/ where missing, top down, each durable before the next."""
    for path in (home.root, home.log_dir, home.data_dir):
        if not disk.is_dir(path):
            make_durable_dir(disk, path)


def make_durable_dir(disk: Disk, path: str) -> None:
    """Creates a directory and its missing parents, durably. Raises UnsafePath, OSError."""
    parent = os.path.dirname(path)
    if not disk.is_dir(parent):
        make_durable_dir(disk, parent)
    try:
        disk.make_dir(path)
    except FileExistsError:
        if not disk.is_dir(path):
            raise UnsafePath(
                "a file is where a directory should be", where=path, do="use another home"
            ) from None
    disk.fsync_dir(parent)


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
    if is_foreign_database(home.database_path):
        raise _foreign_home_error(home.database_path)


def _foreign_home_error(path: str) -> ForeignHome:
    return ForeignHome(
        "this home belongs to the old tracker",
        where=path,
        do="choose a new home, and bring the old signals over with `eventlog import-legacy`",
    )


def is_foreign_database(path: str) -> bool:
    """Whether a readable SQLite database without our application_id is at `path`.

    A database that cannot be opened is damaged, not foreign. SQLite itself reads the file: opening
    and closing it directly would drop the locks that this process holds on it through SQLite.
    """
    try:
        if os.stat(path).st_size == 0:
            return False
    except OSError:
        return False
    import sqlite3  # only where there is a database: most appends need none
    from urllib.parse import quote

    # immutable: takes no lock and creates no -wal or -shm beside a file that may not be ours.
    try:
        database = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (application_id,) = database.execute("PRAGMA application_id").fetchone()
        finally:
            database.close()
    except sqlite3.Error:
        return False
    return bool(application_id != APPLICATION_ID)


def list_segments(disk: Disk, home: Home) -> list[int]:
    """First seqs of all segments, in order; empty when there is no log. Raises LogCorrupt."""
    try:
        return segment_seqs(disk.names(home.log_dir))
    except FileNotFoundError:
        return []
