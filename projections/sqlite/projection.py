"""The SQLite projection: applies batches of entries to `data/signals.db`.

Invariant: rows and checkpoint change in one transaction, so checkpoint.seq is the seq of the last
entry whose effect was committed with it.
"""

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import aiosqlite

from eventlog import Entry, EventLogError
from eventlog.plumbing import run_in_thread, starting_thread, uncancelled
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint
from projections.signals import schema
from projections.signals.fold import (
    PreparedBatch,
    TableChanges,
    ids_json,
    new_ids,
    prepare,
    resolve,
    signal_ids,
    statements,
)
from projections.signals.states import held_facts, states_of
from projections.sqlite import database, file
from projections.sqlite.database import checkpoint_from_row, database_path
from projections.sqlite.file import NO_FILE, inode_of, is_busy
from projections.sqlite.lock import WriteLock, write_lock

logger = logging.getLogger(__name__)

NAME = schema.SQLITE
REBUILD_HINT = "run `eventlog rebuild-database`"
STALL_HINT = (
    "check whether the disk is full, whether another program locks the database, and whether this "
    "account may write there; a daemon continues by itself once it can"
)
CLOSE_S_MAX = 1.0  # a daemon that stops does not wait longer for another process's lock
WAL_SUFFIXES = ("-wal", "-shm")

# The fence: where this changes no row, another daemon, a rebuild or a newer schema has moved on.
ADVANCE_CHECKPOINT = """UPDATE checkpoint SET seq = ?, chain = ?, segment = ?, byte_offset = ?
    WHERE name = ? AND seq = ? AND chain = ?
    AND (SELECT user_version FROM pragma_user_version) = ?"""


class SqliteProjection:
    """Keeps `data/signals.db` of a home in step with its log, through one writing connection.

    Several processes may do this at once: the write lock and the fence keep them apart.
    """

    name = NAME

    def __init__(self, *, replace_older: bool = True) -> None:
        self._replace_older = replace_older  # else a database of an older schema is an error
        self._path = Path()  # of the database; set by `open`, with its lock
        self._lock: WriteLock | None = None
        self._turn = asyncio.Lock()  # the write lock excludes processes, not two of our own tasks
        self._db: aiosqlite.Connection | None = None
        self._inode = NO_FILE
        self._wal_inodes: tuple[tuple[int, int], ...] = ()
        self._schema_version = 0  # SQLite's counter of schema changes
        self._pid = 0
        self._are_pages_checked = False

    async def open(self, home: Path) -> Checkpoint:
        """Opens the database, and creates or replaces it where needed; returns its checkpoint.

        The first call, and each one after damage, checks every page; a damaged file is set aside.
        Raises ForeignHome, SchemaTooNew, SchemaTooOld, ProjectionStalled.
        """
        path = database_path(home)
        if self._lock is None or path != self._path:
            self._path, self._lock = path, write_lock(home)
        try:
            return await self._open(path, self._lock)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ProjectionStalled(
                f"there is no space for the table: {error.strerror}",
                where=str(home),
                do=STALL_HINT,
            ) from error

    async def _open(self, path: Path, lock: WriteLock) -> Checkpoint:
        async with self._turn, lock:
            try:
                # The thread must end before the lock is released, also when this is cancelled.
                check_pages = not self._are_pages_checked
                setup = run_in_thread(lambda: self._set_up(path, check_pages=check_pages))
                await uncancelled(setup)
                self._are_pages_checked = True
                # The same: aiosqlite's thread must not outlive the event loop.
                await uncancelled(self._connect(path))
                self._pid = os.getpid()
                self._inode = inode_of(path)
                self._wal_inodes = _wal_inodes(path)
                self._schema_version = await _schema_version(self._require_db())
                await self._check_schema()
                await self._check_writable()
                return await self._checkpoint()
            except BaseException as error:
                db, self._db = self._db, None
                if db is not None:
                    await db.close()
                if isinstance(error, sqlite3.Error):
                    raise self._translate_error(error) from error
                raise

    def _set_up(self, path: Path, *, check_pages: bool) -> None:
        found = database.set_up(path, check_pages=check_pages, replace_older=self._replace_older)
        if found == database.OLDER:
            logger.warning("older_table_replaced path=%s: it is filled again from the log", path)

    async def _connect(self, path: Path) -> None:
        self._db = await _connect(path)

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        """Applies a batch and moves the checkpoint from `before` to `after`, in one transaction.

        A cancelled call still ends its transaction: its current statement runs on in aiosqlite's
        thread, and the next batch would commit our half. Raises CheckpointMoved,
        ProjectionStalled, ProjectionError.
        """
        prepared = prepare(entries, after=before.seq)
        assert self._lock is not None, "open() was called"
        async with self._turn, self._lock:
            await uncancelled(self._apply(prepared, before, after))

    async def status(self) -> Mapping[str, object]:
        """The number of rows of `signals`; monitoring.status reads it without a projection."""
        rows = await self._require_db().execute_fetchall("SELECT count(*) FROM signals")
        return {"rows": next(iter(rows))[0]}

    async def close(self) -> None:
        """Closes the connection. SQLite then checkpoints the WAL if no other one is open."""
        db, self._db = self._db, None
        if db is None:
            return
        assert self._lock is not None, "a connection is opened under it"
        try:
            async with asyncio.timeout(CLOSE_S_MAX), self._turn, self._lock:
                await db.close()
        except TimeoutError:
            pass  # the lock's holder has the database open: closing ours does not touch the WAL
        except EventLogError as error:  # the home was moved; closing creates nothing
            logger.info("closed_without_lock path=%s error=%s", self._path, error)
        finally:
            await db.close()

    async def _apply(self, prepared: PreparedBatch, before: Checkpoint, after: Checkpoint) -> None:
        db = self._require_db()
        self._check_file()
        try:
            await db.execute("BEGIN IMMEDIATE")
            if await _schema_version(db) != self._schema_version:
                raise CheckpointMoved(
                    "another program has changed the schema", where=str(self._path)
                )
            # First: where another writer has moved on, our rows exist already.
            await self._advance_checkpoint(db, before, after)
            for statement, rows in statements(await self._resolve(db, prepared)):
                await db.executemany(statement, rows)
            await db.execute("COMMIT")
        except BaseException as error:
            await self._roll_back(db)
            if isinstance(error, sqlite3.Error):
                raise self._translate_error(error) from error
            raise

    async def _resolve(self, db: aiosqlite.Connection, prepared: PreparedBatch) -> TableChanges:
        states = await db.execute_fetchall(schema.SELECT_STATES, (ids_json(signal_ids(prepared)),))
        held = await db.execute_fetchall(schema.SELECT_HELD, (ids_json(new_ids(prepared)),))
        return resolve(
            prepared,
            states_of(tuple(row) for row in states),
            held_facts(tuple(row) for row in held),
        )

    async def _advance_checkpoint(
        self, db: aiosqlite.Connection, before: Checkpoint, after: Checkpoint
    ) -> None:
        values = (after.seq, after.chain, after.segment, after.byte_offset)
        fence = (NAME, before.seq, before.chain, schema.SCHEMA_VERSION)
        cursor = await db.execute(ADVANCE_CHECKPOINT, (*values, *fence))
        if cursor.rowcount != 1:
            raise CheckpointMoved(
                f"another process moved the checkpoint from seq {before.seq}",
                where=str(self._path),
            )

    async def _check_schema(self) -> None:
        """Raises CheckpointMoved where the schema was changed since `set_up` checked it.

        Changes after this one are found by the schema version, which was read before.
        """
        path = self._path
        checking = run_in_thread(lambda: database.inspect_database(path, check_pages=False))
        if await uncancelled(checking) != database.CURRENT:
            raise CheckpointMoved("another program has changed the schema", where=str(path))

    async def _check_writable(self) -> None:
        """Raises sqlite3.Error where SQLite can only read through this connection.

        It reads with an -shm that this account may not write, and goes on so for ever. Where the
        lock of another program is in the way, it can write.
        """
        db = self._require_db()
        try:
            await db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        else:
            await db.execute("ROLLBACK")

    async def _roll_back(self, db: aiosqlite.Connection) -> None:
        """Ends the transaction. Where the rollback fails, closes the connection."""
        with suppress(sqlite3.Error):
            if db.in_transaction:
                await db.execute("ROLLBACK")
        if db.in_transaction:
            self._db = None
            await db.close()

    async def _checkpoint(self) -> Checkpoint:
        rows = await self._require_db().execute_fetchall(schema.SELECT_CHECKPOINT, (NAME,))
        return checkpoint_from_row(next(iter(rows)))

    def _require_db(self) -> aiosqlite.Connection:
        if self._db is None:
            raise CheckpointMoved("the connection was closed after a failed rollback")
        if os.getpid() != self._pid:
            raise ProjectionError(
                "the database was opened before the process forked",
                where=str(self._path),
                do="open the projection in the process that uses it",
            )
        return self._db

    def _check_file(self) -> None:
        """Raises CheckpointMoved where the file was deleted or replaced: commits would be lost."""
        if inode_of(self._path) != self._inode:
            self._are_pages_checked = False
            if _wal_inodes(self._path) == self._wal_inodes:
                # They hold pages of the database that stood there before.
                for suffix in WAL_SUFFIXES:
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            raise CheckpointMoved("the database was deleted or replaced", where=str(self._path))

    def _translate_error(self, error: sqlite3.Error) -> ProjectionError:
        where = str(self._path)
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
            f"the signals table rejected a row: {error}",
            where=where,
            do="another program has changed the database: run `eventlog rebuild-database`",
        )


async def _connect(path: Path) -> aiosqlite.Connection:
    # mode=rw: a file deleted since the setup must not be created again, empty and readable by all.
    opened = await run_in_thread(lambda: file.connect(path))
    try:
        with starting_thread():
            db = await aiosqlite.Connection(lambda: opened, 64)
    except BaseException:
        opened.close()
        raise
    try:
        # NORMAL: a power loss may take the last commits, never half of one; the log has them.
        await db.execute("PRAGMA synchronous = NORMAL")
        await db.execute(f"PRAGMA journal_size_limit = {file.JOURNAL_BYTES_MAX}")
        return db
    except BaseException:
        await db.close()
        raise


async def _schema_version(db: aiosqlite.Connection) -> int:
    rows = await db.execute_fetchall("PRAGMA schema_version")
    return int(next(iter(rows))[0])


def _wal_inodes(path: Path) -> tuple[tuple[int, int], ...]:
    return tuple(inode_of(f"{path}{suffix}") for suffix in WAL_SUFFIXES)
