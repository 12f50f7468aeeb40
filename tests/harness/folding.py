"""The fold into SQLite, in the two ways of the packages: as the live projection, as a rebuild.

    with closing(database()) as db:
        apply_as_projection(db, entries, 0)
        assert tables_of(db) == model.fold(entries)

Invariant: each way executes exactly the statements of schema.py.
"""

import marshal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

from eventlog import Entry
from projections.signals import schema
from projections.signals.digest import digest
from projections.signals.fold import (
    PreparedBatch,
    fact_ids,
    ids_json,
    new_ids,
    prepare,
    resolve,
    signal_ids,
    statements,
)
from projections.signals.states import held_facts, states_of
from tests.harness import model

Apply = Callable[[sqlite3.Connection, Sequence[Entry], int], None]


def database() -> sqlite3.Connection:
    """A database in memory with our tables, empty."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.TABLES:
        db.execute(statement)
    return db


def apply_as_projection(db: sqlite3.Connection, entries: Sequence[Entry], after: int) -> None:
    """Folds as the live projection does: it reads the states of all signals of a batch."""
    prepared = prepare(entries, after=after)
    _execute(db, prepared, signal_ids(prepared))


def apply_as_rebuild(db: sqlite3.Connection, entries: Sequence[Entry], after: int) -> None:
    """Folds as a rebuild does: the UNIQUE column finds duplicate signals."""
    prepared = PreparedBatch(*marshal.loads(marshal.dumps([*prepare(entries, after=after)])))
    db.execute("BEGIN")
    try:
        _execute(db, prepared, fact_ids(prepared))
    except sqlite3.IntegrityError:
        db.execute("ROLLBACK")
        _execute(db, prepared, signal_ids(prepared))
    else:
        db.execute("COMMIT")


def fold(
    entries: Sequence[Entry], *, cuts: Sequence[int] = (), apply: Apply = apply_as_projection
) -> tuple[model.Tables, str]:
    """The SQLite tables after these entries, cut into batches at `cuts`, and their digest."""
    with closing(database()) as db:
        after = 0
        ends = sorted({min(cut, len(entries)) for cut in cuts} | {len(entries)})
        for start, end in zip([0, *ends], ends, strict=False):
            apply(db, entries[start:end], after)
            after = entries[end - 1].seq if end else 0
        return tables_of(db), digest(db.execute(schema.SELECT_SIGNALS))


def tables_of(db: sqlite3.Connection) -> model.Tables:
    """All tables of a database."""
    return model.Tables(
        signals=[list(row) for row in db.execute(schema.SELECT_SIGNALS)],
        extras=dict(db.execute("SELECT signal_id, extra FROM signal_extras")),
        lifecycle=db.execute("SELECT * FROM lifecycle ORDER BY seq").fetchall(),
        conflicts=db.execute("SELECT * FROM conflicts ORDER BY seq").fetchall(),
        held=db.execute("SELECT * FROM held ORDER BY seq").fetchall(),
    )


def _execute(db: sqlite3.Connection, prepared: PreparedBatch, ids: set[str]) -> None:
    states = states_of(db.execute(schema.SELECT_STATES, (ids_json(ids),)))
    held = held_facts(db.execute(schema.SELECT_HELD, (ids_json(new_ids(prepared)),)))
    for statement, rows in statements(resolve(prepared, states, held)):
        db.executemany(statement, rows)
