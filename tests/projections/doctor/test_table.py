"""The check of the table reads every page of a small one, and a bounded part of a large one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from projections.doctor.finding import OK, PROBLEM
from projections.doctor.table import check_table
from projections.sqlite.database import database_path, set_up
from projections.sqlite.row_sample import INDEX_ENTRIES, PLACES, ROWS_PER_PLACE, check_row_sample
from tests.harness.tables import steps_of


def table_of(home: Path, signals: int) -> Path:
    """A table of as many signals, each with its row in the lifecycle; every other one is closed."""
    path = database_path(home)
    path.parent.mkdir(parents=True)
    set_up(path, check_pages=False)
    count = f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {signals})"
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            f"""{count} INSERT INTO signals SELECT i, hex(i * 2654435761 % 4294967296), 'AAPL',
            'BUY', 150, 158, 147, 85, 'momentum', 'stock', 'x', i, iif(i % 2, 'win', NULL), 1, 1,
            hex(i), NULL, i FROM n"""
        )
        db.execute(
            f"""{count} INSERT INTO lifecycle(seq, signal_id, event, recorded_at, known_seq, state)
            SELECT i, i, iif(i % 2, 'signal', 'closed'), i, i, 'open' FROM n"""
        )
        db.execute("INSERT INTO signal_extras SELECT signal_id, '{}' FROM signals")
        db.commit()
    return path


def found_in(home: Path) -> tuple[str, str]:
    (finding,) = check_table(home, whole_bytes_max=0)
    return finding.level, finding.found


def test_a_large_table_is_checked_by_a_sample_of_a_bounded_number_of_rows(tmp_path: Path) -> None:
    def steps(signals: int) -> int:
        path = table_of(tmp_path / f"{signals}", signals)
        with closing(sqlite3.connect(path)) as db:
            return steps_of(db, lambda: check_row_sample(db))

    enough = 2 * PLACES * ROWS_PER_PLACE + 2 * INDEX_ENTRIES
    assert steps(8 * enough) < 1.1 * steps(enough)
    level, found = found_in(tmp_path / f"{enough}")
    assert level == OK
    assert "a sample of the rows" in found


@pytest.mark.parametrize("name", ["signals", "lifecycle", "sqlite_autoindex_signals_1"])
def test_a_large_table_with_damage_at_a_sampled_place_is_a_problem(
    tmp_path: Path, name: str
) -> None:
    path = table_of(tmp_path, 2_000)
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)
        ).fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    level, found = found_in(tmp_path)
    assert (level, found) == (PROBLEM, "data/signals.db is damaged")


def test_an_index_that_leads_to_another_row_is_damage(tmp_path: Path) -> None:
    path = table_of(tmp_path, 100)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM signal_extras")
        db.execute(
            "INSERT INTO signal_extras(rowid, signal_id, extra)"
            " SELECT id + 1, signal_id, 1 FROM signals"
        )
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            """UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master
            WHERE name = 'sqlite_autoindex_signal_extras_1')
            WHERE name = 'sqlite_autoindex_signals_1'"""
        )
    assert found_in(tmp_path) == (PROBLEM, "data/signals.db is damaged")
