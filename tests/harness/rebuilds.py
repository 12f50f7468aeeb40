"""Homes for tests of `rebuild-database`, and checks of them.

    path = build_history(home)       a log that fills every table
    execute_sql(path, OLD_SYMBOL)    marks the old table, to distinguish it from the new one
    assert_nothing_left(home)        no file of a rebuild is left

Invariant: databases are read with sqlite3 only.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from projections.signals import schema
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed
from tests.harness.tables import database_of, reading

OLD_SYMBOL = "UPDATE signals SET symbol = 'OLD' WHERE id = 1"


def signal_lifecycle(number: int) -> list[dict[str, Any]]:
    """A signal with further keys, and its facts; the last one does not fit."""
    executed = {"event": "executed", "signal_id": f"s-{number}", "order_id": f"o-{number}"}
    end = closed(number)
    return [a_signal(number, note=f"n-{number}"), executed, end, {**end, "exit_price": 1.0}]


def build_history(home: Path, count: int = 10) -> Path:
    """Appends a log that fills every table; returns the path of the database."""
    append(home, *(item for number in range(1, count + 1) for item in signal_lifecycle(number)))
    return database_of(home)


def execute_sql(path: Path, *statements: str) -> None:
    """Changes the database as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db:
        for statement in statements:
            db.execute(statement)


def damaged_copies(home: Path) -> list[Path]:
    """Damaged databases that were set aside."""
    found = (home / "data").glob("signals.db.damaged-*")
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))


def names_in(home: Path) -> set[str]:
    return {path.name for path in (home / "data").iterdir()}


def assert_nothing_left(home: Path) -> None:
    assert names_in(home) - {path.name for path in damaged_copies(home)} <= {
        *("signals.db", "signals.db-wal", "signals.db-shm"),
    }
    built = {path.name for path in (home / "run").glob("*") if ".db" in path.name}
    assert built | {path.name for path in (home / "run").glob(".rebuild-*")} == set()


def assert_healthy_database(path: Path) -> None:
    """Checks integrity, identity and journal mode of a database."""
    with closing(reading(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
