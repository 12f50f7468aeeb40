"""Reads the tables of a home with sqlite3 only, and compares them with the model.

    tables, checkpoint = read_tables(home)
    assert_is_fold(home)          rows = fold(log up to the checkpoint), by the model
    assert_caught_up(home)        ... and the checkpoint is the end of the log

Invariant: a read is one transaction, so a daemon may run at the same time.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from eventlog import Entry
from tests.harness import model
from tests.harness.log_checks import lines_in

SIGNALS = (
    "SELECT id, signal_id, symbol, action, entry_price, target_price, stop_price, confidence,"
    " strategy, asset_type, data_source, timestamp, outcome, exit_price, profit_loss_pct, sha256,"
    " order_id, created_at FROM signals ORDER BY id"
)


class Point(NamedTuple):
    """A checkpoint as it is stored."""

    seq: int
    chain: str


def database_of(home: Path) -> Path:
    return home / "data" / "signals.db"


def reading(path: Path) -> sqlite3.Connection:
    """A read-only connection, as a user would open one."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)


def read_tables(home: Path) -> tuple[model.Tables, Point]:
    """All tables and the checkpoint, read in one transaction."""
    with closing(reading(database_of(home))) as db:
        db.execute("BEGIN")
        rows = db.execute("SELECT seq, chain FROM checkpoint WHERE name = 'sqlite'").fetchall()
        tables = model.Tables(
            signals=[list(row) for row in db.execute(SIGNALS)],
            extras=dict(db.execute("SELECT signal_id, extra FROM signal_extras")),
            lifecycle=db.execute("SELECT * FROM lifecycle ORDER BY seq").fetchall(),
            conflicts=db.execute("SELECT * FROM conflicts ORDER BY seq").fetchall(),
            held=db.execute("SELECT * FROM held ORDER BY seq").fetchall(),
        )
        return tables, Point(*rows[0]) if rows else Point(0, "0" * 64)


def seq_in(home: Path) -> int:
    """The seq of the checkpoint; -1 if there is no database yet."""
    if not database_of(home).exists():
        return -1
    with closing(reading(database_of(home))) as db:
        row = db.execute("SELECT seq FROM checkpoint WHERE name = 'sqlite'").fetchone()
        return int(row[0]) if row else 0


def raw_entries(home: Path) -> list[Entry]:
    """The entries of an undamaged log, parsed with the json module."""
    entries = []
    for line in lines_in(home):
        fields = json.loads(line)
        del fields["v"]
        seq, batch, recorded_at = (fields.pop(key) for key in ("seq", "batch", "recorded_at"))
        event, chain = fields.pop("event"), fields.pop("chain")
        entries.append(Entry(seq, batch, recorded_at, event, fields, chain, line))
    return entries


def assert_is_fold(home: Path) -> Point:
    """Compares the tables with the model up to the checkpoint; returns the checkpoint."""
    tables, point = read_tables(home)
    entries = raw_entries(home)
    chain = entries[point.seq - 1].chain if point.seq else "0" * 64
    assert point.chain == chain, "the checkpoint is of another log"
    expected = model.fold(entries[: point.seq])
    assert tables == expected
    assert tables.digest() == expected.digest()
    return point


def assert_caught_up(home: Path) -> None:
    """Checks that the tables contain the whole log."""
    assert assert_is_fold(home).seq == len(lines_in(home))


def steps_of(db: sqlite3.Connection, run: Callable[[], object]) -> int:
    """The work of SQLite for `run`, in hundreds of steps: the same on any machine."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0  # go on

    db.set_progress_handler(count, 100)
    try:
        run()
    finally:
        db.set_progress_handler(None, 0)
    return steps


def dump(path: Path) -> list[str]:
    """Everything in a database as SQL, to compare before and after."""
    with closing(reading(path)) as db:
        return list(db.iterdump())
