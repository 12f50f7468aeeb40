"""`rebuild-database` and `digest`: a rebuilt table equals the one that grew live.

The letters are those of the failure catalogue: T9 and T10 of the projector, Q3 of SQLite.
"""

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EventLog, ForeignHome, LogCorrupt, LogNotFound
from eventlog.repair.repair import repair
from projections import Pace, ProjectionError, SchemaTooNew
from projections.projection import Checkpoint
from projections.rebuild.batches import read_batches
from projections.rebuild.rebuild import digest_of, rebuild
from projections.signals import schema
from tests.harness import model
from tests.harness.command import eventlog, strace
from tests.harness.histories import HASHED_FIELDS, Item, histories, with_sha256
from tests.harness.raw_log import RawLog
from tests.harness.read_side import append, project
from tests.harness.rebuilds import (
    OLD_SYMBOL,
    assert_healthy_database,
    assert_nothing_left,
    build_history,
    damaged_copies,
    execute_sql,
    names_in,
)
from tests.harness.signals import a_signal, closed
from tests.harness.tables import (
    assert_caught_up,
    database_of,
    dump,
    raw_entries,
    read_tables,
    reading,
)

# -- the same table


def rehashed(history: list[Item]) -> list[Item]:
    """Corrects the sha256 of each signal; malformed values stay."""

    def hashed(event: str, payload: dict[str, Any]) -> dict[str, Any]:
        whole = all(type(payload.get(key)) in (str, int, float) for key in HASHED_FIELDS)
        if event != "signal" or not whole or "sha256" not in payload:
            return payload
        return with_sha256(payload)

    return [(event, hashed(event, payload)) for event, payload in history]


def grown_live(home: Path, raw: RawLog, history: list[Item], steps: list[int]) -> None:
    """Writes the log and projects it in between, in batches and with restarts."""
    while history:
        count = steps.pop() if steps else len(history)
        raw.add(history[:count], lines_in_segment=7)
        history = history[count:]
        project(home, Pace(batch_entries=count % 5 + 1))


@pytest.mark.slow
@settings(max_examples=20)
@given(histories().map(rehashed), st.lists(st.integers(1, 12), max_size=4))
def test_the_rebuilt_table_equals_the_live_table_and_the_model(
    history: list[Item], steps: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        raw = RawLog(home)
        raw.add(history[:1])
        grown_live(home, raw, history[1:], steps)
        live = read_tables(home) if raw.lines and database_of(home).exists() else None
        if not raw.lines:
            with pytest.raises(LogNotFound):
                rebuild(home)
            return
        rebuilt = rebuild(home)
        tables, point = read_tables(home)
        expected = model.fold(raw_entries(home))
        assert tables == expected
        assert rebuilt.digest == digest_of(home) == expected.digest()
        assert point == (len(raw.lines), raw.lines[-1][-67:-3].decode())
        if live is not None:
            assert (tables, point) == live
        assert (rebuilt.entries, rebuilt.rows) == (len(raw.lines), len(expected.signals))
        assert rebuilt.conflicts == len(expected.conflicts)


@settings(max_examples=15)
@given(histories(malformed=False))
def test_a_log_of_our_own_writer_gives_the_same_table(history: list[Item]) -> None:
    """Its lines are converted by the columnar fast path."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EventLog(home, dedupe_entries=0, segment_bytes=4_000) as log:
            for start in range(0, len(history), 4):
                items = [{"event": event, **p} for event, p in history[start : start + 4]]
                log.append_each(items)
        if not (home / "logs").is_dir():
            return
        rebuilt = rebuild(home)
        live = read_tables(home)
        expected = model.fold(raw_entries(home))
        assert live[0] == expected
        assert rebuilt.digest == expected.digest()
        database_of(home).unlink()
        project(home)
        assert read_tables(home) == live


def test_facts_are_held_from_one_batch_of_a_rebuild_to_the_next(home: Path) -> None:
    """Each append has a segment of its own, and so a batch."""
    early = {"event": "executed", "signal_id": "s-1", "order_id": "o-1"}
    for items in (
        *([early, closed(1, exit_price=200.0)], [closed(2)], [a_signal(3)]),
        *([a_signal(1, note="x"), closed(3)], [a_signal(1)], [a_signal(4)]),
    ):
        append(home, *items, segment_bytes=1)
    batches = list(read_batches(home, Checkpoint(projection="sqlite")))
    assert [batch.seq for batch in batches] == [2, 3, 4, 6, 7]  # s-1 came again: a duplicate
    rebuilt = rebuild(home)
    assert_caught_up(home)
    tables, _ = read_tables(home)
    assert [row[0] for row in tables.held] == [row[0] for row in tables.conflicts] == [3]
    assert tables.signals[1][12:17:4] == ["win", "o-1"]
    assert rebuilt.digest == digest_of(home)


def test_row_numbers_and_sequences_are_those_of_the_live_table(home: Path) -> None:
    """Compares also rowids of tables without an id, and the next id."""
    path = build_history(home)
    project(home)
    queries = (
        "SELECT rowid, * FROM signal_extras ORDER BY rowid",
        "SELECT * FROM sqlite_sequence",
        "SELECT * FROM checkpoint",
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name",
    )

    def found() -> list[Any]:
        with closing(reading(path)) as db:
            return [db.execute(query).fetchall() for query in queries]

    live = found()
    rebuild(home)
    assert found() == live
    assert_healthy_database(path)


def test_signals_that_come_again_are_conflicts_in_a_long_log_too(home: Path) -> None:
    """Duplicates far apart, close together, and with extras in the second one only."""
    raw = RawLog(home)
    items: list[Item] = []
    for number in [1, 1, *range(2, 900), 5, 600, 600]:
        stamp = "2025-11-18T02:00:00.000000+00:00"
        payload = {**a_signal(number, timestamp=stamp), "asset_type": "x", "data_source": "y"}
        payload |= {"note": len(items)} if len(items) % 3 else {}
        items.append(("signal", with_sha256(payload)))
    items.append(("closed", {"signal_id": "s-5", "exit_price": 1.0}))
    items.append(("signal", items[7][1]))
    raw.add(items, lines_in_segment=10_000)
    rebuilt = rebuild(home)
    assert_caught_up(home)
    assert rebuilt.conflicts == 5
    assert_healthy_database(database_of(home))


def test_accepted_damage_is_a_conflict_as_in_the_live_table(home: Path) -> None:
    with EventLog(home, segment_bytes=2_000) as log:
        for number in range(1, 30):
            log.append(a_signal(number))
    segments = sorted((home / "logs").glob("*.jsonl"))
    data = bytearray(segments[1].read_bytes())
    data[700] ^= 1
    segments[1].write_bytes(data)
    segments[3].unlink()
    (home / "logs" / ".lock").unlink()
    assert repair(home, accept=True, now="2025-11-18T02:00:00Z", lock_timeout_s=5).is_done
    project(home)
    live = read_tables(home)
    rebuilt = rebuild(home)
    assert read_tables(home) == live
    assert rebuilt.conflicts == len(live[0].conflicts) == 2


# -- the report


def test_it_reports_the_differences_from_the_old_table(home: Path) -> None:
    path = build_history(home)
    project(home)
    first = rebuild(home)
    assert (first.old, first.difference and first.difference.added) == ("compared", 0)
    execute_sql(
        path,
        OLD_SYMBOL,
        "UPDATE signals SET profit_loss_pct = NULL WHERE id = 5",
        "DELETE FROM signals WHERE id IN (9, 13, 17)",
        "INSERT INTO signals SELECT id + 1, 'x', symbol, action, 1, 2, 3, 4, strategy, '', '', '',"
        " NULL, NULL, NULL, '', NULL, '' FROM signals WHERE id = 1",
    )
    found = rebuild(home)
    assert found.difference is not None
    said = (found.difference.added, found.difference.removed, found.difference.changed)
    assert said == (3, 1, 2)
    assert found.digest == first.digest == digest_of(home)
    assert (found.entries, found.rows, found.conflicts) == (40, 10, 10)
    assert_caught_up(home)


def test_the_command_prints_the_report_and_the_digest(home: Path) -> None:
    append(home, a_signal(1), a_signal(2), closed(1))
    done = eventlog("rebuild-database", "--json", home=home)
    assert (done.code, done.err) == (0, "")
    (said,) = done.answers
    assert said["rate"] > 0
    assert {key: said[key] for key in ("entries", "rows", "added", "removed", "changed")} == {
        "entries": 3,
        "rows": 2,
        "added": 2,
        "removed": 0,
        "changed": 0,
    }
    assert said["old"] == "missing"
    digest = eventlog("digest", home=home)
    assert digest.out.decode() == said["digest"] + "\n"
    assert eventlog("digest", "--json", home=home).answers == [{"digest": said["digest"]}]
    tables, _ = read_tables(home)
    assert said["digest"] == tables.digest()
    for_people = eventlog("rebuild-database", home=home).out.decode()
    for name in ("entries", "rows", "rate", "digest", "added", "removed", "changed"):
        assert re.search(rf"^{name} +\S", for_people, re.MULTILINE)
    assert said["digest"] in for_people


def test_a_missing_log_or_table_is_reported_and_nothing_is_created(home: Path) -> None:
    for word in ("rebuild-database", "digest"):
        done = eventlog(word, home=home)
        assert done.code == 3
        assert done.err.startswith("error: there is no log at this home\n")
    assert not home.exists()
    append(home, a_signal(1))
    done = eventlog("digest", home=home)
    assert done.code == 3
    assert done.err.startswith("error: there is no database yet\n")
    assert not (home / "data" / "signals.db").exists()


# -- failures that leave the old table


@pytest.fixture
def old_table(home: Path) -> Iterator[Path]:
    """A live table with OLD_SYMBOL, which must still be there at the end."""
    path = build_history(home)
    project(home)
    execute_sql(path, OLD_SYMBOL)
    before = dump(path)
    for name in (f"{path}-wal", f"{path}-shm"):  # left by a reader that may not remove them
        Path(name).unlink()
    yield path
    assert dump(path) == before
    assert_nothing_left(home)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_on_a_damaged_log_it_exits_3_and_leaves_the_table(
    home: Path, old_table: Path, part: float
) -> None:
    (segment,) = (home / "logs").glob("*.jsonl")
    data = bytearray(segment.read_bytes())
    data[int(part * len(data))] ^= 1
    segment.write_bytes(data)
    done = eventlog("rebuild-database", home=home)
    assert (done.code, done.out) == (3, b"")
    assert "eventlog verify" in done.err


def test_a_signal_without_its_own_hash_is_damage_too(home: Path, tmp_path: Path) -> None:
    raw = RawLog(home)
    payload = with_sha256({**a_signal(1), "asset_type": "stock", "data_source": "x"})
    raw.add([("signal", payload), ("signal", {**payload, "signal_id": "b"})])
    with pytest.raises(LogCorrupt, match="does not match its sha256"):
        rebuild(home)
    assert not database_of(home).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("file", "when"), [("", 1), ("", 30), ("-wal", 1), ("-wal", 5)])
def test_a_disk_error_leaves_the_old_table(
    home: Path, old_table: Path, file: str, when: int
) -> None:
    """Q3: in the new file, and in the WAL while the old table is overwritten."""
    only = ("-P", f"{old_table}{file}") if file else ()
    inject = f"inject=pwrite64:error=ENOSPC:when={when}+"
    done = eventlog(
        "rebuild-database", home=home, under=strace(*only, "-e", "trace=pwrite64", "-e", inject)
    )
    assert done.code == 3
    assert "old table is unchanged" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("file", "call"), [("", "pwrite64"), ("", "fdatasync"), ("-wal", "fsync")])
def test_work_that_fails_after_the_swap_is_done_by_a_later_commit(
    home: Path, file: str, call: str
) -> None:
    """The WAL then holds the whole new table."""
    path = build_history(home, 100)
    project(home)
    execute_sql(path, OLD_SYMBOL)
    error = "EIO" if "sync" in call else "ENOSPC"
    only = ("-P", f"{path}{file}", "-e", f"trace={call}")
    under = strace(*only, "-e", f"inject={call}:error={error}:when=1+")
    assert eventlog("rebuild-database", home=home, under=under).code == 0
    assert_caught_up(home)
    append(home, a_signal(500))
    project(home)
    assert_caught_up(home)
    assert_healthy_database(path)


def test_a_lack_of_disk_space_is_reported_with_the_remedy(home: Path, old_table: Path) -> None:
    done = eventlog(
        "rebuild-database",
        home=home,
        under=strace("-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=1+"),
    )
    assert done.code == 3
    assert "error: no room for the new table" in done.err
    assert "Traceback" not in done.err


def test_an_unknown_database_is_refused(home: Path) -> None:
    append(home, a_signal(1))
    path = database_of(home)
    execute_sql(path, "CREATE TABLE signals(id)", "INSERT INTO signals VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(ForeignHome):
        rebuild(home)
    with pytest.raises(ForeignHome):
        digest_of(home)
    assert eventlog("rebuild-database", home=home).code == 3
    assert path.read_bytes() == before
    assert names_in(home) == {"signals.db"}


def test_a_newer_schema_is_refused_and_an_older_one_replaced(home: Path) -> None:
    path = build_history(home)
    project(home)
    execute_sql(path, f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    with pytest.raises(SchemaTooNew):
        rebuild(home)
    execute_sql(path, "PRAGMA user_version = 0", "DROP TABLE signals", "CREATE TABLE was(x)")
    rebuilt = rebuild(home)
    assert (rebuilt.old, rebuilt.difference, damaged_copies(home)) == ("unreadable", None, [])
    assert_caught_up(home)
    assert_healthy_database(path)


@pytest.mark.slow
def test_a_writer_that_keeps_its_transaction_open_is_named(
    home: Path, old_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.rebuild.swap.BACKUP_BUSY_S_MAX", 0.1)
    monkeypatch.setattr("projections.sqlite.file.BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(old_table, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(ProjectionError, match="another program has locked"):
            rebuild(home)
        foreign.execute("ROLLBACK")


# -- T10: damage that a rebuild repairs


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 200] = bytes(byte ^ 0xFF for byte in data[at : at + 200])
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(20_000)),
    "truncated to half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "truncated to a page": lambda path: os.truncate(path, 4096),
    "its header": lambda path: flip(path, 0),
    "its schema": lambda path: flip(path, 3_800),
    "a page of the table": lambda path: flip(path, 4_096),
    "without tables": lambda path: execute_sql(path, "DROP TABLE checkpoint"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_database_is_kept_aside_and_a_new_one_put_there(home: Path, name: str) -> None:
    path = build_history(home)
    project(home)
    inode = path.stat().st_ino
    DAMAGES[name](path)
    damaged = path.read_bytes()
    rebuilt = rebuild(home)
    assert (rebuilt.old, rebuilt.difference) == ("unreadable", None)
    (there,) = damaged_copies(home)
    assert rebuilt.kept == str(there)
    assert there.read_bytes() == damaged
    assert path.stat().st_ino != inode
    assert_caught_up(home)
    assert_healthy_database(path)
    assert_nothing_left(home)


@pytest.mark.parametrize("with_wal", [False, True])
def test_a_deleted_database_is_created_again(home: Path, with_wal: bool) -> None:
    path = build_history(home)
    project(home)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(OLD_SYMBOL)
        saved = Path(f"{path}-wal").read_bytes()
    path.unlink()
    if with_wal:
        Path(f"{path}-wal").write_bytes(saved)
    rebuilt = rebuild(home)
    assert rebuilt.old == "missing"
    assert_caught_up(home)
    assert_healthy_database(path)


def test_the_data_directory_may_be_missing(home: Path) -> None:
    build_history(home)
    shutil.rmtree(home / "data")
    rebuild(home)
    assert_caught_up(home)
    assert (home / "data").stat().st_mode & 0o777 == 0o700
    assert database_of(home).stat().st_mode & 0o777 == 0o600


def test_a_group_that_may_read_data_may_read_the_new_database(home: Path) -> None:
    build_history(home)
    (home / "data").chmod(0o2750)
    rebuild(home)
    assert database_of(home).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("page_bytes", [512, 8192, 65536])
def test_the_page_size_of_the_live_database_stays(home: Path, page_bytes: int) -> None:
    path = build_history(home)
    project(home)
    execute_sql(path, "PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {page_bytes}", "VACUUM")
    rebuild(home)  # also brings back the WAL mode
    with closing(reading(path)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (page_bytes,)
    assert_caught_up(home)
    assert_healthy_database(path)


def test_a_database_of_another_log_is_replaced(home: Path, tmp_path: Path) -> None:
    """R5: a projector refuses such a table; an operator may rebuild it."""
    build_history(home, 20)
    project(home)
    other = tmp_path / "other"
    build_history(other, 3)
    shutil.rmtree(home / "logs")
    shutil.copytree(other / "logs", home / "logs", symlinks=True)
    rebuilt = rebuild(home)
    assert rebuilt.difference is not None
    assert rebuilt.difference.removed == 17
    assert_caught_up(home)
