"""The SQLite projection: rows and checkpoint change together or not at all.

Invariant: checkpoint.seq is the seq of the last entry whose effect was committed with it.
"""

import asyncio
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import aiosqlite

from eventlog import Entry
from eventlog.plumbing import run_in_thread, uncancelled
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint
from projections.signals import schema
from projections.signals.fold import (
    PreparedBatch,
    ids_json,
    prepare,
    resolve,
    signal_ids,
    statements,
    states_of,
)
from projections.sqlite import database, file
from projections.sqlite.database import database_path
from projections.sqlite.lock import write_lock

NAME = schema.SQLITE
REBUILD_HINT = "run `eventlog rebuild-database`"
STALL_HINT = (
    "see whether the disk is full, whether another program holds the database, and whether this "
    "account may write there; a daemon goes on by itself once it can"
)
CLOSE_S_MAX = 1.0  # a daemon that ends does not wait for a lock that somebody hangs on to
WAL_SUFFIXES = ("-wal", "-shm")
NO_INODE = (0, 0)

# The fence: another daemon, a rebuild or a newer schema was here when no row changes.
ADVANCE_CHECKPOINT = """UPDATE checkpoint SET seq = ?, chain = ?, segment = ?, byte_offset = ?
    WHERE name = ? AND seq = ? AND chain = ?
    AND (SELECT user_version FROM pragma_user_version) = ?"""


class SqliteProjection:
    """Keeps `data/signals.db` of a home. One writing connection; safe beside others like it."""

    name = NAME

    def __init__(self) -> None:
        self._home = Path()
        self._db: aiosqlite.Connection | None = None
        self._inode = NO_INODE
        self._wal_inodes: tuple[tuple[int, int], ...] = ()
        self._pid = 0
        self._are_pages_checked = False

    async def open(self, home: Path) -> Checkpoint:
        """Sets the database up where that is needed. Raises ForeignHome, SchemaTooNew.

        The first time, and after damage, every page is looked at: a damaged file is set aside.
        """
        self._home = home
        path = database_path(home)
        async with write_lock(home):
            try:
                # In a thread, and never left alone there: it needs the lock to its end.
                check_pages = not self._are_pages_checked
                setup = run_in_thread(lambda: database.set_up(path, check_pages=check_pages))
                await uncancelled(setup)
                self._are_pages_checked = True
                self._db = await _connect(path)
                self._pid = os.getpid()
                self._inode = _inode(path)
                self._wal_inodes = _wal_inodes(path)
                return await self._checkpoint()
            except BaseException as error:
                db, self._db = self._db, None
                if db is not None:
                    await db.close()
                if isinstance(error, sqlite3.Error):
                    raise self._translate_error(error) from error
                raise

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        """The rows of a batch and its checkpoint, in one transaction.

        Cancelling does not interrupt it: the statement under way would go on in its thread, and
        the next batch would commit our half.
        """
        prepared = prepare(entries, after=before.seq)
        async with write_lock(self._home):
            await uncancelled(self._apply(prepared, before, after))

    async def status(self) -> Mapping[str, object]:
        """Figures of the table; projections.monitoring.status has them without a daemon."""
        rows = await self._require_db().execute_fetchall("SELECT count(*) FROM signals")
        return {"rows": next(iter(rows))[0]}

    async def close(self) -> None:
        """Closes the connection; the last one of all writes the WAL back."""
        db, self._db = self._db, None
        if db is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S_MAX), write_lock(self._home):
                await db.close()
        except TimeoutError:
            pass  # who holds the lock has the database open: closing ours does not touch the WAL
        finally:
            await db.close()

    async def _apply(self, prepared: PreparedBatch, before: Checkpoint, after: Checkpoint) -> None:
        db = self._require_db()
        self._check_file()
        try:
            await db.execute("BEGIN IMMEDIATE")
            # First, for where somebody else has been, the rows are there, and would not go in.
            await self._advance_checkpoint(db, before, after)
            found = await db.execute_fetchall(
                schema.SELECT_STATES, (ids_json(signal_ids(prepared)),)
            )
            changes = resolve(prepared, states_of([tuple(row) for row in found]))
            for statement, rows in statements(changes):
                await db.executemany(statement, rows)
            await db.execute("COMMIT")
        except BaseException as error:
            await self._roll_back(db)
            if isinstance(error, sqlite3.Error):
                raise self._translate_error(error) from error
            raise

    async def _advance_checkpoint(
        self, db: aiosqlite.Connection, before: Checkpoint, after: Checkpoint
    ) -> None:
        values = (after.seq, after.chain, after.segment, after.byte_offset)
        fence = (NAME, before.seq, before.chain, schema.SCHEMA_VERSION)
        cursor = await db.execute(ADVANCE_CHECKPOINT, (*values, *fence))
        if cursor.rowcount != 1:
            raise CheckpointMoved(
                f"somebody else moved the checkpoint from seq {before.seq}",
                where=str(database_path(self._home)),
            )

    async def _roll_back(self, db: aiosqlite.Connection) -> None:
        """Ends the transaction; a connection that will not let go of it is given up."""
        with suppress(sqlite3.Error):
            if db.in_transaction:
                await db.execute("ROLLBACK")
        if db.in_transaction:
            self._db = None
            await db.close()

    async def _checkpoint(self) -> Checkpoint:
        rows = await self._require_db().execute_fetchall(schema.SELECT_CHECKPOINT, (NAME,))
        seq, chain, segment, byte_offset = next(iter(rows))
        return Checkpoint(
            projection=NAME, seq=seq, chain=chain, segment=segment, byte_offset=byte_offset
        )

    def _require_db(self) -> aiosqlite.Connection:
        if self._db is None:
            raise CheckpointMoved("the connection was given up")
        if os.getpid() != self._pid:
            raise ProjectionError(
                "the database was opened before the process forked",
                where=str(database_path(self._home)),
                do="open the projection in the process that uses it",
            )
        return self._db

    def _check_file(self) -> None:
        """A database that was deleted or replaced would take commits into nothing."""
        path = database_path(self._home)
        if _inode(path) != self._inode:
            self._are_pages_checked = False
            if _wal_inodes(path) == self._wal_inodes:
                # They hold pages of the database that was there before.
                for suffix in WAL_SUFFIXES:
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
            raise CheckpointMoved("the database was deleted or replaced", where=str(path))

    def _translate_error(self, error: sqlite3.Error) -> ProjectionError:
        where = str(database_path(self._home))
        if file.is_damage(error):
            self._are_pages_checked = False
            return CheckpointMoved(
                f"the database is damaged: {error}", where=where, do=REBUILD_HINT
            )
        if file.is_transient(error):
            return ProjectionStalled(
                f"SQLite cannot write now: {error}", where=where, do=STALL_HINT
            )
        return ProjectionError(
            f"the table does not take what the log says: {error}",
            where=where,
            do="somebody else wrote to the database: run `eventlog rebuild-database`",
        )


async def _connect(path: Path) -> aiosqlite.Connection:
    # rw: a file that was deleted since it was set up must not be made, empty and open to all.
    db = await aiosqlite.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=file.BUSY_TIMEOUT_S,
        cached_statements=64,
    )
    try:
        # NORMAL: a power loss may take the last commits, never half of one; the log has them.
        await db.execute("PRAGMA synchronous = NORMAL")
        await db.execute(f"PRAGMA journal_size_limit = {file.JOURNAL_BYTES_MAX}")
        return db
    except BaseException:
        await db.close()
        raise


def _inode(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return NO_INODE
    return (status.st_dev, status.st_ino)


def _wal_inodes(path: Path) -> tuple[tuple[int, int], ...]:
    return tuple(_inode(Path(f"{path}{suffix}")) for suffix in WAL_SUFFIXES)
