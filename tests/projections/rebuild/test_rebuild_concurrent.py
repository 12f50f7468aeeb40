"""`rebuild-database` with concurrent readers, daemons, writers and rebuilds, and killed.

The letters are those of the failure catalogue: T9 of the projector.
"""

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eventlog import EventLog, LogCorrupt
from projections import ProjectionError
from projections.rebuild.prefetch import prefetch
from projections.rebuild.rebuild import digest_of, rebuild
from projections.signals import schema
from projections.signals.digest import digest
from projections.sqlite.lock import write_lock
from projections.sqlite.scratch import rebuild_directory
from tests.harness.command import command_line, eventlog, strace
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.read_side import append, project
from tests.harness.rebuilds import (
    OLD_SYMBOL,
    assert_healthy_database,
    assert_nothing_left,
    build_history,
    execute_sql,
)
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed
from tests.harness.tables import (
    assert_caught_up,
    raw_entries,
    read_tables,
    reading,
)

# -- concurrent processes


def rebuilding(home: Path) -> subprocess.Popen[bytes]:
    """A `rebuild-database` that has just been started."""
    return subprocess.Popen(
        command_line(("rebuild-database", "--json"), home, ()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def killed(process: subprocess.Popen[bytes]) -> None:
    """Kills it and its second process."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@contextmanager
def readers(path: Path, known: set[str], count: int = 2) -> Iterator[list[str]]:
    """Runs polling readers; returns their complaints. `known` are the digests they may see."""
    problems: list[str] = []
    done = threading.Event()

    def poll() -> None:
        highest = 0
        with closing(reading(path)) as db:
            while not done.is_set():
                try:
                    db.execute("BEGIN")
                    rows = db.execute(schema.SELECT_SIGNALS).fetchall()
                    (last,) = db.execute("SELECT max(id) FROM signals").fetchone()
                    (seq,) = db.execute("SELECT seq FROM checkpoint").fetchone()
                    db.execute("COMMIT")
                except sqlite3.Error as error:
                    problems.append(f"an error: {error}")
                    return
                if last is None or last < highest or last > seq:
                    problems.append(f"max(id) fell from {highest} to {last}, at seq {seq}")
                highest = last or 0
                if known and digest(rows) not in known:
                    problems.append(f"{len(rows)} rows are neither the old table nor the new one")

    threads = [threading.Thread(target=poll) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield problems
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_readers_see_the_old_table_or_the_new_one_and_never_an_error(home: Path) -> None:
    path = build_history(home, 200)
    project(home)
    new = digest_of(home)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db:
        db.execute(OLD_SYMBOL)
        old = digest_of(home)
        with readers(path, {old, new}) as problems:
            for _ in range(4):
                assert rebuild(home).digest == new
                db.execute(OLD_SYMBOL)
    assert problems == []
    assert_nothing_left(home)


def test_a_reader_in_a_long_transaction_keeps_what_it_saw(home: Path) -> None:
    path = build_history(home)
    project(home)
    execute_sql(path, OLD_SYMBOL)
    with closing(reading(path)) as db:
        db.execute("BEGIN")
        before = db.execute(schema.SELECT_SIGNALS).fetchall()
        rebuild(home)
        assert db.execute(schema.SELECT_SIGNALS).fetchall() == before
        db.execute("COMMIT")
        assert db.execute(schema.SELECT_SIGNALS).fetchall() != before
    assert_caught_up(home)


@pytest.mark.slow
def test_a_daemon_writers_readers_and_two_rebuilds_at_once_end_with_the_right_table(
    home: Path,
) -> None:
    """T9: no process crashes, and the checkpoint never moves back."""
    path = build_history(home, 100)
    project(home)
    with daemon(home, "sqlite") as projecting, readers(path, set()) as problems:
        with EventLog(home) as log:
            for turn in range(6):
                both = [rebuilding(home) for _ in range(2)]
                number = 1_000 * (turn + 1)
                while any(process.poll() is None for process in both):
                    number += 1
                    log.append(a_signal(number))
                    log.append(closed(number))
                for process in both:
                    out, err = process.communicate()
                    assert (process.returncode, err) == (0, b"")
                    assert json.loads(out)["removed"] == 0
        until(lambda: read_tables(home)[1].seq == len(raw_entries(home)))
        assert projecting.process.poll() is None
        assert projecting.stop() == 0
    assert problems == []
    assert_caught_up(home)
    assert_healthy_database(path)
    assert_nothing_left(home)


def test_a_rebuild_does_not_wait_for_the_daemon_to_end_nor_the_daemon_for_it(home: Path) -> None:
    path = build_history(home)
    with daemon(home, "sqlite") as projecting:
        until(lambda: path.exists() and read_tables(home)[1].seq == 40)
        assert eventlog("rebuild-database", home=home).code == 0
        append(home, a_signal(100))
        until(lambda: read_tables(home)[1].seq == 41)
        assert projecting.stop() == 0
    assert_caught_up(home)


def waits_for_the_lock(process: subprocess.Popen[bytes]) -> bool:
    """Whether the kernel lists the process as waiting for a flock."""
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return any(f" {process.pid} " in line for line in waiting)


@pytest.mark.slow
def test_entries_appended_while_it_waits_for_the_lock_are_in_the_new_table(home: Path) -> None:
    """Otherwise the live checkpoint would move back."""
    build_history(home)
    project(home)
    for _ in range(20):
        process = rebuilding(home)
        if appended_before_its_swap(home, process):
            out, err = process.communicate()
            assert (process.returncode, err) == (0, b"")
            assert json.loads(out)["entries"] == 41
            assert_caught_up(home)
            return
        assert process.communicate()[1] == b""
    pytest.fail("each rebuild was faster than this test")


def appended_before_its_swap(home: Path, process: subprocess.Popen[bytes]) -> bool:
    """Appends a signal while the rebuild waits to swap; False if it swapped before that."""
    with write_lock(home).held():
        until(lambda: process.poll() is not None or waits_for_the_lock(process))
    with write_lock(home).held():
        until(lambda: process.poll() is not None or waits_for_the_lock(process))
        if process.poll() is None:
            append(home, a_signal(100))
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "empty", "garbage"])
def test_a_daemon_that_had_the_bad_file_open_goes_on_in_the_new_one(home: Path, how: str) -> None:
    path = build_history(home)
    with daemon(home, "sqlite") as projecting:
        until(lambda: path.exists() and read_tables(home)[1].seq == 40)
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"" if how == "empty" else os.urandom(20_000))
        assert eventlog("rebuild-database", home=home).code == 0
        append(home, a_signal(100))
        until(lambda: read_tables(home)[1].seq == 41)
        assert projecting.process.poll() is None
        assert projecting.stop() == 0
    assert_caught_up(home)
    assert_healthy_database(path)


# -- killed


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_table(home: Path) -> None:
    path = build_history(home, 800)
    project(home)
    new = digest_of(home)
    execute_sql(path, OLD_SYMBOL)
    old = digest_of(home)
    saved = path.read_bytes()
    started_s = time.monotonic()
    with rebuilding(home) as process:
        process.communicate()
    whole_s = time.monotonic() - started_s
    seen = set()
    rng = random.Random(11)
    for _ in range(12):
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            name.unlink(missing_ok=True)
        path.write_bytes(saved)
        process = rebuilding(home)
        time.sleep(rng.uniform(0, whole_s))
        killed(process)
        with closing(reading(path)) as db:
            found = digest(db.execute(schema.SELECT_SIGNALS))
            assert found in {old, new}
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        seen.add(found)
        project(home)
    assert old in seen
    assert rebuild(home).digest == new
    assert_nothing_left(home)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "when"), [("-wal", 1), ("-wal", 15), ("", 1), ("", 15)])
def test_a_kill_during_the_swap_leaves_the_old_or_the_new_table(
    home: Path, file: str, when: int
) -> None:
    """Killed at a write to the WAL, during the backup, and to the database, after it."""
    path = build_history(home, 200)
    project(home)
    new = digest_of(home)
    execute_sql(path, OLD_SYMBOL)
    old = digest_of(home)
    with closing(reading(path)) as db:  # creates the WAL file, whose path strace needs
        db.execute(schema.SELECT_SIGNALS).fetchone()
        inject = f"inject=pwrite64:signal=SIGKILL:when={when}"
        only = ("-P", f"{path}{file}", "-e", "trace=pwrite64", "-e", inject)
        assert eventlog("rebuild-database", home=home, under=strace(*only)).code in (-9, 137)
        found = digest(db.execute(schema.SELECT_SIGNALS))
        assert found == (old if file else new)
    assert_healthy_database(path)
    assert rebuild(home).digest == new
    assert_nothing_left(home)


def test_files_of_a_killed_rebuild_are_removed_and_files_in_use_are_not(
    home: Path,
) -> None:
    build_history(home)
    left = home / "run" / ".rebuild-1-0"
    left.mkdir(parents=True)
    (left / "signals.db").write_bytes(b"half of it")
    with rebuild_directory(home) as place:
        assert not left.exists()
        (place / "signals.db").write_bytes(b"in use")
        rebuild(home)
        assert (place / "signals.db").read_bytes() == b"in use"
    assert_nothing_left(home)


def test_an_interrupted_rebuild_removes_its_files(home: Path) -> None:
    build_history(home, 400)
    process = rebuilding(home)
    there = (home / "run").glob
    until(lambda: any(there(".rebuild-*/signals.db")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert b"Traceback" not in err
    assert process.returncode in (130, 0)
    assert_nothing_left(home)


# -- the second process


def run_in_new_process(work: Callable[[], None]) -> None:
    """Runs in a process with one thread, which may fork; pytest-xdist workers have more."""
    program = f"from {__name__} import {work.__name__} as work; work()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def pids() -> Iterator[tuple[object, ...]]:
    while True:
        yield (os.getpid(),)


def comes_in_order() -> None:
    def count() -> Iterator[tuple[object, ...]]:
        for number in range(1_000):
            yield number, b"x" * number, "ü" * (number % 7), [None, 1.5, (number,)]
        raise LogCorrupt("entry 7 is gone", segment="1", byte_offset=3, seq=7)

    seen: list[tuple[object, ...]] = []
    with prefetch(count) as items, pytest.raises(LogCorrupt, match="entry 7 is gone") as raised:
        seen.extend(items)  # keeps the items before the error
    assert (raised.value.seq, raised.value.byte_offset) == (7, 3)
    assert seen == list(itertools.islice(count(), 1_000))


@pytest.mark.parametrize("run", [run_in_new_process, lambda work: work()])
def test_prefetched_results_and_errors_come_in_order(
    run: Callable[[Callable[[], None]], None],
) -> None:
    run(comes_in_order)


def is_gone_when_it_is_left() -> None:
    with prefetch(pids) as items:
        (pid,) = next(items)
        assert isinstance(pid, int)
        assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_prefetch_process_ends_when_the_block_is_left() -> None:
    run_in_new_process(is_gone_when_it_is_left)


def test_a_process_with_several_threads_starts_no_prefetch_process() -> None:
    """A process with several threads cannot fork safely."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with prefetch(pids) as items:
            assert next(items) == (os.getpid(),)
    finally:
        stop.set()
        thread.join()


def tells_when_it_is_killed() -> None:
    with prefetch(pids) as items:
        (pid,) = next(items)
        assert isinstance(pid, int)
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProjectionError, match="was killed"):
            list(items)


def test_a_killed_prefetch_process_is_named_in_the_error() -> None:
    run_in_new_process(tells_when_it_is_killed)
