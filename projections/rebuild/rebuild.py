"""The SQLite table built anew from the log, and swapped in while readers and the daemon go on.

    a second process        reads the log, verifies every chain and sha256, prepares
    this one                fills a new file in a hidden directory, then makes its indexes
    under the write lock    catches up with the log, compares, and swaps the new table in

Invariant: until the swap nothing of the live database is changed, and its checkpoint never moves
back, unless it was of another log.
"""

import errno
import gc
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from eventlog import EventLog
from eventlog.plumbing import log_bytes
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
from projections.sqlite.database import CURRENT, DAMAGED, MISSING, database_path
from projections.sqlite.lock import write_lock
from projections.sqlite.scratch import rebuild_directory

T = TypeVar("T")
ProgressCallback = Callable[[int, int], object]  # bytes of the log done, and in all

OLD_COMPARED, OLD_MISSING, OLD_UNREADABLE = "compared", "missing", "unreadable"
_PAGE_BYTES_DEFAULT = 4096  # SQLite's own


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What a rebuild did. Rows are those of `signals`."""

    entries: int  # of the log
    rows: int
    conflicts: int
    seconds: float
    digest: str
    old: str  # whether there was an old table to compare with: OLD_COMPARED ...
    difference: TableDifference | None  # against the old table; None where it was unreadable
    kept: str | None  # where a damaged database was put

    @property
    def rate(self) -> float:
        """Entries in a second."""
        return self.entries / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """What `eventlog rebuild-database --json` prints."""
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
        }

    def to_text(self) -> list[str]:
        """The same for a person."""
        old_texts = {
            OLD_COMPARED: "the old table",
            OLD_MISSING: "none: there was no table",
            OLD_UNREADABLE: "none: the old table could not be read",
        }
        figures = self.to_json() | {
            "seconds": f"{self.seconds:.1f}",
            "rate": f"{self.rate:.0f} entries a second",
            "old": old_texts[self.old],
        }
        names = {"old": "compared with", "kept": "damaged file"}
        return [
            f"{names.get(name, name):<14} {figure}"
            for name, figure in figures.items()
            if figure is not None
        ]


def rebuild(home: Path, *, progress: ProgressCallback | None = None) -> RebuildResult:
    """Builds the table anew from the whole log, verified, and swaps it in.

    Works beside readers, a daemon and other rebuilds. A damaged database is set aside. Raises
    LogNotFound, LogCorrupt, ForeignHome, SchemaTooNew and ProjectionError; the old table then
    stays as it was.
    """
    started_s = time.monotonic()
    path = database_path(home)
    total = log_bytes(home)
    try:
        database.require_compatible(path, database.inspect_database(path, check_pages=False))
        with rebuild_directory(home) as directory, _gc_disabled():
            return _RebuildRun(home, directory / path.name).run(started_s, total, progress)
    except sqlite3.Error as error:
        raise _translate_error(error, path) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full_error(path, str(error.strerror)) from error


class _RebuildRun:
    """One rebuild, by way of the file `new`."""

    def __init__(self, home: Path, new: Path) -> None:
        self._home = home
        self._path = database_path(home)
        self._new = new

    def run(self, started_s: float, total: int, progress: ProgressCallback | None) -> RebuildResult:
        """The whole of it."""
        start = Checkpoint(projection=schema.SQLITE)
        with prefetch(lambda: read_batches(self._home, start)) as items:
            new = NewDatabase(self._new, name=schema.SQLITE, page_bytes=_page_bytes(self._path))
            with closing(new):
                new.fill(_with_progress(items, total, progress))
                inspecting = _ThreadTask(self._inspect_live)  # now that a core is idle
                new.make_indexes()
                inode, found = inspecting.result()
                new.catch_up(read_batches(self._home, new.checkpoint))
                with write_lock(self._home).held():
                    new.catch_up(read_batches(self._home, new.checkpoint))
                    new.close()
                    return self._swap_in(new, self._current_state(inode, found), started_s)

    def _inspect_live(self) -> tuple[int, str]:
        inode = _inode(self._path)
        return inode, database.inspect_database(self._path, check_pages=True)

    def _current_state(self, inode: int, found: str) -> str:
        """What stands at the path now; `found` is what the thorough look found at `inode`."""
        current = database.inspect_database(self._path, check_pages=False)
        database.require_compatible(self._path, current)
        return (
            found
            if (current, found) == (CURRENT, DAMAGED) and inode == _inode(self._path)
            else current
        )

    def _swap_in(self, new: NewDatabase, old: str, started_s: float) -> RebuildResult:
        """Under the lock: the new file in the place of what stands there."""
        digesting = _ThreadTask(lambda: new.digest or _digest(self._new))
        rows, conflicts = _counts(self._new)
        difference = None
        kept = None
        if old not in (MISSING, DAMAGED):
            old, difference = self._overwrite_live(old)
        if old in (MISSING, DAMAGED):
            digesting.result()  # nobody may read the file when it changes its mode
            kept = str(file.set_aside(self._path)) if old == DAMAGED else None
            swap.move_into_place(self._path, self._new)
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
            seconds=time.monotonic() - started_s,
        )

    def _overwrite_live(self, old: str) -> tuple[str, TableDifference | None]:
        """Copies the new tables over the old ones; DAMAGED, where that cannot be done."""
        comparing = None
        with suppress(sqlite3.Error):
            comparing = _ThreadTask(TableComparison(self._path, self._new).run)
        try:
            swap.overwrite(self._path, self._new)
        except sqlite3.DatabaseError as error:
            if not file.is_damage(error):
                raise
            return DAMAGED, None
        finally:
            difference = comparing.result() if comparing else None
        with suppress(sqlite3.Error):
            swap.checkpoint_wal(self._path)  # a later commit does it, where this cannot
        return old, difference


class _ThreadTask(Generic[T]):
    """Work in a thread beside the one that waits for its result. SQLite does not hold the GIL."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Waits for it. Raises what the work raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is wanted
            self._error = error


def digest_of(home: Path) -> str:
    """The digest of the live table. Raises ProjectionError where there is none, ForeignHome."""
    path = database_path(home)
    try:
        found = database.inspect_database(path, check_pages=False)
        database.require_compatible(path, found)
        if found == MISSING:
            EventLog(home)  # a home of the old tracker is refused in its own words
            raise ProjectionError(
                "there is no table yet",
                where=str(path),
                do="run `eventlog project sqlite --once` or `eventlog rebuild-database`",
            )
        if found == DAMAGED:
            raise _unreadable_error("it is damaged", path)
        return file.read_database(path, lambda db: digest(db.execute(schema.SELECT_SIGNALS)))
    except sqlite3.Error as error:
        raise _unreadable_error(str(error), path) from error


def _with_progress(
    items: Iterable[Item], total: int, progress: ProgressCallback | None
) -> Iterator[RebuildBatch]:
    """The portions, with the progress told."""
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
    with closing(file.connect(path, readonly=True)) as db:
        return digest(db.execute(schema.SELECT_SIGNALS))


def _counts(path: Path) -> tuple[int, int]:
    with closing(file.connect(path, readonly=True)) as db:
        (rows,) = db.execute("SELECT count(*) FROM signals").fetchone()
        (conflicts,) = db.execute("SELECT count(*) FROM conflicts").fetchone()
        return rows, conflicts


def _page_bytes(path: Path) -> int:
    """Page size of the live database: a backup into another size fails."""
    try:
        (size,) = file.read_database(path, lambda db: db.execute("PRAGMA page_size").fetchone())
    except (OSError, sqlite3.Error):
        return _PAGE_BYTES_DEFAULT
    return int(size)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """The cyclic garbage collector looks at every row again and again, and finds no cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unreadable_error(problem: str, path: Path) -> ProjectionError:
    return ProjectionError(
        f"the table cannot be read: {problem}",
        where=str(path),
        do="see whether this account may read it; `eventlog rebuild-database` heals a damaged one",
    )


def _translate_error(error: sqlite3.Error, path: Path) -> ProjectionError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _disk_full_error(path, str(error))
    if code == sqlite3.SQLITE_IOERR:
        return ProjectionError(
            f"the disk refused: {error}",
            where=os.fspath(path.parent),
            do="see whether it is full or failing; the old table stays as it was",
        )
    return ProjectionError(
        f"the table could not be rebuilt: {error}",
        where=str(path),
        do="see whether another program holds the database, and whether this account may write "
        "there; the old table stays as it was",
    )


def _disk_full_error(path: Path, problem: str) -> ProjectionError:
    return ProjectionError(
        f"no room for the new table: {problem}",
        where=os.fspath(path.parent),
        do="make room for three times the database: the new file, and its way through the WAL; the "
        "old table stays as it was",
    )
