"""A `signals.db` with our application_id whose tables, indexes or triggers are not exactly ours."""

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from projections import SignalStore
from projections.errors import ProjectionError
from projections.rebuild.rebuild import rebuild
from projections.sqlite.database import ALTERED as ALTERED_STATE
from projections.sqlite.database import CURRENT, inspect_database, read_table
from projections.sqlite.file import DamagedDatabase
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.forked import forked
from tests.harness.read_side import append, project
from tests.harness.rebuilds import damaged_copies
from tests.harness.shared_data import assert_ended_well, assert_refused
from tests.harness.signals import closed, signals
from tests.harness.tables import assert_caught_up, database_of
from tests.harness.tiny_alpine import tiny_alpine

READERS = (
    ("signals",),
    ("stats",),
    ("digest",),
    ("export",),
    ("signals", "--as-of", "2026-01-01T00:00:00Z"),
)

# What each does to a database that is otherwise ours. The values in it would be cited with seq and
# chain; rows would vanish; a statement would never end.
ALTERED = {
    "a trigger that changes what is inserted": """
        CREATE TRIGGER t AFTER INSERT ON signals BEGIN
            UPDATE signals SET entry_price = 1.0 WHERE id = new.id; END""",
    "a trigger that changes an outcome": """
        CREATE TRIGGER t AFTER UPDATE OF outcome ON signals BEGIN
            UPDATE signals SET profit_loss_pct = 99.0 WHERE id = new.id; END""",
    "a trigger that drops rows": """
        CREATE TRIGGER t BEFORE INSERT ON lifecycle BEGIN SELECT RAISE(IGNORE); END""",
    "a trigger that refuses rows": """
        CREATE TRIGGER t BEFORE INSERT ON signals BEGIN SELECT RAISE(ABORT, 'no'); END""",
    "a trigger on the checkpoint": """
        CREATE TRIGGER t AFTER UPDATE ON checkpoint BEGIN
            UPDATE checkpoint SET byte_offset = 0; END""",
    "a view in place of the table": """
        ALTER TABLE signals RENAME TO hidden;
        CREATE VIEW signals AS SELECT * FROM hidden;
        CREATE TRIGGER t INSTEAD OF INSERT ON signals BEGIN SELECT 1; END;
        CREATE TRIGGER u INSTEAD OF UPDATE ON signals BEGIN SELECT 1; END""",
    "another column": "ALTER TABLE signals ADD COLUMN note TEXT DEFAULT 'x'",
    "a column that is computed": """
        CREATE TABLE other AS SELECT * FROM conflicts;
        DROP TABLE conflicts;
        CREATE TABLE conflicts(seq INTEGER PRIMARY KEY, signal_id TEXT,
            reason TEXT NOT NULL, more TEXT GENERATED ALWAYS AS (reason || 'x'))""",
    "a constraint that no signal meets": """
        CREATE TABLE other AS SELECT * FROM signal_extras;
        DROP TABLE signal_extras;
        CREATE TABLE signal_extras(signal_id TEXT PRIMARY KEY, extra TEXT NOT NULL CHECK (0))""",
    "one of our indexes missing": "DROP INDEX signals_symbol",
    "a unique index": "CREATE UNIQUE INDEX mine ON conflicts(reason)",
    "an index on an expression that fails": "CREATE INDEX mine ON conflicts(json(reason))",
    "an index with a condition that fails": (
        "CREATE INDEX mine ON conflicts(seq) WHERE json(reason) IS NOT NULL"
    ),
    "an index in an order of another program": (
        "CREATE INDEX mine ON conflicts(reason COLLATE own)"
    ),
    "a table that hides a function": "CREATE TABLE pragma_user_version(user_version)",
    "a view that hides a function": "CREATE VIEW Json_Each AS SELECT 1 AS value",
}
COMMANDS = ["a trigger that changes what is inserted", "a view in place of the table"]
FOREIGN = """
    CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT);
    INSERT INTO notes VALUES (1, '"mine"');
    CREATE INDEX by_text ON notes(json(text));
    CREATE VIEW dear AS SELECT * FROM signals WHERE entry_price > 100;
    CREATE INDEX by_strategy ON signals(strategy, action)"""
ENDLESS = """
    CREATE TABLE round(n INTEGER);
    CREATE TRIGGER t AFTER INSERT ON signals BEGIN
        INSERT INTO round WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
            SELECT count(*) FROM c; END"""
ENDLESS_VIEW = """
    CREATE VIEW signals AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
        SELECT count(*) AS id FROM c"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3), closed(1))
    project(home)
    return home


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        if "signals_symbol" in script:  # whatever our index on that column is called
            listed = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%symbol%'"
            script = script.replace("signals_symbol", db.execute(listed).fetchone()[0])
        db.create_collation("own", lambda a, b: (a > b) - (a < b))
        db.executescript(script)


@pytest.mark.slow
@pytest.mark.parametrize("altered", COMMANDS)
def test_commands_refuse_a_table_that_is_not_exactly_ours(home: Path, altered: str) -> None:
    execute(database_of(home), ALTERED[altered])
    for words in READERS:
        done = forked(*words, home=home)
        assert_refused(done)
        assert "rebuild-database" in done.err, (words, done)
    done = forked("status", "--json", home=home)
    assert "changed its schema" in done.answers[0]["projections"]["sqlite"]["problem"]


@pytest.mark.parametrize("altered", ALTERED)
def test_a_read_finds_that_a_table_is_not_exactly_ours(home: Path, altered: str) -> None:
    path = database_of(home)
    execute(path, ALTERED[altered])
    assert inspect_database(path, check_pages=False) == ALTERED_STATE
    with pytest.raises(DamagedDatabase):
        read_table(path, lambda _: None)


@pytest.mark.parametrize("altered", ALTERED)
def test_a_projection_sets_an_altered_table_aside_and_builds_it_anew(
    home: Path, altered: str
) -> None:
    execute(database_of(home), ALTERED[altered])
    append(home, *signals(3, start=4), closed(4))
    project(home)
    assert_caught_up(home)
    assert len(damaged_copies(home)) == 1
    assert inspect_database(database_of(home), check_pages=True) == CURRENT


@pytest.mark.parametrize("altered", ALTERED)
def test_a_rebuild_sets_an_altered_table_aside_and_builds_it_anew(home: Path, altered: str) -> None:
    execute(database_of(home), ALTERED[altered])
    append(home, *signals(3, start=4), closed(4))
    rebuilt = rebuild(home)
    assert_caught_up(home)
    (kept,) = damaged_copies(home)
    assert (rebuilt.kept, rebuilt.lost) == (str(kept), ())


def test_a_table_of_an_older_schema_with_triggers_and_views_is_replaced(home: Path) -> None:
    path = database_of(home)
    execute(path, ALTERED["a view in place of the table"])
    execute(path, "PRAGMA user_version = 0")
    project(home)
    assert_caught_up(home)
    assert inspect_database(path, check_pages=True) == CURRENT


def test_a_rebuild_never_reads_a_table_of_an_older_schema(home: Path) -> None:
    path = database_of(home)
    execute(path, f"ALTER TABLE signals RENAME TO hidden; {ENDLESS_VIEW}; PRAGMA user_version = 0")
    rebuild(home)
    assert_caught_up(home)
    assert inspect_database(path, check_pages=True) == CURRENT


def test_an_open_store_refuses_a_table_that_is_altered_under_it(home: Path) -> None:
    async def read() -> None:
        async with SignalStore(home) as store:
            assert await store.count() == 3
            execute(database_of(home), ALTERED["a trigger that changes what is inserted"])
            with pytest.raises(ProjectionError, match="rebuild-database"):
                await store.count()
            rebuild(home)
            assert await store.count() == 3

    asyncio.run(read())


def test_an_open_store_reads_on_when_another_program_adds_its_own_table(home: Path) -> None:
    async def read() -> None:
        async with SignalStore(home) as store:
            assert await store.count() == 3
            execute(database_of(home), FOREIGN)
            assert await store.count() == 3

    asyncio.run(read())


@pytest.mark.slow
@pytest.mark.parametrize("altered", ["a trigger that changes what is inserted", "another column"])
def test_a_running_daemon_sets_aside_a_table_that_is_altered_under_it(
    home: Path, altered: str
) -> None:
    with daemon(home, "sqlite") as d:
        append(home, *signals(1, start=4))
        assert_ended_well(forked("wait", 5, "--for", "projected", "--timeout", 20, home=home))
        execute(database_of(home), ALTERED[altered])
        append(home, *signals(3, start=5))
        assert_ended_well(forked("wait", 8, "--for", "projected", "--timeout", 20, home=home))
        assert len(damaged_copies(home)) == 1
        assert d.stop() == 0
    assert_ended_well(forked("project", "sqlite", "--once", home=home))
    assert_caught_up(home)


@pytest.mark.parametrize("altered", ALTERED)
def test_doctor_says_that_a_table_is_not_exactly_ours(home: Path, altered: str) -> None:
    execute(database_of(home), ALTERED[altered])
    done = forked("doctor", "--json", home=home)
    assert done.code == 1, done
    (table,) = (found for found in done.answers[0]["findings"] if found["check"] == "table")
    assert table["level"] == "problem", table


@pytest.mark.slow
def test_a_trigger_that_never_ends_stops_no_daemon_from_stopping(home: Path) -> None:
    execute(database_of(home), ENDLESS)
    append(home, *signals(3, start=4))
    with daemon(home, "sqlite") as d:
        until(lambda: d.catches(signal.SIGTERM))
        forked("wait", 7, "--for", "projected", "--timeout", 10, home=home)
        d.send(signal.SIGTERM)
        assert d.process.wait(10) == 0  # P1: within ten seconds
    assert_ended_well(forked("project", "sqlite", "--once", home=home))
    assert_caught_up(home)


@pytest.mark.slow
def test_foreign_tables_views_and_indexes_are_ignored(home: Path) -> None:
    execute(database_of(home), FOREIGN)
    append(home, *signals(3, start=4))
    done = forked("project", "sqlite", "--once", home=home)
    assert_ended_well(done)
    assert_caught_up(home)
    assert damaged_copies(home) == []
    for words in READERS[:4]:
        assert_ended_well(forked(*words, home=home))
    with closing(sqlite3.connect(database_of(home))) as db:
        assert db.execute("SELECT text FROM notes").fetchall() == [('"mine"',)]
        assert db.execute("SELECT count(*) FROM dear").fetchone() == (6,)


@pytest.mark.slow
def test_a_rebuild_reports_the_foreign_tables_views_and_indexes_that_are_lost(home: Path) -> None:
    execute(database_of(home), FOREIGN)
    done = forked("rebuild-database", home=home)
    assert_ended_well(done)
    for name in ("notes", "dear", "by_strategy"):
        assert name in done.err + done.out.decode(), name
    assert_caught_up(home)
    with closing(sqlite3.connect(database_of(home))) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    assert not names & {"notes", "dear", "by_strategy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "CREATE TRIGGER t AFTER UPDATE ON checkpoint BEGIN UPDATE checkpoint SET seq = 6; END",
        "CREATE TRIGGER t AFTER INSERT ON done BEGIN INSERT OR IGNORE INTO done VALUES (5); END",
        "CREATE TRIGGER t BEFORE INSERT ON parked BEGIN SELECT RAISE(IGNORE); END",
        "ALTER TABLE done RENAME TO d; CREATE VIEW done AS SELECT value AS seq FROM"
        " json_each('[5,6]'); CREATE TRIGGER t INSTEAD OF INSERT ON done BEGIN SELECT 1; END",
    ],
)
def test_an_altered_delivery_state_is_set_aside_and_every_signal_is_delivered(
    home: Path, script: str
) -> None:
    with tiny_alpine() as alpine:
        words = ("project", "alpine", "--once")
        assert_ended_well(forked(*words, home=home, env=alpine.env))
        execute(home / "data" / "alpine.db", script)
        append(home, *signals(3, start=4))
        assert_ended_well(forked(*words, home=home, env=alpine.env))
    assert set(alpine.received) == {f"s-{number}" for number in range(1, 7)}
    assert list((home / "data").glob("alpine.db.damaged-*"))
