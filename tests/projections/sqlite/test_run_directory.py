"""Locks and run files in `run/`, which is for this account alone, and who waits for whom."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import daemon, ready
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.forked import forked
from tests.harness.privileges import bound_by_modes
from tests.harness.read_side import append, project
from tests.harness.shared_data import (
    assert_ended_well,
    assert_refused,
    hold,
    open_to_group,
)
from tests.harness.signals import signals
from tests.harness.tables import assert_caught_up, seq_in
from tests.harness.tiny_alpine import TinyAlpine, tiny_alpine

KILLED_AFTER = ("timeout", "--signal=KILL", "60")
OLD_LOCKS = ("signals.db.lock", "alpine.lock")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


@pytest.fixture
def alpine() -> Iterator[TinyAlpine]:
    with tiny_alpine() as alpine:
        yield alpine


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- where they are


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_locks_are_in_run_for_this_account_alone_whatever_the_umask(
    home: Path, alpine: TinyAlpine, umask: int
) -> None:
    open_to_group(home)
    for words in (("sqlite",), ("alpine",)):
        done = forked("project", *words, "--once", home=home, env=alpine.env, umask=umask)
        assert_ended_well(done)
    assert mode_of(home / "run") == 0o700
    assert {"signals.lock", "alpine.lock"} <= {path.name for path in (home / "run").iterdir()}
    assert {mode_of(path) for path in (home / "run").iterdir()} == {0o600}


def test_nothing_that_is_locked_or_tells_who_runs_is_left_in_data(
    home: Path, alpine: TinyAlpine
) -> None:
    done = forked("project", "all", "--once", home=home, env=alpine.env)
    assert_ended_well(done)
    assert_ended_well(forked("rebuild-database", home=home))
    names = {path.name for path in (home / "data").iterdir()}
    assert {"signals.db", "alpine.db"} <= names
    assert names <= {
        f"{name}{suffix}" for name in ("signals.db", "alpine.db") for suffix in ("", "-wal", "-shm")
    }


@pytest.mark.parametrize(("mode", "code"), [(0o750, 0), (0o755, 0), (0o770, 3), (0o702, 3)])
def test_a_run_directory_keeps_its_mode_and_is_refused_where_others_may_write(
    home: Path, mode: int, code: int
) -> None:
    (home / "run").mkdir()
    (home / "run").chmod(mode)
    done = forked("project", "sqlite", "--once", home=home)
    if code:
        assert_refused(done)
        assert list((home / "run").iterdir()) == []
    else:
        assert_ended_well(done)
    assert mode_of(home / "run") == mode


@pytest.mark.slow
def test_a_run_file_names_the_process_that_runs_the_projection_and_its_successor(
    home: Path,
) -> None:
    path = home / "run" / "sqlite.json"

    def pid_in_file() -> int:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            return 0  # it is being written
        report = json.loads(data)
        if report["state"] == "stopped":
            return 0  # between the two
        assert report["state"] == "running"
        assert datetime.fromisoformat(report["since"]).tzinfo is not None
        return int(report["pid"])

    with ready(home, "sqlite") as second, ready(home, "sqlite") as first:
        assert pid_in_file() == second.process.pid  # it came first
        second.send(signal.SIGTERM)
        assert second.wait() == 0
        until(lambda: pid_in_file() == first.process.pid)
        assert first.stop() == 0


@pytest.mark.slow
def test_a_daemon_reports_one_of_an_older_version_that_delivers(
    home: Path, alpine: TinyAlpine
) -> None:
    with hold(home / "data" / "alpine.lock"), daemon(home, "alpine", env=alpine.env) as d:
        until(lambda: "older_daemon_runs" in d.err, lambda: d.err)


@pytest.mark.slow
def test_a_running_projection_has_its_file_in_run_and_holds_its_lock(home: Path) -> None:
    path = home / "run" / "sqlite.json"
    with ready(home, "sqlite") as d:
        assert mode_of(path) == 0o600
        assert os.system(f"flock --nonblock {path} true") != 0, "nobody holds its lock"
        assert d.stop() == 0
    assert os.system(f"flock --nonblock {path} true") == 0


def test_reading_commands_create_no_run_directory(home: Path) -> None:
    for words in (
        ("status",),
        ("cat",),
        ("verify",),
        ("conflicts",),
        ("stats",),
        ("parked", "list"),
    ):
        forked(*words, home=home)
    assert not (home / "run").exists()


# -- what stands there instead


@pytest.mark.parametrize("name", ["run", "run/signals.lock"])
def test_a_link_in_place_of_run_or_of_a_lock_is_refused_and_not_followed(
    home: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if name == "run":
        elsewhere.mkdir()
    else:
        (home / "run").mkdir(mode=0o700)
    os.symlink(elsewhere, home / name)
    for words in (("project", "sqlite", "--once"), ("rebuild-database",)):
        assert_refused(forked(*words, home=home))
    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []
    (home / name).unlink()
    project(home)
    assert_caught_up(home)


def test_a_fifo_in_place_of_a_lock_is_refused_and_nothing_hangs(home: Path) -> None:
    (home / "run").mkdir(mode=0o700)
    os.mkfifo(home / "run" / "signals.lock")
    for words in (("project", "sqlite", "--once"), ("rebuild-database",)):
        assert_refused(forked(*words, home=home))


def test_an_account_that_may_not_create_run_is_told_what_to_do(home: Path) -> None:
    home.chmod(0o500)
    try:
        done = eventlog("project", "sqlite", "--once", home=home, under=bound_by_modes())
    finally:
        home.chmod(0o700)
    assert_refused(done)
    assert "create run/ for it" in done.err


def test_a_backup_is_restored_into_a_home_with_a_run_directory(home: Path, tmp_path: Path) -> None:
    assert_ended_well(forked("backup", tmp_path / "dest", home=home))
    project(home)
    shutil.rmtree(home / "logs")
    shutil.rmtree(home / "data")
    assert (home / "run" / "signals.lock").exists()
    assert_ended_well(forked("restore", tmp_path / "dest", home=home))
    project(home)
    assert_caught_up(home)


# -- locks that a reader of data/ can take


@pytest.mark.slow
def test_a_reader_that_locks_data_stops_no_delivery(home: Path, alpine: TinyAlpine) -> None:
    (home / "data").chmod(0o2750)
    with hold(home / "data", shared=True):
        done = forked("project", "alpine", "--once", home=home, env=alpine.env)
        assert_ended_well(done)
    assert sorted(alpine.received) == ["s-1", "s-2", "s-3"]  # ten are in flight, in no order


@pytest.mark.slow
def test_a_reader_that_locks_data_stops_no_projection_and_no_rebuild(
    home: Path, alpine: TinyAlpine
) -> None:
    (home / "data").chmod(0o2750)
    with hold(home / "data", shared=True):
        for words in (("project", "all", "--once"), ("rebuild-database",)):
            assert_ended_well(forked(*words, home=home, env=alpine.env))
    assert_caught_up(home)
    assert len(alpine.received) == 3


@pytest.mark.slow
def test_a_reader_that_locks_data_is_not_taken_for_a_daemon_that_delivers(
    home: Path, alpine: TinyAlpine
) -> None:
    done = forked("project", "alpine", "--once", home=home, env=alpine.env)
    assert_ended_well(done)
    with hold(home / "data", shared=True):
        (answer,) = forked("status", "--json", home=home).answers
    assert answer["projections"]["alpine"]["state"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signals.db", "alpine.db"])
def test_a_reader_that_locks_a_database_file_stops_nothing(
    home: Path, alpine: TinyAlpine, name: str
) -> None:
    assert_ended_well(forked("project", "all", "--once", home=home, env=alpine.env))
    append(home, *signals(2, start=4))
    with hold(home / "data" / name, shared=True):
        done = forked("project", "all", "--once", home=home, env=alpine.env)
        assert_ended_well(done)
        assert_ended_well(forked("rebuild-database", home=home))
    assert_caught_up(home)


@pytest.mark.slow
def test_a_rebuild_does_not_wait_for_a_reader_that_locks_its_scratch_directory(home: Path) -> None:
    open_to_group(home)
    done = forked("rebuild-database", home=home, lock=home / "run" / ".rebuild-*")
    assert done.code == 0, done
    assert_caught_up(home)
    assert done.fired


@pytest.mark.slow
def test_a_drill_does_not_wait_for_a_reader_that_locks_its_scratch_directory(
    home: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    assert_ended_well(forked("backup", dest, home=home))
    done = forked("backup", "--verify", dest, home=home, lock=dest / ".eventlog-scratch-*")
    assert done.fired
    assert done.code == 0, done


# -- locks that a writer of data/ can take: it unlinks, recreates and holds them


@pytest.mark.slow
def test_a_lock_file_that_another_account_holds_in_data_stops_nothing(
    home: Path, alpine: TinyAlpine
) -> None:
    open_to_group(home)
    assert_ended_well(forked("project", "all", "--once", home=home, env=alpine.env))
    append(home, *signals(2, start=4))
    first, second = (home / "data" / name for name in OLD_LOCKS)
    for path in (first, second):
        path.unlink(missing_ok=True)
    with hold(first), hold(second):
        done = forked("project", "all", "--once", home=home, env=alpine.env)
        assert_ended_well(done)
        assert_ended_well(forked("rebuild-database", home=home))
    assert_caught_up(home)
    assert sorted(alpine.received) == [f"s-{number}" for number in range(1, 6)]


@pytest.mark.slow
def test_a_tracker_reads_its_own_signals_whatever_another_account_holds_in_data(
    home: Path,
) -> None:
    open_to_group(home)
    project(home)
    (home / "data" / OLD_LOCKS[0]).unlink(missing_ok=True)
    append(home, *signals(1, start=4))
    program = "import sys; from projections import SignalTracker\n"
    program += "print(SignalTracker(home=sys.argv[1]).get_stats()['total_signals'])"
    words = [*KILLED_AFTER, sys.executable, "-c", program, str(home)]
    with hold(home / "data" / OLD_LOCKS[0]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done


# -- a lock that is waited for


@pytest.mark.slow
def test_a_wait_for_the_table_names_the_holder_and_is_limited(home: Path) -> None:
    commands = (("project", "sqlite", "--once"), ("rebuild-database",))
    project(home)
    append(home, *signals(2, start=4))
    lock = home / "run" / "signals.lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    with hold(lock) as pid, ThreadPoolExecutor() as threads:  # both wait at the same time
        waiting = [threads.submit(eventlog, *words, home=home) for words in commands]
        ended = [done.result() for done in waiting]
    for done in ended:
        assert_refused(done)
        assert str(pid) in done.err, done.err
    for words in commands:
        assert_ended_well(forked(*words, home=home))
        assert_caught_up(home)


@pytest.mark.slow
def test_a_daemon_reports_the_process_that_it_waits_for_and_goes_on_when_it_is_free(
    home: Path,
) -> None:
    project(home)
    append(home, *signals(2, start=4))
    lock = home / "run" / "signals.lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    with hold(lock) as pid, daemon(home, "sqlite") as d:
        until(lambda: str(pid) in d.err or d.process.poll() is not None, lambda: d.err)
        assert d.process.poll() is None, d.err
    with daemon(home, "sqlite"):
        until(lambda: seq_in(home) == 5)


@pytest.mark.slow
def test_a_daemon_that_waits_for_a_lock_stops_when_asked(home: Path) -> None:
    lock = home / "run" / "signals.lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    with hold(lock), daemon(home, "sqlite") as d:
        until(lambda: d.catches(signal.SIGTERM))
        time.sleep(1)  # it waits by now
        d.process.terminate()
        assert d.process.wait(10) == 0  # P1: within ten seconds


@pytest.mark.slow
def test_a_second_sender_names_the_one_that_delivers(home: Path, alpine: TinyAlpine) -> None:
    lock = home / "run" / "alpine.lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    with hold(lock) as pid:
        words = ("project", "alpine", "--once")
        done = forked(*words, home=home, env=alpine.env, seconds_max=DEADLINE_S)
    assert_refused(done)
    assert str(pid) in done.err, done.err
    assert alpine.received == []
