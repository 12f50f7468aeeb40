"""data/signals.db: rows and checkpoint change in one transaction, whatever happens to the file.

The letters are those of the failure catalogue: Q of SQLite, T10 of a damaged database.
"""

import asyncio
import fcntl
import json
import os
import random
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, ForeignHome
from projections import CheckpointMoved, Pace, ProjectionError, Projector, SignalStore
from projections.monitoring.status import status
from projections.queries.wait import projected_seq
from projections.run_directory import read_run_state
from projections.signals import schema
from projections.sqlite.database import inspect_database
from projections.sqlite.file import JOURNAL_BYTES_MAX, connect
from projections.sqlite.lock import write_lock
from projections.sqlite.projection import SqliteProjection
from tests.harness.command import COMMAND, eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import DEADLINE_S, until, until_async
from tests.harness.log_checks import tree_contents
from tests.harness.mounts import on_small_disk
from tests.harness.read_side import append, checkpoint_seq_of, project, running
from tests.harness.rebuilds import build_history, damaged_copies, signal_lifecycle
from tests.harness.requirements import CHECKOUT, needs_tool
from tests.harness.signals import a_signal, signals
from tests.harness.tables import (
    assert_caught_up,
    assert_is_fold,
    database_of,
    dump,
    raw_entries,
    reading,
    seq_in,
)


def projected(home: Path, count: int = 20) -> Path:
    """A home in which every table has rows; returns the path of the database."""
    path = build_history(home, count)
    project(home)
    return path


def writing(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=30)


# -- the schema of the contract

SCHEMA = """
CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, signal_id TEXT UNIQUE NOT NULL, symbol TEXT NOT NULL,
    action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL NOT NULL,
    stop_price REAL NOT NULL, confidence REAL NOT NULL, strategy TEXT NOT NULL,
    asset_type TEXT NOT NULL, data_source TEXT DEFAULT 'weighted_consensus',
    timestamp TEXT NOT NULL, outcome TEXT DEFAULT NULL, exit_price REAL DEFAULT NULL,
    profit_loss_pct REAL DEFAULT NULL, sha256 TEXT NOT NULL, order_id TEXT DEFAULT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE signal_extras(signal_id TEXT PRIMARY KEY, extra TEXT NOT NULL);
CREATE TABLE lifecycle(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, event TEXT NOT NULL,
    recorded_at TEXT NOT NULL, detail TEXT, known_seq INTEGER NOT NULL, state TEXT NOT NULL,
    order_id TEXT, outcome TEXT, exit_price REAL, profit_loss_pct REAL,
    executed_seq INTEGER, closed_seq INTEGER);
CREATE TABLE held(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, event TEXT NOT NULL,
    recorded_at TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE conflicts(seq INTEGER PRIMARY KEY, signal_id TEXT, reason TEXT NOT NULL);
CREATE TABLE checkpoint(name TEXT PRIMARY KEY, seq INTEGER NOT NULL, chain TEXT NOT NULL,
    segment INTEGER, byte_offset INTEGER);
"""


def shell(path: Path, question: str) -> str:
    words = [needs_tool("sqlite3", apt="sqlite3"), "-readonly", str(path), question]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    return done.stdout.strip()


def one_line_each(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def test_the_sqlite3_shell_shows_the_tables_of_the_contract(home: Path) -> None:
    path = projected(home)
    shown = [
        statement
        for statement in one_line_each(shell(path, ".schema"))
        if statement.startswith("CREATE TABLE") and "sqlite_sequence" not in statement
    ]
    assert shown == one_line_each(SCHEMA)
    assert int(shell(path, "PRAGMA application_id")) == 0x53474C47
    assert int(shell(path, "PRAGMA user_version")) == schema.SCHEMA_VERSION
    assert shell(path, "PRAGMA journal_mode") == "wal"
    assert shell(path, "PRAGMA integrity_check") == "ok"


def test_indexes_serve_symbol_timestamp_and_confidence(home: Path) -> None:
    path = projected(home)
    for column in ("symbol", "timestamp", "confidence", "signal_id"):
        question = f"EXPLAIN QUERY PLAN SELECT id FROM signals WHERE {column} = 1"
        assert "USING" in shell(path, question), column


def test_a_row_is_named_by_its_seq_and_the_second_of_its_recording(home: Path) -> None:
    path = projected(home, 3)
    for entry in raw_entries(home):
        if entry.event == "signal":
            at_s = f"{entry.recorded_at[:10]} {entry.recorded_at[11:19]}"
            question = f"SELECT id, created_at FROM signals WHERE id = {entry.seq}"
            assert shell(path, question) == f"{entry.seq}|{at_s}"
    assert shell(path, "SELECT datetime(created_at) = created_at FROM signals LIMIT 1") == "1"


# -- modes


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_files_are_private_regardless_of_the_umask(home: Path, umask: int) -> None:
    append(home, a_signal(1))
    before = os.umask(umask)
    try:
        with daemon(home, "sqlite"):
            until(lambda: seq_in(home) == 1)
            modes = modes_in(home / "data")
    finally:
        os.umask(before)
    names = {"signals.db", "signals.db-wal", "signals.db-shm"}
    assert modes == dict.fromkeys(names, 0o600)


@pytest.mark.parametrize("mode", [0o2750, 0o750, 0o2770])
def test_a_group_that_may_read_data_may_read_the_database(home: Path, mode: int) -> None:
    append(home, a_signal(1))
    data = home / "data"
    group = next(iter(set(os.getgroups()) - {os.getgid()}), 4242 if os.getuid() == 0 else -1)
    os.chown(data, -1, group)
    data.chmod(mode)
    with daemon(home, "sqlite"):
        until(lambda: seq_in(home) == 1)
        modes = modes_in(data)
        groups = {path.stat().st_gid for path in data.glob("signals.db*")}
    assert stat.S_IMODE(data.stat().st_mode) == mode
    for name in ("signals.db", "signals.db-wal", "signals.db-shm"):
        assert modes[name] == 0o640
    if mode & stat.S_ISGID and group >= 0:
        assert groups == {group}


# -- Q1: other programs write, too


@pytest.mark.slow
def test_it_waits_for_another_writer(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(home, *signals(5))
    project(home)
    done = threading.Event()
    problems: list[BaseException] = []

    def scribble() -> None:
        try:
            with closing(writing(database_of(home))) as db:
                db.execute("CREATE TABLE notes(text)")
                while not done.wait(0.005):
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("INSERT INTO notes VALUES ('x')")
                    done.wait(0.005)
                    db.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  # the test reports it
            problems.append(error)

    async def run() -> None:
        projector = Projector(home, SqliteProjection(), pace=Pace(batch_entries=2))
        async with running(projector):
            for number in range(6, 40):
                await asyncio.to_thread(append, home, a_signal(number))
            await until_async(lambda: checkpoint_seq_of(projector) == 39)

    scribbling = threading.Thread(target=scribble)
    scribbling.start()
    try:
        asyncio.run(run())
    finally:
        done.set()
        scribbling.join()
    assert not problems
    assert "stalled" not in caplog.text  # a deferred transaction would have been refused at once
    assert_caught_up(home)


@pytest.mark.slow
def test_a_writer_that_keeps_the_lock_stalls_it_and_loses_nothing(home: Path) -> None:
    append(home, a_signal(1))
    project(home)
    with daemon(home, "sqlite") as d, closing(writing(database_of(home))) as db:
        db.execute("BEGIN IMMEDIATE")
        append(home, a_signal(2))
        until(lambda: "stalled projection=sqlite" in d.err)
        assert "database is locked" in d.err
        db.execute("ROLLBACK")
        until(lambda: seq_in(home) == 2)
        assert d.stop() == 0
    assert_caught_up(home)


# -- Q2: a long reader


@pytest.mark.slow
def test_after_a_long_reader_the_wal_is_cut_back_to_its_limit(home: Path) -> None:
    append(home, a_signal(0))
    wal = home / "data" / "signals.db-wal"

    def batch(start: int, count: int) -> None:
        append(home, *(a_signal(n, note="x" * 60_000) for n in range(start, start + count)))

    async def run() -> None:
        projector = Projector(home, SqliteProjection(), pace=Pace(batch_entries=100))
        async with running(projector):
            await until_async(lambda: checkpoint_seq_of(projector) == 1)
            with closing(reading(database_of(home))) as reader:
                reader.execute("BEGIN")
                assert reader.execute("SELECT count(*) FROM signals").fetchone() == (1,)
                for start in range(1, 1300, 200):
                    batch(start, 200)
                await until_async(lambda: checkpoint_seq_of(projector) == 1401)
                assert wal.stat().st_size > JOURNAL_BYTES_MAX, "the reader did not pin it"
                (found,) = eventlog("status", "--json", home=home).answers
                figures = found["projections"]["sqlite"]
                assert figures["wal_bytes"] == wal.stat().st_size
                assert reader.execute("SELECT count(*) FROM signals").fetchone() == (1,)
            for number in (
                2000,
                2001,
                2002,
            ):  # the first writes the WAL back, the next starts it again
                batch(number, 1)
                await until_async(lambda n=number: checkpoint_seq_of(projector) == n - 598)  # type: ignore[misc]
            assert wal.stat().st_size <= JOURNAL_BYTES_MAX

    asyncio.run(run())
    assert not wal.exists()


# -- Q3: no space


def limit_files(pid: int, size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_commit_that_finds_no_space_is_rolled_back_whole_and_tried_again(home: Path) -> None:
    append(home, *signals(5))
    with daemon(home, "sqlite", "--batch-size", 10) as d:
        until(lambda: seq_in(home) == 5)
        limit_files(d.process.pid, (home / "data" / "signals.db-wal").stat().st_size + 10_000)
        append(home, *(a_signal(n, note="x" * 2000) for n in range(6, 100)))
        until(lambda: "stalled projection=sqlite" in d.err)
        seq = assert_is_fold(home).seq
        assert 5 <= seq < 99
        assert "SQLite cannot write now" in d.err
        limit_files(d.process.pid, -1)
        until(lambda: seq_in(home) == 99)
        assert d.stop() == 0
    assert_caught_up(home)


FILL_AND_FREE = """
import asyncio, json, os, shutil, sys
from pathlib import Path
from projections import Pace, Projector, ProjectionStalled
from projections.sqlite.projection import SqliteProjection
from projections.monitoring.status import status
from projections.queries.wait import projected_seq
home, left_bytes = Path(sys.argv[1]), int(sys.argv[2])

def fill():
    with open(home / "data" / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(max(0, filler.tell() - left_bytes))

def run():
    pace = Pace(batch_entries=3, once_stall_s=0.0)
    projector = Projector(home, SqliteProjection(), pace=pace)
    try:
        asyncio.run(projector.run(once=True))
    except ProjectionStalled as error:
        return [projector.checkpoint.seq if projector.checkpoint else 0, str(error)]
    return [projector.checkpoint.seq, None]

fill()
found = [run()]
os.unlink(home / "data" / "filler")
shutil.copytree(home, sys.argv[3] + "/full", symlinks=True)
found.append(run())
shutil.copytree(home, sys.argv[3] + "/free", symlinks=True)
print(json.dumps(found))
"""


@pytest.mark.parametrize("left_bytes", [0, 50_000, 100_000, 150_000, 200_000, 400_000])
def test_on_a_real_full_disk_nothing_is_half_done_and_it_goes_on_when_space_is_back(
    home: Path, tmp_path: Path, left_bytes: int
) -> None:
    append(home, *signals(60))
    out = tmp_path / "out"
    python = (sys.executable, "-c", FILL_AND_FREE, home, left_bytes, out)
    done = subprocess.run(
        [str(word) for word in (*on_small_disk("1500k", home / "data"), *python)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stderr
    (full_seq, problem), (free_seq, no_problem) = json.loads(done.stdout)
    assert (free_seq, no_problem) == (60, None)
    if problem is None:
        assert left_bytes >= 200_000
    else:
        assert "disk is full" in problem or "disk I/O error" in problem
        assert full_seq < 60
    if database_of(out / "full").exists():
        assert assert_is_fold(out / "full").seq == full_seq
    assert_caught_up(out / "free")


# -- Q6: fork

FORK = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from eventlog import EventLog
from projections import ProjectionError
from projections.sqlite.projection import SqliteProjection
from projections.monitoring.status import status
from projections.queries.wait import projected_seq

async def main(home):
    projection = SqliteProjection()
    before = await projection.open(home)
    pid = os.fork()
    if pid == 0:
        entries = list(EventLog(home).read())
        after = replace(before, seq=entries[-1].seq, chain=entries[-1].chain)
        async def in_child():
            try:
                await projection.apply(entries, before=before, after=after)
            except ProjectionError as error:
                return 0 if "forked" in str(error) else 1
            return 2
        asyncio._set_running_loop(None)
        os._exit(asyncio.new_event_loop().run_until_complete(in_child()))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    await projection.close()
    return code

sys.exit(asyncio.run(main(Path(sys.argv[1]))))
"""


def test_a_forked_child_is_refused_the_connection_of_its_parent(home: Path) -> None:
    append(home, *signals(3))
    words = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(home)]
    done = subprocess.run(words, cwd=CHECKOUT, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0
    assert seq_in(home) == 0


# -- Q7: the file is deleted or replaced under a running projector


async def grow(home: Path, projector: Projector, start: int, count: int = 3, **more: Any) -> None:
    """Appends items one by one, and waits until each is applied."""
    for number in range(start, start + count):
        await asyncio.to_thread(append, home, a_signal(number, **more))
        await until_async(lambda n=number: checkpoint_seq_of(projector) == n)  # type: ignore[misc]


@pytest.mark.parametrize("readers", [0, 1])
@pytest.mark.parametrize("with_wal", [False, True])
def test_a_database_deleted_under_a_projector_is_created_again(
    home: Path, readers: int, with_wal: bool
) -> None:
    """A reader of the old database keeps its -shm file; the projection must not use that."""

    async def run() -> None:
        projector = Projector(home, SqliteProjection(), pace=Pace(batch_entries=2))
        append(home, a_signal(1))
        async with running(projector):
            await grow(home, projector, 2)
            for start in (5, 8):
                held = [reading(database_of(home)) for _ in range(readers)]
                for db in held:
                    assert db.execute("SELECT max(id) FROM signals").fetchone() == (start - 1,)
                database_of(home).unlink()
                if with_wal:
                    (home / "data" / "signals.db-wal").unlink()
                    (home / "data" / "signals.db-shm").unlink()
                await grow(home, projector, start)
                assert_caught_up(home)
                for db in held:  # they keep their snapshot
                    assert db.execute("SELECT max(id) FROM signals").fetchone() == (start - 1,)
                    db.close()
                assert_caught_up(home)

    asyncio.run(run())
    assert_caught_up(home)
    with closing(reading(database_of(home))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not damaged_copies(home)


def test_two_projectors_agree_on_the_new_one_when_a_database_is_deleted(home: Path) -> None:
    async def run() -> None:
        append(home, a_signal(1))
        one, two = (Projector(home, SqliteProjection()) for _ in range(2))
        async with running(one), running(two):
            for start in (2, 5, 8):
                await grow(home, one, start)
                await grow(home, two, start + 3, 0)
                await until_async(lambda s=start: checkpoint_seq_of(two) == s + 2)  # type: ignore[misc]
                assert_caught_up(home)
                database_of(home).unlink()

    asyncio.run(run())
    project(home)
    assert_caught_up(home)


def test_an_older_copy_put_in_its_place_under_a_projector_is_brought_up(
    home: Path, tmp_path: Path
) -> None:
    """The WAL at the path belongs to the deleted database: its pages must not be used."""
    copy = tmp_path / "copy.db"

    async def run() -> None:
        append(home, *signals(3))
        projector = Projector(home, SqliteProjection())
        async with running(projector):
            await until_async(lambda: checkpoint_seq_of(projector) == 3)
            with closing(reading(database_of(home))) as db, closing(writing(copy)) as out:
                db.backup(out)
            await grow(home, projector, 4, note="x" * 20_000)
            with closing(writing(database_of(home))) as db:
                db.execute("PRAGMA wal_checkpoint(RESTART)")
            await grow(home, projector, 7, note="y" * 20_000)
            copy.replace(database_of(home))
            await grow(home, projector, 10)

    asyncio.run(run())
    assert_caught_up(home)
    with closing(reading(database_of(home))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not damaged_copies(home)


def test_a_database_replaced_by_an_unknown_one_is_a_failure_and_left_alone(home: Path) -> None:
    with EventLog(home) as log:  # opened first, so that it keeps working
        log.append(a_signal(1))
        with daemon(home, "sqlite") as d:
            until(lambda: seq_in(home) == 1)
            foreign(home / "data" / "other.db")
            before = (home / "data" / "other.db").read_bytes()
            (home / "data" / "other.db").replace(database_of(home))
            log.append(a_signal(2))
            until(lambda: "projection_failed projection=sqlite" in d.err)
            assert "old tracker" in d.err
            until(lambda: read_run_state(home, "sqlite").state == "failed")
            time.sleep(1.5)  # a restart
            assert d.stop() == 0
    assert database_of(home).read_bytes() == before


# -- Q8: two start at once


@pytest.mark.slow
def test_daemons_that_start_at_once_on_a_new_database_all_come_up(tmp_path: Path) -> None:
    for number in range(4):
        home = tmp_path / f"home-{number}"
        append(home, *signals(20))
        words = [str(COMMAND), "--home", str(home), "project", "sqlite", "--once"]
        started = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(3)]
        for process in started:
            _, err = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, err) == (0, b"")
        assert_caught_up(home)
        assert not damaged_copies(home)


def test_a_killed_set_up_is_not_treated_as_damage(home: Path) -> None:
    append(home, *signals(2))
    data, run = home / "data", home / "run"
    run.mkdir(mode=0o700)
    (run / "signals.db.new").write_bytes(b"half of it")
    (run / "signals.db.new-wal").write_bytes(b"half of it")
    (data / "signals.db-wal").write_bytes(b"of a database that is gone")
    project(home)
    assert modes_in(data).keys() == {"signals.db"}
    assert modes_in(run).keys() == {"signals.lock"}
    assert_caught_up(home)


# -- T10: damage while no projector runs


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_within_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def text(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 100)


def executed(statement: str) -> Callable[[Path], None]:
    """Another program changes the tables."""

    def execute(path: Path) -> None:
        with closing(writing(path)) as db:
            db.execute(statement)

    execute.__name__ = statement
    return execute


DAMAGE: list[Callable[[Path], None]]
DAMAGE = [empty, truncate, truncate_within_a_page, garbage, text]
DAMAGE += [
    executed(f"DROP TABLE {name}")
    for name in ("signals", "signal_extras", "lifecycle", "held", "conflicts", "checkpoint")
]
DAMAGE += [
    executed("DELETE FROM checkpoint"),
    executed("UPDATE checkpoint SET seq = 'seven'"),
    executed("UPDATE checkpoint SET seq = -1"),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_database_is_set_aside_and_rebuilt(
    home: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = projected(home)
    damage(path)
    bad = path.read_bytes()
    append(home, a_signal(100))
    project(home)
    assert_caught_up(home)
    (kept,) = damaged_copies(home)
    assert kept.read_bytes() == bad
    assert "database_damaged" in caplog.text


def test_a_deleted_database_is_rebuilt(home: Path) -> None:
    projected(home).unlink()
    project(home)
    assert_caught_up(home)
    assert not damaged_copies(home)


@pytest.mark.slow
def test_an_overwritten_page_is_found_at_the_start(home: Path) -> None:
    path = projected(home)
    whole = path.read_bytes()
    with closing(reading(path)) as db:
        ((page_bytes,),) = db.execute("PRAGMA page_size").fetchall()
    for number in range(len(whole) // page_bytes):
        data = bytearray(whole)
        data[number * page_bytes : (number + 1) * page_bytes] = b"\xa5" * page_bytes
        path.write_bytes(data)
        project(home)
        assert_caught_up(home)
        (kept,) = damaged_copies(home)
        assert kept.read_bytes() == data
        kept.unlink()


def test_the_wal_of_a_damaged_database_is_kept_with_it(home: Path) -> None:
    append(home, *signals(3))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 3)
        d.process.kill()
        d.wait()
    wal = (home / "data" / "signals.db-wal").read_bytes()
    assert wal
    text(database_of(home))
    project(home)
    assert_caught_up(home)
    (kept,) = damaged_copies(home)
    assert Path(f"{kept}-wal").read_bytes() == wal


def test_each_damaged_database_is_kept_under_a_name_of_its_own(home: Path) -> None:
    for count in (1, 2, 3):
        projected(home, count) if count == 1 else project(home)
        text(database_of(home))
        project(home)
        assert len(damaged_copies(home)) == count
        assert_caught_up(home)


def test_a_path_that_is_not_a_file_is_refused(home: Path) -> None:
    append(home, a_signal(1))
    database_of(home).symlink_to(home / "elsewhere.db")
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert "not a regular file" in done.err
    assert not (home / "elsewhere.db").exists()


# -- databases that are not ours, or not of our schema


def foreign(path: Path, *, wal: bool = False) -> None:
    """A database of the old tracker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(writing(path)) as db:
        if wal:
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT, symbol TEXT)")
        db.execute("INSERT INTO signals VALUES (1, 'old', 'AAPL')")


COMMANDS = [
    ("project", "sqlite", "--once"),
    ("project", "all", "--once"),
    ("status",),
    ("signals",),
    ("signals", "--json"),
    ("stats",),
    ("wait", "1", "--timeout", "0"),
]


@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_database_of_the_old_tracker_is_refused_and_left_alone(
    home: Path, words: tuple[str, ...], wal: bool
) -> None:
    append(home, a_signal(1))
    foreign(database_of(home), wal=wal)
    before = tree_contents(home)
    done = eventlog(*words, home=home)
    assert done.code == 3
    assert "old tracker" in done.err
    assert "import-legacy" in done.err
    assert done.out == b""
    assert tree_contents(home) == before


def test_the_projection_itself_refuses_a_database_of_the_old_tracker(home: Path) -> None:
    foreign(database_of(home), wal=True)
    before = tree_contents(home)
    with pytest.raises(ForeignHome):
        asyncio.run(SqliteProjection().open(home))
    assert tree_contents(home).keys() - before.keys() == {"run", "run/signals.lock"}
    assert database_of(home).read_bytes() == before["data/signals.db"]


def test_a_database_of_a_newer_schema_is_refused_and_left_alone(home: Path) -> None:
    path = projected(home, 2)
    with closing(writing(path)) as db:
        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    append(home, a_signal(9))
    before = dump(path)
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert "newer version" in done.err
    assert "upgrade" in done.err
    assert dump(path) == before


def test_a_newer_schema_under_a_running_daemon_is_a_failure_and_left_alone(home: Path) -> None:
    path = projected(home, 2)
    with daemon(home, "sqlite") as d:
        append(home, a_signal(8))
        until(lambda: seq_in(home) == 9)
        with closing(writing(path)) as db:
            db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
        before = dump(path)
        append(home, a_signal(9))
        until(lambda: "projection_failed projection=sqlite" in d.err)
        assert "newer version" in d.err
        time.sleep(1.5)  # a restart
        assert d.stop() == 0
    assert dump(path) == before


def test_a_database_of_an_older_schema_of_ours_is_filled_again_from_the_log(home: Path) -> None:
    path = projected(home, 3)
    with closing(writing(path)) as db:
        for table in ("signals", "lifecycle", "conflicts", "signal_extras"):
            db.execute(f"DROP TABLE {table}")
        db.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, old TEXT)")
        db.execute("INSERT INTO signals VALUES (1, 'x')")
        db.execute("CREATE TABLE lifecycles(seq)")
        db.execute("PRAGMA user_version = 0")
    inode = path.stat().st_ino
    with closing(reading(path)) as db:
        assert db.execute("SELECT old FROM signals").fetchone() == ("x",)
        project(home)
        assert db.execute("SELECT count(*) FROM signals").fetchone() == (3,)  # readers keep working
    assert path.stat().st_ino == inode
    assert_caught_up(home)
    assert not damaged_copies(home)
    with closing(reading(path)) as db:
        assert (
            db.execute("SELECT name FROM sqlite_master WHERE name = 'lifecycles'").fetchall() == []
        )


def test_an_older_database_that_is_damaged_is_set_aside(home: Path) -> None:
    path = projected(home)
    with closing(writing(path)) as db:
        db.execute("PRAGMA user_version = 0")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    project(home)
    assert_caught_up(home)
    assert len(damaged_copies(home)) == 1


# -- a batch is applied as a whole or not at all


def test_cancelling_at_any_moment_leaves_a_complete_batch_or_none(home: Path) -> None:
    lives = [item for number in range(1, 30) for item in signal_lifecycle(number)]
    append(home, *lives)
    entries = raw_entries(home)

    async def run() -> None:
        projection = SqliteProjection()
        checkpoint = await projection.open(home)
        cancelled = 0
        while checkpoint.seq < len(entries):
            batch = entries[checkpoint.seq : checkpoint.seq + 4]
            after = replace(checkpoint, seq=batch[-1].seq, chain=batch[-1].chain)
            turns = cancelled % 40
            applying = asyncio.create_task(projection.apply(batch, before=checkpoint, after=after))
            for _ in range(turns):
                await asyncio.sleep(0)
            applying.cancel()
            with suppress(asyncio.CancelledError):
                await applying
            cancelled += applying.cancelled()
            found = await asyncio.to_thread(assert_is_fold, home)
            assert found.seq in (checkpoint.seq, after.seq)
            checkpoint = checkpoint if found.seq == checkpoint.seq else after
            if cancelled > 80:  # apply the rest without cancelling
                break
        await projection.close()
        assert cancelled > 20

    asyncio.run(run())
    project(home)
    assert_caught_up(home)


def test_cancelling_does_not_wait_for_a_lock_held_by_another_process(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    append(home, a_signal(3))

    async def run() -> None:
        projection = SqliteProjection()
        before = await projection.open(home)
        entries = raw_entries(home)
        with held(home):
            after = replace(before, seq=3, chain=entries[2].chain)
            applying = asyncio.create_task(
                projection.apply(entries[2:], before=before, after=after)
            )
            await asyncio.sleep(0.05)
            assert not applying.done()
            applying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await applying
            await projection.close()

    asyncio.run(run())
    assert assert_is_fold(home).seq == 2


def test_two_tasks_of_one_projection_apply_one_after_the_other(home: Path) -> None:
    append(home, *signals(30))
    entries = raw_entries(home)

    async def run() -> list[BaseException | None]:
        projection = SqliteProjection()
        before = await projection.open(home)
        after = replace(before, seq=30, chain=entries[-1].chain)
        both = (projection.apply(entries, before=before, after=after) for _ in range(2))
        try:
            return await asyncio.gather(*both, return_exceptions=True)
        finally:
            await projection.close()

    assert [type(result) for result in asyncio.run(run())] == [type(None), CheckpointMoved]
    assert_caught_up(home)


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Holds the write lock of the database, as a hanging process would."""
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    fd = os.open(home / "run" / "signals.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_a_waiter_for_a_deleted_lock_file_waits_for_the_new_one(
    home: Path,
) -> None:
    """W9: two writers with the locks of two files would write at the same time."""
    projected(home, 1)
    entered: list[str] = []

    def wait_in_a_thread() -> None:
        with write_lock(home).held():
            entered.append("thread")

    async def wait_in_a_task() -> None:
        async with write_lock(home):
            entered.append("task")

    async def run() -> None:
        thread = threading.Thread(target=wait_in_a_thread)
        with ExitStack() as stack:
            with held(home):
                thread.start()
                task = asyncio.create_task(wait_in_a_task())
                await asyncio.sleep(0.1)
                (home / "run" / "signals.lock").unlink()
                stack.enter_context(held(home))
            await asyncio.sleep(0.1)
            assert entered == []
        await task
        await asyncio.to_thread(thread.join)

    asyncio.run(run())
    assert sorted(entered) == ["task", "thread"]


# Deletes the database when SQLite is about to open it for writing.
DELETING = """
import asyncio, sys
from pathlib import Path
from projections.errors import ProjectionStalled
from projections.sqlite.projection import SqliteProjection
home, stalls = Path(sys.argv[1]), []
def hook(event, words):
    is_opened = event == "sqlite3.connect" and "/data/signals.db?mode=rw" in str(words[0])
    if is_opened and not stalls:
        (home / "data" / "signals.db").unlink()
sys.addaudithook(hook)
async def run():
    projection = SqliteProjection()
    try:
        await projection.open(home)
    except ProjectionStalled:
        stalls.append("stalled")
    await projection.open(home)  # as a daemon does, a moment later
    await projection.close()
asyncio.run(run())
print(*stalls)
"""


def test_a_database_that_is_deleted_before_it_is_opened_is_not_made_open_to_all(
    home: Path,
) -> None:
    """Contract 1: SQLite would create an empty file whose mode depends on the umask."""
    path = projected(home, 1)
    script = [sys.executable, "-c", DELETING, str(home)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert (done.stdout, done.stderr) == ("stalled\n", "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*path.parent.glob("*damaged*")] == []
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert_is_fold(home)


def test_a_row_inserted_by_another_process_is_reported(home: Path) -> None:
    path = projected(home, 1)
    with closing(writing(path)) as db:
        db.execute(
            "INSERT INTO signals(id, signal_id, symbol, action, entry_price, target_price,"
            " stop_price, confidence, strategy, asset_type, timestamp, sha256)"
            " VALUES (5, 'mine', 'X', 'BUY', 1, 2, 0.5, 50, 's', 't', 't', 'h')"
        )
    append(home, a_signal(2))
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert "another program has changed the database" in done.err
    assert "rebuild-database" in done.err


def test_a_projection_that_was_not_opened_is_refused() -> None:
    async def run() -> None:
        with pytest.raises((CheckpointMoved, ProjectionError)):
            await SqliteProjection().status()

    asyncio.run(run())


def locks_on(path: Path) -> list[str]:
    """The POSIX locks of this process on a file."""
    pid, inode = os.getpid(), path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if f" {pid} " in line and f":{inode} " in line]


def test_examining_the_database_drops_no_lock_of_this_process(home: Path) -> None:
    """Closing another descriptor of the file would release all of them (Q4)."""
    path = projected(home, 2)

    async def run() -> None:
        projection = SqliteProjection()
        await projection.open(home)
        held_before = locks_on(path)
        assert held_before
        for question in (status, projected_seq, EventLog):
            await asyncio.to_thread(question, home)
            assert len(locks_on(path)) == len(held_before), question
        async with SignalStore(home) as store:
            assert await store.count() == 2
        inspect_database(path, check_pages=True)
        assert len(locks_on(path)) == len(held_before)
        await projection.close()

    asyncio.run(run())


def test_a_reader_can_neither_write_nor_memory_map_the_file(home: Path) -> None:
    path = projected(home, 1)
    with closing(connect(path, readonly=True)) as db:
        assert db.execute("PRAGMA query_only").fetchone() == (1,)
        assert db.execute("PRAGMA mmap_size").fetchone() in (None, (0,))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM signals")
    assert_caught_up(home)
