"""The tables of the contract, the queries that use the indexes, and the digest."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projections.signals import schema
from projections.signals.digest import TableRow, digest, digest_line

ROW: TableRow = (
    *(1, "id", "AAPL", "BUY", 150.5, 158.25, 147.0, 85.5, "s", "stock", "weighted_consensus"),
    *("2025-11-18T02:00:00.000000+00:00", None, None, None, "ab" * 32, None, "2025-11-18 02:00:00"),
)

floats = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1e16, 1e-5, 5e-324, 2.0**53])
prices = st.floats(min_value=1e-6, max_value=1e9)
texts = st.text(st.characters(codec="utf-8"))
wild = st.tuples(*[texts | floats | st.none() | st.integers(-(2**63), 2**63 - 1)] * 17)
typed = st.tuples(
    *[texts] * 3,
    *[prices | floats] * 4,
    *[texts] * 4,
    *[st.none() | texts, st.none() | floats, st.none() | floats, texts, st.none() | texts, texts],
)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in (*schema.TABLES, *schema.INDEXES):
            connection.execute(statement)
        yield connection


def test_the_signals_table_is_the_old_trackers_column_by_column(db: sqlite3.Connection) -> None:
    columns = db.execute(
        "SELECT name, type, [notnull], dflt_value, pk FROM pragma_table_info('signals')"
    ).fetchall()
    assert columns == [
        ("id", "INTEGER", 0, None, 1),
        ("signal_id", "TEXT", 1, None, 0),
        ("symbol", "TEXT", 1, None, 0),
        ("action", "TEXT", 1, None, 0),
        ("entry_price", "REAL", 1, None, 0),
        ("target_price", "REAL", 1, None, 0),
        ("stop_price", "REAL", 1, None, 0),
        ("confidence", "REAL", 1, None, 0),
        ("strategy", "TEXT", 1, None, 0),
        ("asset_type", "TEXT", 1, None, 0),
        ("data_source", "TEXT", 0, "'weighted_consensus'", 0),
        ("timestamp", "TEXT", 1, None, 0),
        ("outcome", "TEXT", 0, "NULL", 0),
        ("exit_price", "REAL", 0, "NULL", 0),
        ("profit_loss_pct", "REAL", 0, "NULL", 0),
        ("sha256", "TEXT", 1, None, 0),
        ("order_id", "TEXT", 0, "NULL", 0),
        ("created_at", "TEXT", 0, "CURRENT_TIMESTAMP", 0),
    ]
    assert tuple(name for name, *_ in columns) == schema.COLUMNS
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchall()


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("signal_extras", ["signal_id", "extra"]),
        (
            "lifecycle",
            [
                *("seq", "signal_id", "event", "recorded_at", "detail", "known_seq", "state"),
                *("order_id", "outcome", "exit_price", "profit_loss_pct"),
                *("executed_seq", "closed_seq"),
            ],
        ),
        ("held", ["seq", "signal_id", "event", "recorded_at", "payload"]),
        ("conflicts", ["seq", "signal_id", "reason"]),
        ("checkpoint", ["name", "seq", "chain", "segment", "byte_offset"]),
    ],
)
def test_the_other_tables_have_the_documented_columns(
    db: sqlite3.Connection, table: str, columns: list[str]
) -> None:
    found = db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    assert [name for (name,) in found] == columns


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM signals ORDER BY timestamp DESC, id DESC LIMIT 10",
        "SELECT * FROM signals WHERE symbol = 'A' ORDER BY timestamp DESC, id DESC LIMIT 10",
        "SELECT * FROM signals WHERE signal_id = 'a'",
        "SELECT * FROM signals WHERE confidence >= 90.0",
        "SELECT outcome, count(*), sum(profit_loss_pct) FROM signals"
        " WHERE outcome IS NOT NULL GROUP BY outcome",
        schema.SELECT_SIGNALS,
        schema.SELECT_STATES,
        schema.SELECT_HELD,
    ],
)
def test_each_query_that_the_indexes_are_for_reads_no_table_from_end_to_end_and_sorts_nothing(
    db: sqlite3.Connection, query: str
) -> None:
    given = ("[]",) if "json_each" in query else ()
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", given)]
    assert not any("TEMP B-TREE" in step for step in plan), plan
    if query != schema.SELECT_SIGNALS:
        assert not any(
            step.startswith(("SCAN signals", "SCAN s", "SCAN l", "SCAN h")) and "INDEX" not in step
            for step in plan
        ), plan


def written_by_json(row: tuple[object, ...]) -> str:
    zeros = [0.0 if isinstance(v, float) and v == 0.0 else v for v in row]
    return json.dumps(zeros, separators=(",", ":")) + "\n"


@given(st.integers(1, 2**63 - 1), typed | wild)
@example(1, ROW[1:])
@example(1, (*ROW[1:4], -0.0, *ROW[5:]))
@example(1, (*ROW[1:4], float("inf"), *ROW[5:]))
@example(1, (*ROW[1:10], None, *ROW[11:]))
@example(1, (*ROW[1:4], 2**62, "a", *ROW[6:]))
@example(1, (*ROW[1:12], "win", 158.25, -0.0, "ab", "o", "ü"))
def test_a_digest_line_is_what_json_dumps_writes(seq: int, rest: tuple[object, ...]) -> None:
    row = (seq, *rest)
    assert digest_line(row) == written_by_json(row)  # type: ignore[arg-type]  # any row at all


@pytest.mark.parametrize("rows", [0, 1, 999, 1_000, 1_001, 2_500])
def test_a_digest_is_the_hash_of_all_lines_however_many(rows: int) -> None:
    table: list[TableRow] = [(seq, *ROW[1:]) for seq in range(1, rows + 1)]
    whole = "".join(map(written_by_json, table)).encode()
    assert digest(table) == digest(iter(table)) == sha256(whole).hexdigest()


def test_rows_come_back_from_sqlite_with_the_digest_that_they_went_in_with(
    db: sqlite3.Connection,
) -> None:
    """SQLite stores 150.0 as an integer, and returns a float."""
    given = (1, "id", "A", "BUY", 150.0, 1e16, 5e-324, 0.0, "s", "", "d", "t", "ab", "2025")
    db.execute(schema.INSERT_SIGNAL, given)
    (row,) = db.execute(schema.SELECT_SIGNALS)
    assert row == (*given[:12], None, None, None, "ab", None, "2025")
    assert digest_line(row) == written_by_json(row)
