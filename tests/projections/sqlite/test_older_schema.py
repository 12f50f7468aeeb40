"""A database of an older version: two commands build it anew, all others refuse and name them."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projections import LifecycleTracker, SchemaTooOld, SignalStore, SignalTracker
from projections.sqlite.database import CURRENT, OLDER, inspect_database, set_up
from tests.harness.command import eventlog
from tests.harness.read_side import append, project
from tests.harness.rebuilds import build_history
from tests.harness.signals import a_signal
from tests.harness.tables import assert_caught_up, database_of, dump, raw_entries

VERSION_1 = """
    ALTER TABLE lifecycle RENAME TO newer;
    CREATE TABLE lifecycle(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, event TEXT NOT NULL,
        recorded_at TEXT NOT NULL, detail TEXT);
    INSERT INTO lifecycle SELECT seq, signal_id, event, recorded_at, detail FROM newer;
    DROP TABLE newer;
    DROP TABLE held;
    CREATE INDEX lifecycle_signal_id ON lifecycle(signal_id) WHERE event <> 'signal';
    PRAGMA user_version = 1;
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose database has the schema of version 1."""
    home = tmp_path / "home"
    path = build_history(home)
    project(home)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
    assert inspect_database(path, check_pages=True) == OLDER
    return home


def test_a_rebuild_names_no_table_of_ours_as_lost(home: Path) -> None:
    with closing(sqlite3.connect(database_of(home))) as db:
        db.execute("CREATE TABLE notes(text)")
    assert eventlog("rebuild-database", "--json", home=home).answers[0]["lost"] == ["notes"]


def test_a_rebuild_counts_the_rows_that_the_new_rules_change(home: Path) -> None:
    with closing(sqlite3.connect(database_of(home))) as db, db:
        changed = db.execute("UPDATE signals SET outcome = 'expired' WHERE id < 3").rowcount
    answer = eventlog("rebuild-database", "--json", home=home).answers[0]
    assert (answer["added"], answer["removed"], answer["changed"]) == (0, 0, changed)
    assert changed > 0


def test_a_rebuild_reads_no_view_in_place_of_the_older_table(home: Path) -> None:
    with closing(sqlite3.connect(database_of(home))) as db:
        db.executescript("ALTER TABLE signals RENAME TO s; CREATE VIEW signals AS SELECT * FROM s")
    answer = eventlog("rebuild-database", "--json", home=home).answers[0]
    assert answer["changed"] is None
    assert inspect_database(database_of(home), check_pages=True) == CURRENT


async def read_with_store(home: Path) -> None:
    async with SignalStore(home) as store:
        await store.count()


async def read_with_lifecycle_tracker(home: Path) -> None:
    async with LifecycleTracker(home):
        pass


@pytest.mark.parametrize("command", [("project", "sqlite", "--once"), ("rebuild-database",)])
def test_two_commands_build_it_anew(home: Path, command: tuple[str, ...]) -> None:
    done = eventlog(*command, home=home)
    assert done.code == 0, done.err
    assert_caught_up(home)
    asyncio.run(read_with_store(home))


def test_the_daemon_says_that_it_builds_it_anew(home: Path) -> None:
    path = database_of(home)
    said = f"older_table_replaced path={path}: it is filled again from the log"
    assert said in eventlog("project", "sqlite", "--once", home=home).err
    assert "older_table_replaced" not in eventlog("project", "sqlite", "--once", home=home).err


@pytest.mark.parametrize(
    "command",
    [
        ("signals",),
        ("stats",),
        ("stats", "--as-of", "2026-01-01T00:00:00Z"),
        ("digest",),
        ("export", "--output", "signals.csv"),
        ("wait", "1", "--for", "projected", "--timeout", "1"),
    ],
)
def test_other_commands_refuse_it_and_name_the_two(home: Path, command: tuple[str, ...]) -> None:
    before = dump(database_of(home))
    done = eventlog(*command, home=home)
    assert (done.code, done.out) == (3, b""), done
    assert "an older version of eventlog made this database" in done.err
    assert "eventlog project sqlite --once" in done.err
    assert "eventlog rebuild-database" in done.err
    assert dump(database_of(home)) == before


@pytest.mark.parametrize("read", [read_with_store, read_with_lifecycle_tracker])
def test_readers_in_python_refuse_it_and_change_nothing(
    home: Path, read: Callable[[Path], Coroutine[Any, Any, None]]
) -> None:
    before = dump(database_of(home))
    with pytest.raises(SchemaTooOld, match="project sqlite --once"):
        asyncio.run(read(home))
    assert dump(database_of(home)) == before


def test_the_tracker_still_logs_and_its_reads_refuse(home: Path) -> None:
    before = dump(database_of(home))
    with SignalTracker(home) as tracker:
        assert tracker.log_signal(a_signal(99)) == "s-99"
        for read in (tracker.get_stats, tracker.get_latest_signals, tracker.flush_pending):
            with pytest.raises(SchemaTooOld, match="rebuild-database"):
                read()
    assert raw_entries(home)[-1].payload["signal_id"] == "s-99"
    assert dump(database_of(home)) == before


def test_a_store_that_is_open_reads_the_table_once_it_was_built_anew(home: Path) -> None:
    async def run() -> None:
        async with SignalStore(home) as store:
            with pytest.raises(SchemaTooOld):
                await store.count()
            await asyncio.to_thread(project, home)
            assert await store.count() == 10

    asyncio.run(run())


def test_status_doctor_and_top_report_it(home: Path) -> None:
    done = eventlog("status", "--json", home=home)
    assert done.code == 0
    figures = json.loads(done.out)["projections"]["sqlite"]
    assert figures["checkpoint"] is None
    assert figures["bytes"] > 0
    assert "project sqlite --once" in figures["problem"]
    assert "older version" in eventlog("status", home=home).out.decode()
    found = json.loads(eventlog("doctor", "--json", home=home).out)
    (table,) = [f for f in found["findings"] if "older version" in f["found"]]
    assert table["level"] == "problem"
    assert "eventlog rebuild-database" in table["do"]
    assert eventlog("top", "--once", home=home).code == 0


def test_a_table_that_is_being_built_anew_is_behind_and_never_wrong(home: Path) -> None:
    """Between the new schema and its rows, as after a crash."""
    assert set_up(database_of(home)) == OLDER
    append(home, a_signal(50))
    with pytest.raises(AssertionError):
        assert_caught_up(home)
    project(home)
    assert_caught_up(home)
