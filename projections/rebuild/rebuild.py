"""`eventlog rebuild-database`: rebuilds the signals table from the log while readers go on.

    a second process        reads the log, verifies every chain and sha256, prepares rows
    this process            fills a new file in a scratch directory, then creates its indexes
    under the write lock    catches up with the log, compares, and swaps the new table in

Invariant: the live database is unchanged until the swap. Its checkpoint never moves back, unless
it belonged to another log.
"""

import errno
import gc
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog import EventLog
from eventlog.plumbing import count_text, log_bytes, printable_value, starting_thread
from projections.errors import ProjectionError
from projections.projection import Checkpoint
from projections.rebuild import swap
from projections.rebuild.batches import RebuildBatch, read_batches
from projections.rebuild.loader import NewDatabase
from projections.rebuild.prefetch import Item, prefetch
from projections.rebuild.swap import TableComparison, TableDifference
from projections.signals import schema
from projections.signals.digest import digest
from projections.sqlite import database, file
from projections.sqlite.database import (
    CURRENT,
    DAMAGED,
    MISSING,
    OLDER,
    UNUSABLE,
    database_path,
    foreign_objects,
    has_signals_table,
    missing_error,
    read_table,
    unreadable_error,
)
from projections.sqlite.file import inode_of
from projections.sqlite.lock import write_lock
from projections.sqlite.placement import place
from projections.sqlite.scratch import rebuild_directory

ProgressCallback = Callable[[int, int], object]  # bytes of the log done, and in all

OLD_COMPARED, OLD_MISSING, OLD_UNREADABLE = "compared", "missing", "unreadable"
THREADS_MAX = 2  # the swap compares the tables in one, and computes the digest in the other
_PAGE_BYTES_DEFAULT = 4096  # SQLite's own


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """The result of a rebuild. `rows` counts the rows of `signals`."""

    entries: int  # read from the log
    rows: int
    conflicts: int
    seconds: float
    digest: str
    old: str  # OLD_COMPARED, OLD_MISSING or OLD_UNREADABLE
    difference: TableDifference | None  # from the old table; None where it was unreadable
    kept: str | None  # the path to which a damaged or altered database was moved
    lost: tuple[str, ...]  # tables, views and indexes of other programs, which were not kept

    @property
    def rate(self) -> float:
        """Entries per second."""
        return self.entries / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """The object that `eventlog rebuild-database --json` prints."""
        found = self.difference
        return {
            "entries": self.entries,
            "rows": self.rows,
            "conflicts": self.conflicts,
            "seconds": round(self.seconds, 3),
            "rate": round(self.rate),
            "digest": self.digest,
            "old": self.old,
            "added": found.added if found else None,
            "removed": found.removed if found else None,
            "changed": found.changed if found else None,
            "kept": self.kept,
            "lost": self.lost,
        }

    def to_text(self) -> list[str]:
        """The lines that `eventlog rebuild-database` prints."""
        old_texts = {
            OLD_COMPARED: "the old table",
            OLD_MISSING: "none: there was no table",
            OLD_UNREADABLE: "none: the old table could not be read",
        }
        figures = self.to_json() | {
            "seconds": f"{self.seconds:.1f}",
            "rate": f"{count_text(round(self.rate), 'entry')} a second",
            "old": old_texts[self.old],
            "lost": ", ".join(map(printable_value, self.lost)) or None,
        }
        names = {"old": "compared with", "kept": "damaged file", "lost": "not kept"}
        return [
            f"{names.get(name, name):<14} {figure}"
            for name, figure in figures.items()
            if figure is not None
        ]


def rebuild(home: Path, *, progress: ProgressCallback | None = None) -> RebuildResult:
    """Rebuilds the table from the whole verified log, and swaps it in.

    Readers, a daemon and other rebuilds may run at the same time. A damaged or altered database is
    set aside. Raises LogNotFound, LogCorrupt, ForeignHome, SchemaTooNew and ProjectionError; the
    old table is then unchanged.
    """
    started_s = time.monotonic()
    path = database_path(home)
    total = log_bytes(home)
    try:
        database.require_compatible(path, database.inspect_database(path, check_pages=False))
        with (
            rebuild_directory(home) as directory,
            starting_thread(),
            ThreadPoolExecutor(THREADS_MAX) as executor,
            _gc_disabled(),
        ):
            run = _RebuildRun(home, directory / path.name, executor)
            return run.run(started_s, total, progress)
    except sqlite3.Error as error:
        raise _translate_error(error, path) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full_error(path, str(error.strerror)) from error


class _RebuildRun:
    """One rebuild, which fills the file `new`.

    Other work runs in `executor` meanwhile: SQLite releases the GIL.
    """

    def __init__(self, home: Path, new: Path, executor: Executor) -> None:
        self._home = home
        self._path = database_path(home)
        self._new = new
        self._executor = executor

    def run(self, started_s: float, total: int, progress: ProgressCallback | None) -> RebuildResult:
        """The whole of it."""
        start = Checkpoint(projection=schema.SQLITE)
        with prefetch(lambda: read_batches(self._home, start)) as items:
            new = NewDatabase(self._new, name=schema.SQLITE, page_bytes=_page_bytes(self._path))
            with closing(new):
                new.fill(_with_progress(items, total, progress))
                inspecting = self._executor.submit(self._inspect_live)  # a core is idle now
                new.make_indexes()
                inode, found = inspecting.result()
                new.catch_up(read_batches(self._home, new.checkpoint))
                with write_lock(self._home).held():
                    new.catch_up(read_batches(self._home, new.checkpoint))
                    counts = new.counts()
                    new.close()
                    old = self._current_state(inode, found)
                    return self._swap_in(new, counts, old, started_s)

    def _inspect_live(self) -> tuple[tuple[int, int], str]:
        inode = inode_of(self._path)
        return inode, database.inspect_database(self._path, check_pages=True)

    def _current_state(self, inode: tuple[int, int], found: str) -> str:
        """The state of the live database now; `found` came from checking all pages of `inode`."""
        current = database.inspect_database(self._path, check_pages=False)
        database.require_compatible(self._path, current)
        return (
            found
            if (current, found) == (CURRENT, DAMAGED) and inode == inode_of(self._path)
            else current
        )

    def _swap_in(
        self, new: NewDatabase, counts: tuple[int, int], old: str, started_s: float
    ) -> RebuildResult:
        """Replaces the live database, whose state is `old`, by the new file. Under the lock."""
        digesting = self._executor.submit(lambda: new.digest or _digest(self._new))
        rows, conflicts = counts
        difference = None
        kept = None
        lost: tuple[str, ...] = ()
        if old not in (MISSING, *UNUSABLE):
            with suppress(sqlite3.Error):
                lost = foreign_objects(self._path)
            old, difference = self._overwrite_live(old)
        if old in (MISSING, *UNUSABLE):
            digesting.result()  # the journal mode cannot change while another connection reads
            kept = str(file.set_aside(self._path)) if old in UNUSABLE else None
            lost = ()  # they are in the file that was set aside
            place(self._new, self._path)
        if old == MISSING:
            difference = TableDifference(added=rows, removed=0, changed=0)
        compared = OLD_COMPARED if difference else OLD_UNREADABLE
        return RebuildResult(
            entries=new.entries,
            rows=rows,
            conflicts=conflicts,
            digest=digesting.result(),
            old=OLD_MISSING if old == MISSING else compared,
            difference=difference,
            kept=kept,
            lost=lost,
            seconds=time.monotonic() - started_s,
        )

    def _overwrite_live(self, old: str) -> tuple[str, TableDifference | None]:
        """Copies the new tables over the old ones. Returns DAMAGED where that is impossible."""
        comparing = None
        # Only with a table of ours: a view in its place may never end.
        with suppress(sqlite3.Error):
            if old == CURRENT or (old == OLDER and has_signals_table(self._path)):
                comparing = self._executor.submit(TableComparison(self._path, self._new).run)
        try:
            swap.overwrite(self._path, self._new)
        except sqlite3.DatabaseError as error:
            if not file.is_damage(error):
                raise
            return DAMAGED, None
        finally:
            difference = comparing.result() if comparing else None
        with suppress(sqlite3.Error):
            swap.checkpoint_wal(self._path)  # where this fails, a later commit does it
        return old, difference


def digest_of(home: Path) -> str:
    """The digest of the live table. Raises ProjectionError, ForeignHome, SchemaTooNew."""
    path = database_path(home)
    try:
        found = database.inspect_database(path, check_pages=False)
        database.require_compatible(path, found)
        if found == MISSING:
            EventLog(home)  # raises ForeignHome for a home of the old tracker
            raise missing_error(path)
        if found == DAMAGED:
            raise unreadable_error(path, "it is damaged")
        return read_table(path, lambda db: digest(db.execute(schema.SELECT_SIGNALS)))
    except TypeError as error:  # JSON has no bytes, which another program wrote into a column
        raise unreadable_error(path, f"a row is none of ours: {error}") from error
    except sqlite3.Error as error:
        raise unreadable_error(path, error) from error


def _with_progress(
    items: Iterable[Item], total: int, progress: ProgressCallback | None
) -> Iterator[RebuildBatch]:
    """The batches that `items` hold, each reported to `progress`."""
    segment = done = before = 0
    for item in items:
        batch = RebuildBatch._make(item)
        if progress is not None:
            if batch.segment != segment:
                before, segment = done, batch.segment
            done = before + batch.byte_offset
            progress(done, max(done, total))
        yield batch


def _digest(path: Path) -> str:
    with closing(file.connect(path, readonly=True, is_shared=False)) as db:
        return digest(db.execute(schema.SELECT_SIGNALS))


def _page_bytes(path: Path) -> int:
    """Page size of the live database: a backup into another size fails."""
    try:
        (size,) = file.read_database(path, lambda db: db.execute("PRAGMA page_size").fetchone())
    except (OSError, sqlite3.Error):
        return _PAGE_BYTES_DEFAULT
    return int(size)


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disables the cyclic garbage collector, which would visit every row and find no cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _translate_error(error: sqlite3.Error, path: Path) -> ProjectionError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _disk_full_error(path, str(error))
    if code == sqlite3.SQLITE_IOERR:
        return ProjectionError(
            f"the disk reported an error: {error}",
            where=os.fspath(path.parent),
            do="check whether it is full or failing; the old table is unchanged",
        )
    return ProjectionError(
        f"the table could not be rebuilt: {error}",
        where=str(path),
        do="check whether another program locks the database, and whether this account may write "
        "there; the old table is unchanged",
    )


def _disk_full_error(path: Path, problem: str) -> ProjectionError:
    return ProjectionError(
        f"no room for the new table: {problem}",
        where=os.fspath(path.parent.parent),
        do="free the size of the database for the new file in run/, and twice that in data/ for "
        "the WAL through which it is copied; the old table is unchanged",
    )
