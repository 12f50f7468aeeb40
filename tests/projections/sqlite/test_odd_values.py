"""Values of another program in the columns of our databases: an error text, or no effect."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections.delivery.outbox import Outbox, outbox_path
from tests.harness.forked import forked
from tests.harness.read_side import append, project
from tests.harness.shared_data import assert_ended_well
from tests.harness.signals import closed, signals
from tests.harness.tables import assert_caught_up, database_of
from tests.harness.tiny_alpine import tiny_alpine

VALUES = ["'x'", "x'ff00'", "-1", "9223372036854775807", "9e999", "CAST(x'ff' AS TEXT)", "1e300"]
COMMAND_VALUES = ["'x'", "x'ff00'", "9e999"]
EXECUTED = {"event": "executed", "signal_id": "s-1", "order_id": "o-1"}
READERS = (
    *(("status",), ("signals",), ("stats",), ("digest",), ("export",)),
    ("signals", "--as-of", "2031-01-01T00:00:00Z"),
    ("wait", 5, "--for", "projected", "--timeout", "0"),
)
DELIVERY = (
    *(("status",), ("parked", "list"), ("parked", "list", "--json")),
    *(("wait", 5, "--for", "delivered", "--timeout", "0"), ("parked", "discard", 3)),
)
PARKED = "INSERT INTO parked VALUES (2, 's-2', 'failing', 500, 'b', 1, 1.0, 2.0, 3.0)"
ASKED = "INSERT INTO asked(who, what, seq) VALUES ('w', 'retry', 2)"
OUTBOX_COLUMNS = [
    *("checkpoint.seq", "checkpoint.chain", "state.value", "asked.seq", "asked.what", "parked.seq"),
    *("parked.signal_id", "parked.kind", "parked.status", "parked.body", "parked.attempts"),
    *("parked.first_at", "parked.last_at", "parked.next_at"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3), EXECUTED, closed(1))
    project(home)
    return home


def assign(path: Path, column: str, value: str) -> bool:
    """Stores a value in all rows; False where the column cannot hold it."""
    table, _, name = column.partition(".")
    with closing(sqlite3.connect(path)) as db:
        try:
            db.execute(f"UPDATE {table} SET {name} = {value}")
            db.commit()
        except sqlite3.Error:
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "column",
    [
        *("checkpoint.seq", "checkpoint.chain", "checkpoint.segment", "checkpoint.byte_offset"),
        *("signals.entry_price", "signals.confidence", "signals.profit_loss_pct"),
        *("signals.timestamp", "lifecycle.recorded_at", "lifecycle.event"),
    ],
)
def test_a_reader_of_the_table_ends_with_an_error_text_whatever_a_column_holds(
    home: Path, column: str
) -> None:
    original = database_of(home).read_bytes()
    for value in COMMAND_VALUES:
        database_of(home).write_bytes(original)
        if not assign(database_of(home), column, value):
            continue
        for words in READERS:
            done = forked(*words, home=home)
            assert done.code in (0, 1, 3), (column, value, words, done)
            assert "Traceback" not in done.err, (column, value, words, done.err)


@pytest.mark.parametrize(
    ("column", "value"),
    [("checkpoint.seq", "'x'"), ("checkpoint.seq", "-1"), ("checkpoint.chain", "x'ff00'")],
)
def test_a_projection_builds_the_table_again_where_its_checkpoint_is_none(
    home: Path, column: str, value: str
) -> None:
    assert assign(database_of(home), column, value)
    project(home)
    assert_caught_up(home)


@pytest.mark.parametrize("column", ["checkpoint.segment", "checkpoint.byte_offset"])
@pytest.mark.parametrize("value", VALUES)
def test_a_projection_ignores_a_position_that_is_none(home: Path, column: str, value: str) -> None:
    assert assign(database_of(home), column, value)
    append(home, *signals(2, start=4))
    project(home)
    assert_caught_up(home)


@pytest.mark.parametrize("column", OUTBOX_COLUMNS)
def test_the_outbox_is_made_again_where_a_column_holds_what_we_never_write(
    home: Path, column: str
) -> None:
    path = outbox_path(home)
    table = column.partition(".")[0]
    tried = 0
    for value in VALUES:
        with closing(Outbox.open(path)):
            pass
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM parked")
            db.execute(PARKED)
            db.execute(ASKED)
            db.commit()
        if not assign(path, column, value):
            continue
        tried += 1
        with closing(Outbox.open(path)) as outbox:
            # The values are ours, or the file is new.
            outbox.figures()
            assert isinstance(outbox.checkpoint().seq, int)
            assert isinstance(outbox.checkpoint().chain, str)
            assert isinstance(outbox.state()["rejections"], int)
            assert all(isinstance(request.seq, int) for request in outbox.open_requests())
            for parked in filter(None, (outbox.parked(2), *outbox.due(10.0, 10))):
                assert isinstance(parked.signal_id + parked.body + parked.kind, str)
                assert 0 <= parked.attempts < 2**62
                assert datetime.fromtimestamp(max(parked.first_at, parked.last_at), UTC).tzinfo
                assert parked.next_at is None or datetime.fromtimestamp(parked.next_at, UTC).tzinfo
        path.unlink()
    assert tried, f"SQLite stores no such value in {table}"
    if not column.endswith((".seq", ".body", ".kind", ".what")):
        assert list(path.parent.glob("alpine.db.damaged-*")), (
            "no value was found to be none of ours"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "column", ["checkpoint.seq", "state.value", "parked.first_at", "parked.attempts", "asked.seq"]
)
def test_a_command_of_delivery_ends_with_an_error_text_whatever_a_column_holds(
    home: Path, column: str
) -> None:
    with tiny_alpine() as alpine:
        deliver = ("project", "alpine", "--once")
        assert_ended_well(forked(*deliver, home=home, env=alpine.env))
        path = outbox_path(home)
        with closing(sqlite3.connect(path)) as db:
            db.execute(PARKED)
            db.execute(ASKED)
            db.commit()
        original = path.read_bytes()
        for value in COMMAND_VALUES:
            path.write_bytes(original)
            if not assign(path, column, value):
                continue
            for words in (*DELIVERY, deliver):
                done = forked(*words, home=home, env=alpine.env)
                assert done.code in (0, 1, 3), (column, value, words, done)
                assert "Traceback" not in done.err, (column, value, words, done.err)
