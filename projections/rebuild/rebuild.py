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
from projections.rebuild.batches import Portion, portions
from projections.rebuild.loader import NewDatabase
from projections.rebuild.prefetch import Item, beside
from projections.rebuild.swap import Comparison, Difference
from projections.signals import schema
from projections.signals.digest import digest
from projections.sqlite import database, file
from projections.sqlite.database import DAMAGED, MISSING, OURS, database_path
from projections.sqlite.lock import write_lock
from projections.sqlite.scratch import workplace

T = TypeVar("T")
Progress = Callable[[int, int], object]  # bytes of the log done, and in all

OLD_COMPARED, OLD_MISSING, OLD_UNREADABLE = "compared", "missing", "unreadable"
_PAGE_BYTES_DEFAULT = 4096  # SQLite's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did. Rows are those of `signals`."""

    entries: int  # of the log
    rows: int
    conflicts: int
    seconds: float
    digest: str
    old: str  # whether there was an old table to compare with: OLD_COMPARED ...
    difference: Difference | None  # against the old table; None where it was unreadable
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
        said = {
            OLD_COMPARED: "the old table",
            OLD_MISSING: "none: there was no table",
            OLD_UNREADABLE: "none: the old table could not be read",
        }
        figures = self.to_json() | {
            "seconds": f"{self.seconds:.1f}",
            "rate": f"{self.rate:.0f} entries a second",
            "old": said[self.old],
        }
        names = {"old": "compared with", "kept": "damaged file"}
        return [
            f"{names.get(name, name):<14} {figure}"
            for name, figure in figures.items()
            if figure is not None
        ]


def rebuild(home: Path, *, progress: Progress | None = None) -> Rebuilt:
    """Builds the table anew from the whole log, verified, and swaps it in.

    Works beside readers, a daemon and other rebuilds. A damaged database is set aside. Raises
    LogNotFound, LogCorrupt, ForeignHome, SchemaTooNew and ProjectionError; the old table then
    stays as it was.
    """
    started_s = time.monotonic()
    path = database_path(home)
    total = log_bytes(home)
    try:
        database.refuse(path, database.examine(path, thoroughly=False))
        with workplace(home) as place, _no_gc():
            return _Rebuild(home, place / path.name).run(started_s, total, progress)
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(path, str(error.strerror)) from error


class _Rebuild:
    """One rebuild, by way of the file `new`."""

    def __init__(self, home: Path, new: Path) -> None:
        self._home = home
        self._path = database_path(home)
        self._new = new

    def run(self, started_s: float, total: int, progress: Progress | None) -> Rebuilt:
        """The whole of it."""
        start = Checkpoint(projection=schema.SQLITE)
        with beside(lambda: portions(self._home, start)) as items:
            new = NewDatabase(self._new, name=schema.SQLITE, page_bytes=_page_bytes(self._path))
            with closing(new):
                new.fill(_watched(items, total, progress))
                looking = _Aside(self._look)  # now that a core is idle
                new.make_indexes()
                inode, found = looking.result()
                new.catch_up(portions(self._home, new.checkpoint))
                with write_lock(self._home).held():
                    new.catch_up(portions(self._home, new.checkpoint))
                    new.close()
                    return self._swapped(new, self._now(inode, found), started_s)

    def _look(self) -> tuple[int, str]:
        inode = _inode(self._path)
        return inode, database.examine(self._path, thoroughly=True)

    def _now(self, inode: int, found: str) -> str:
        """What stands at the path now; `found` is what the thorough look found at `inode`."""
        now = database.examine(self._path, thoroughly=False)
        database.refuse(self._path, now)
        return found if (now, found) == (OURS, DAMAGED) and inode == _inode(self._path) else now

    def _swapped(self, new: NewDatabase, old: str, started_s: float) -> Rebuilt:
        """Under the lock: the new file in the place of what stands there."""
        digesting = _Aside(lambda: new.digest or _digest(self._new))
        rows, conflicts = _counts(self._new)
        difference = None
        kept = None
        if old not in (MISSING, DAMAGED):
            old, difference = self._overwritten(old)
        if old in (MISSING, DAMAGED):
            digesting.result()  # nobody may read the file when it changes its mode
            kept = str(file.set_aside(self._path)) if old == DAMAGED else None
            swap.put_in_place(self._path, self._new)
        if old == MISSING:
            difference = Difference(added=rows, removed=0, changed=0)
        unreadable = OLD_COMPARED if difference else OLD_UNREADABLE
        return Rebuilt(
            entries=new.entries,
            rows=rows,
            conflicts=conflicts,
            digest=digesting.result(),
            old=OLD_MISSING if old == MISSING else unreadable,
            difference=difference,
            kept=kept,
            seconds=time.monotonic() - started_s,
        )

    def _overwritten(self, old: str) -> tuple[str, Difference | None]:
        """Copies the new tables over the old ones; DAMAGED, where that cannot be done."""
        comparing = None
        with suppress(sqlite3.Error):
            comparing = _Aside(Comparison(self._path, self._new).run)
        try:
            swap.overwrite(self._path, self._new)
        except sqlite3.DatabaseError as error:
            if not file.is_damage(error):
                raise
            return DAMAGED, None
        finally:
            difference = comparing.result() if comparing else None
        with suppress(sqlite3.Error):
            swap.write_back(self._path)  # a later commit does it, where this cannot
        return old, difference


class _Aside(Generic[T]):
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
        found = database.examine(path, thoroughly=False)
        database.refuse(path, found)
        if found == MISSING:
            EventLog(home)  # a home of the old tracker is refused in its own words
            raise ProjectionError(
                "there is no table yet",
                where=str(path),
                do="run `eventlog project sqlite --once` or `eventlog rebuild-database`",
            )
        if found == DAMAGED:
            raise _unreadable("it is damaged", path)
        return file.look(path, lambda db: digest(db.execute(schema.SELECT_SIGNALS)))
    except sqlite3.Error as error:
        raise _unreadable(str(error), path) from error


def _watched(items: Iterable[Item], total: int, progress: Progress | None) -> Iterator[Portion]:
    """The portions, with the progress told."""
    segment = done = before = 0
    for item in items:
        portion = Portion._make(item)
        if progress is not None:
            if portion.segment != segment:
                before, segment = done, portion.segment
            done = before + portion.byte_offset
            progress(done, max(done, total))
        yield portion


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
        (size,) = file.look(path, lambda db: db.execute("PRAGMA page_size").fetchone())
    except (OSError, sqlite3.Error):
        return _PAGE_BYTES_DEFAULT
    return int(size)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


@contextmanager
def _no_gc() -> Iterator[None]:
    """The cyclic garbage collector looks at every row again and again, and finds no cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unreadable(problem: str, path: Path) -> ProjectionError:
    return ProjectionError(
        f"the table cannot be read: {problem}",
        where=str(path),
        do="see whether this account may read it; `eventlog rebuild-database` heals a damaged one",
    )


def _translated(error: sqlite3.Error, path: Path) -> ProjectionError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _full(path, str(error))
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


def _full(path: Path, problem: str) -> ProjectionError:
    return ProjectionError(
        f"no room for the new table: {problem}",
        where=os.fspath(path.parent),
        do="make room for three times the database: the new file, and its way through the WAL; the "
        "old table stays as it was",
    )
