"""FIFOs, links, devices and directories in place of the databases of a home: no command hangs."""

import os
import signal
import sqlite3
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.daemon import daemon, listening
from tests.harness.deadline import until
from tests.harness.forked import forked, moments
from tests.harness.log_checks import segments_in
from tests.harness.privileges import bound_by_modes
from tests.harness.read_side import append, project
from tests.harness.shared_data import assert_refused
from tests.harness.signals import signals
from tests.harness.tables import database_of, seq_in
from tests.harness.tiny_alpine import tiny_alpine

Odd = Callable[[Path], None]
STOP_S_MAX = 10  # P1
START_S_MAX = 60


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    os.symlink("pipe", path)


def a_link_to_zeros(path: Path) -> None:
    os.symlink("/dev/zero", path)


def a_link_to_nothing(path: Path) -> None:
    os.symlink("nowhere", path)


def a_directory(path: Path) -> None:
    path.mkdir()


def a_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 40)


ODD: list[Odd] = [a_fifo, a_link_to_a_fifo, a_link_to_zeros, a_link_to_nothing, a_directory]
NAMES = ["signals.db", "alpine.db"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", [*ODD, a_sparse_file])
def test_status_and_doctor_answer_whatever_stands_in_place_of_a_database(
    home: Path, odd: Odd, name: str
) -> None:
    odd(home / "data" / name)
    done = forked("status", "--json", home=home)
    assert done.code == 0, done
    which = name.removesuffix(".db").replace("signals", "sqlite")
    assert done.answers[0]["projections"][which]["problem"]
    done = forked("doctor", home=home)
    assert done.code == 1, done  # it is bad news
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "words", [("signals",), ("stats",), ("digest",), ("export",), ("rebuild-database",)]
)
def test_a_command_of_the_table_refuses_what_is_no_regular_file(
    home: Path, odd: Odd, words: tuple[str, ...]
) -> None:
    odd(home / "data" / "signals.db")
    assert_refused(forked(*words, home=home))


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_a_command_of_delivery_refuses_what_is_no_regular_file(home: Path, odd: Odd) -> None:
    odd(home / "data" / "alpine.db")
    with tiny_alpine(lambda _: {"signals": [], "next": None}) as alpine:
        for words in (
            ("parked", "list"),
            ("parked", "retry", "--all"),
            ("project", "alpine", "--once"),
        ):
            assert_refused(forked(*words, home=home, env=alpine.env))
        done = forked("reconcile", home=home, env=alpine.env)
        assert done.code in (1, 3), done
        assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    ("name", "stage"), [("signals.db", "projected"), ("alpine.db", "delivered")]
)
def test_wait_keeps_to_its_time_whatever_stands_in_place_of_a_database(
    home: Path, odd: Odd, name: str, stage: str
) -> None:
    odd(home / "data" / name)
    words = ("wait", 1, "--for", stage, "--timeout", 1)
    done = forked(*words, home=home)
    assert done.code in (1, 3), done
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", ODD)
def test_a_daemon_answers_and_stops_whatever_stands_in_place_of_a_database(
    home: Path, odd: Odd, name: str
) -> None:
    project(home)
    with tiny_alpine() as alpine, listening(home, "all", env=alpine.env) as (d, url):
        for path in (home / "data").glob(f"{name}*"):
            if not path.name.endswith(".lock"):
                path.unlink(missing_ok=True)
        odd(home / "data" / name)
        append(home, *signals(2, start=4))
        for page in ("/health", "/metrics", "/health"):
            if d.process.poll() is None:
                assert status_of(url + page) in (200, 503)
        if d.process.poll() is None:
            d.send(signal.SIGTERM)
        assert d.process.wait(STOP_S_MAX) in (0, 3)  # 3: it says that a file is none of ours
        # At -v a failure has its traceback, and nothing else has one.
        assert d.err.count("Traceback") == 0 or "projection_failed" in d.err


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return 503  # it has just ended


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_that_starts_on_a_fifo_says_so_and_runs_the_others(home: Path, name: str) -> None:
    a_fifo(home / "data" / name)
    failing = "sqlite" if name == "signals.db" else "alpine"
    with tiny_alpine() as alpine, daemon(home, "all", env=alpine.env) as d:
        until(lambda: f"projection_failed projection={failing}" in d.err, lambda: d.err)
        assert "not a regular file" in d.err
        if failing == "sqlite":
            until(lambda: len(alpine.received) == 3)
        else:
            until(lambda: seq_in(home) == 3)
        d.send(signal.SIGTERM)
        assert d.process.wait(STOP_S_MAX) == 0
        assert "Traceback" not in d.err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("odd", [a_fifo, a_link_to_zeros, a_directory])
def test_nothing_hangs_on_what_stands_in_place_of_the_files_of_sqlite(
    home: Path, odd: Odd, suffix: str
) -> None:
    project(home)
    odd(home / "data" / f"signals.db{suffix}")
    for words in (("status",), ("signals",), ("export",), ("project", "sqlite", "--once")):
        done = forked(*words, home=home)
        assert done.code in (0, 3), (words, done)
        assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [("digest",), ("project", "sqlite", "--once")])
def test_a_link_put_there_at_any_moment_leads_to_no_other_database(
    home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """SQLite itself follows a link at the name of the database."""
    project(home)
    append(home, *signals(2, start=4))
    other = tmp_path / "other"
    append(other, *signals(7))
    project(other)
    path, target = database_of(home), database_of(other)
    ours, theirs = path.read_bytes(), target.read_bytes()
    digest = forked("digest", home=other).out
    for moment in moments():
        for left in path.parent.glob("signals.db*"):
            left.unlink()
        path.write_bytes(ours)
        about = "signals.db"
        done = forked(*words, home=home, nth=moment.number, about=about, swap=path, to=target)
        moment.has_come(done.fired)
        assert done.code in (0, 3), (moment, done)
        assert "Traceback" not in done.err, (moment, done)
        assert target.read_bytes() == theirs, (moment, done)
        assert words != ("digest",) or done.out != digest or not done.fired, (moment, done)
        assert [name.name for name in target.parent.glob("signals.db-*")] == []


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("odd", [a_fifo, a_link_to_nothing, a_directory])
def test_an_odd_file_beside_the_database_is_refused_by_its_name(
    home: Path, odd: Odd, suffix: str
) -> None:
    project(home)
    beside = home / "data" / f"signals.db{suffix}"
    beside.unlink(missing_ok=True)
    odd(beside)
    for words in (("signals",), ("project", "sqlite", "--once"), ("rebuild-database",)):
        done = forked(*words, home=home)
        assert_refused(done)
        assert beside.name in done.err


def super_journal(target: Path) -> bytes:
    """A rollback journal that ends with the name of a file, which SQLite removes after it.

    https://www.sqlite.org/fileformat2.html, "The Rollback Journal"
    """
    name = os.fsencode(target)
    checksum = sum(byte if byte < 128 else byte - 256 for byte in name) & 0xFFFFFFFF
    magic = bytes.fromhex("d9d505f920a163d7")
    tail = name + struct.pack(">II", len(name), checksum) + magic
    return b"X" * 512 + struct.pack(">I", 0) + tail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
@pytest.mark.parametrize("name", NAMES)
def test_a_rollback_journal_of_another_account_removes_no_file(home: Path, name: str) -> None:
    project(home)
    (segment,) = segments_in(home)
    before = segment.read_bytes()
    journal = home / "data" / f"{name}-journal"
    journal.write_bytes(super_journal(segment))
    os.chown(journal, 54321, 54321)
    with tiny_alpine(lambda _: {"signals": [], "next": None}) as alpine:
        for words in (
            ("project", "sqlite" if name == "signals.db" else "alpine", "--once"),
            ("status",),
        ):
            forked(*words, home=home, env=alpine.env)
            assert segment.read_bytes() == before
    assert journal.exists()


def test_a_daemon_opens_the_table_again_once_it_may_write_its_index(home: Path) -> None:
    """SQLite reads with an index that it may not write, and goes on so for ever."""
    project(home)
    index = home / "data" / "signals.db-shm"
    with closing(sqlite3.connect(database_of(home))) as other:  # it keeps the index there
        other.execute("SELECT 1 FROM signals").fetchone()
        index.chmod(0o400)
        with daemon(home, "sqlite", under=bound_by_modes()) as d:
            append(home, *signals(2, start=4))
            until(lambda: "stalled projection=sqlite" in d.err, lambda: d.err)
            assert "readonly database" in d.err
            index.chmod(0o600)
            until(lambda: seq_in(home) == 5, lambda: d.err)
            assert d.stop() == 0
            assert d.err.count(" stalled projection") == d.err.count(" stall_ended ") == 1
