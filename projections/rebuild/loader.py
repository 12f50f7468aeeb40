"""Bulk-loads a new database: no journal, no sync, inserts only, indexes last.

A crash leaves a file that no process opens, so nothing here is protected against one. The loader
and the live projection get their changes from the same fold (signals/fold.py).

Invariant: the tables hold the fold of the log up to `checkpoint`.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from projections.projection import Checkpoint
from projections.rebuild.batches import RebuildBatch
from projections.signals import schema
from projections.signals.fold import (
    PreparedBatch,
    fact_ids,
    ids_json,
    resolve,
    signal_ids,
    statements,
)
from projections.signals.states import Fact, SignalState, held_facts, states_of
from projections.sqlite import file
from projections.sqlite.database import create_tables

# The UNIQUE index on random signal_ids needs the cache: about 100 MB for two million of them.
CACHE_KIB = 112 * 1024
# While indexes are created it limits each sorted run: one that fits a core's cache sorts faster.
SORT_KIB = 2 * 1024

# More rows per statement gain nothing, and 64 stay below SQLite's limit of parameters.
STATEMENT_ROWS = 64

# One statement for all signals of one recorded_at. Signals that were not inserted have no row.
_INSERT_LIFECYCLE = """INSERT INTO lifecycle(seq, signal_id, event, recorded_at, known_seq, state)
    SELECT id, signal_id, 'signal', ?3, id, 'open' FROM signals WHERE id BETWEEN ?1 AND ?2"""
_COUNTS = "SELECT (SELECT count(*) FROM signals), (SELECT count(*) FROM conflicts)"
_DELETE_ROWS = "DELETE FROM signals WHERE id BETWEEN ? AND ?"
_SET_CHECKPOINT = """INSERT OR REPLACE INTO checkpoint(name, seq, chain, segment, byte_offset)
    VALUES (?, ?, ?, ?, ?)"""


class NewDatabase:
    """The database that a rebuild fills. `path` must not exist yet."""

    def __init__(self, path: Path, *, name: str, page_bytes: int) -> None:
        self.checkpoint = Checkpoint(projection=name)
        self.entries = 0  # added so far
        self.digest: str | None = None  # of the rows; None once they differ from the batches' rows
        self._held_count = 0  # rows of `held`: no id is looked up while there are none
        file.create_private_file(path)
        self._db = file.connect(path, is_shared=False)
        try:
            for pragma in (
                f"page_size = {page_bytes}",
                "journal_mode = OFF",
                "synchronous = OFF",
                f"cache_size = -{CACHE_KIB}",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("BEGIN")
            create_tables(self._db)
        except BaseException:
            self._db.close()
            raise

    def fill(self, batches: Iterable[RebuildBatch]) -> None:
        """Adds the changes of the batches, from the first entry on."""
        self.digest = ""
        for batch in batches:
            self._load_batch(batch)
            if self.digest is not None:
                self.digest = batch.digest

    def make_indexes(self) -> None:
        """Creates the indexes and commits; once, after `fill`."""
        self._db.execute(f"PRAGMA cache_size = -{SORT_KIB}")
        for statement in schema.INDEXES:
            self._db.execute(statement)
        self._commit()

    def catch_up(self, batches: Iterable[RebuildBatch]) -> None:
        """Adds the changes of later batches, after `make_indexes`."""
        self._db.execute("BEGIN")
        for batch in batches:
            self.digest = None
            self._load_batch(batch)
        self._commit()

    def counts(self) -> tuple[int, int]:
        """The number of signals, and that of conflicts."""
        rows, conflicts = self._db.execute(_COUNTS).fetchone()
        return rows, conflicts

    def close(self) -> None:
        """Closes the connection; the file stays."""
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._db.close()

    def _commit(self) -> None:
        at = self.checkpoint
        values = (at.projection, at.seq, at.chain, at.segment, at.byte_offset)
        self._db.execute(_SET_CHECKPOINT, values)
        self._db.execute("COMMIT")

    def _load_batch(self, batch: RebuildBatch) -> None:
        values: list[Any] = orjson.loads(b"[%b]" % batch.rows)
        held = self._held(values)
        if batch.facts or held or not self._insert(values):
            self._load_dependent(batch, values, held)
        else:
            self._insert_extras(values, batch.extras)
            self._db.executemany(_INSERT_LIFECYCLE, batch.recorded_times)
            self._db.executemany(schema.INSERT_CONFLICT, batch.conflicts)
        self.entries += sum(last - first + 1 for first, last, _ in batch.recorded_times)
        self.checkpoint = Checkpoint(
            projection=self.checkpoint.projection,
            seq=batch.seq,
            chain=batch.chain,
            segment=batch.segment,
            byte_offset=batch.byte_offset,
        )

    def _load_dependent(self, batch: RebuildBatch, values: list[Any], held: Sequence[Fact]) -> None:
        """Loads a batch that depends on other entries: with facts, held ones too, or duplicates."""
        width = _SIGNALS_INSERT.width
        rows = [tuple(values[at : at + width]) for at in range(0, len(values), width)]
        prepared = PreparedBatch(rows, (), (), batch.facts, batch.conflicts)
        changes = resolve(prepared, self._states(fact_ids(prepared)), held)
        if not self._insert(list(chain.from_iterable(changes.signals))):
            changes = resolve(prepared, self._states(signal_ids(prepared)), held)
            self._insert(list(chain.from_iterable(changes.signals)))
        if changes.values or len(changes.signals) != len(rows):
            self.digest = None
        self._held_count += len(changes.held) - len(changes.released)
        kept = {row[0] for row in changes.signals}
        extras = [x if row[0] in kept else None for row, x in zip(rows, batch.extras, strict=True)]
        self._insert_extras(values, extras)
        self._db.executemany(_INSERT_LIFECYCLE, batch.recorded_times)
        for statement, changed in statements(changes._replace(signals=())):
            self._db.executemany(statement, changed)

    def _insert(self, values: list[Any]) -> bool:
        """Inserts all signals and returns True; inserts none where one is a duplicate."""
        try:
            _SIGNALS_INSERT.insert(self._db, values)
        except sqlite3.IntegrityError:
            self._db.execute(_DELETE_ROWS, (values[0], values[-_SIGNALS_INSERT.width]))
            return False
        return True

    def _insert_extras(self, values: list[Any], extras: Sequence[str | None]) -> None:
        columns = (values[:: _SIGNALS_INSERT.width], values[1 :: _SIGNALS_INSERT.width], extras)
        rows = [row for row in zip(*columns, strict=True) if row[2] is not None]
        _EXTRAS_INSERT.insert(self._db, list(chain.from_iterable(rows)))

    def _states(self, ids: set[str]) -> dict[str, SignalState]:
        found = self._db.execute(schema.SELECT_STATES, (ids_json(ids),)).fetchall() if ids else []
        return states_of(found)

    def _held(self, values: list[Any]) -> list[Fact]:
        """The held facts of the signals whose values these are."""
        if not self._held_count:
            return []
        ids = ids_json(set(values[1 :: _SIGNALS_INSERT.width]))
        return held_facts(self._db.execute(schema.SELECT_HELD, (ids,)))


class _MultiRowInsert:
    """An INSERT of many rows per statement, which halves the time for each row."""

    def __init__(self, one: str) -> None:
        # FAIL keeps the rows before the one that fails. The default, ABORT, would roll them back
        # from the journal, which is off.
        head, _, row = one.replace("INSERT", "INSERT OR FAIL", 1).partition(" VALUES ")
        self.width = row.count("?")
        self._one = f"{head} VALUES {row}"
        self._many = f"{head} VALUES {', '.join([row] * STATEMENT_ROWS)}"

    def insert(self, db: sqlite3.Connection, values: list[Any]) -> None:
        """Inserts rows, given the values of all of them in one list."""
        step = self.width * STATEMENT_ROWS
        remainder_start = len(values) - len(values) % step
        for at in range(0, remainder_start, step):
            db.execute(self._many, values[at : at + step])
        rows = [
            values[at : at + self.width] for at in range(remainder_start, len(values), self.width)
        ]
        db.executemany(self._one, rows)


_SIGNALS_INSERT = _MultiRowInsert(schema.INSERT_SIGNAL)
_EXTRAS_INSERT = _MultiRowInsert(schema.INSERT_EXTRA)
