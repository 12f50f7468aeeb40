"""The files of a home and their modes: created, refused, or left alone (W13, contract 1)."""

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError, ForeignHome, LogPoisoned, UnsafePath
from eventlog.storage.home import APPLICATION_ID
from tests.harness.command import eventlog, jsonl
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import assert_valid_log, ids_in, segments_in, tree_contents
from tests.harness.mounts import mounted
from tests.harness.requirements import TEST_DATA
from tests.harness.signals import a_signal, signals

READ_COMMANDS = (("cat",), ("tail",), ("tail", "--json"), ("verify",), ("verify", "--json"))
COMMANDS = (("append",), *READ_COMMANDS, ("status",), ("status", "--json"), ("top",))
OF_THE_TABLE = (("digest",), ("signals",), ("stats",), ("rebuild-database",))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- modes


MASKS = [0o000, 0o777, *(pytest.param(umask, marks=pytest.mark.slow) for umask in (0o022, 0o077))]


@pytest.mark.parametrize("umask", MASKS, ids=oct)
def test_new_files_are_private_regardless_of_the_umask(tmp_path: Path, umask: int) -> None:
    home = tmp_path / "a/b/home"
    words = ("append", "--segment-bytes", 1)
    for number in range(1, 4):
        done = eventlog(*words, home=home, stdin=jsonl([a_signal(number)]), umask=umask)
        assert done.code == 0, done.err
    with segments_in(home)[-1].open("ab") as torn:
        torn.write(b'{"v":1,"seq":4')
    assert eventlog(*words, home=home, stdin=jsonl([a_signal(4)]), umask=umask).code == 0
    made = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
    assert any(path.suffix == ".torn" for path in made)
    for path in made:
        if path.is_dir():
            assert mode(path) == 0o700, path
        elif not path.is_symlink():
            assert mode(path) == 0o600, path


def test_an_existing_directory_keeps_its_mode(home: Path) -> None:
    modes = {home: 0o755, home / "logs": 0o750, home / "data": 0o2750}
    for path, bits in modes.items():
        path.mkdir()
        path.chmod(bits)
    with EventLog(home) as log:
        log.append(a_signal())
    assert {path: mode(path) for path in modes} == modes


# -- something else stands at our paths


def a_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def a_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing here"))


def a_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path, _: Path) -> None:
    path.mkdir()


def a_socket(path: Path, _: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


UNEXPECTED_FILES = (a_link, a_dangling_link, a_fifo, a_directory, a_socket)
Alien = Callable[[Path, Path], None]


@pytest.mark.timeout(60)  # opening a FIFO must not hang
@pytest.mark.parametrize("alien", UNEXPECTED_FILES, ids=lambda a: a.__name__)
@pytest.mark.parametrize("name", ["logs/.lock", "logs/.durable", "logs/00000000000000000001.jsonl"])
@pytest.mark.parametrize("when", ["before the first append", "later"])
def test_an_unexpected_file_type_at_a_log_path_is_refused_and_left_alone(
    tmp_path: Path, home: Path, name: str, alien: Alien, when: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (home / "logs").mkdir(parents=True)
    (home / "data").mkdir()
    if when == "later":
        with EventLog(home) as log:
            log.append(a_signal(1))
        (home / name).unlink()
    alien(home / name, outside)
    before = tree_contents(home)[name]
    # A watermark is not needed to append, only soon afterwards: then closing the log says it.
    with pytest.raises(UnsafePath, match="move it away"), EventLog(home) as log:
        log.append(a_signal(2))
    assert tree_contents(home)[name] == before
    assert tree_contents(tmp_path)["outside"] == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "outside"]


@pytest.mark.parametrize("alien", UNEXPECTED_FILES, ids=lambda a: a.__name__)
def test_an_unexpected_file_at_the_next_segment_is_refused_before_an_ack(
    tmp_path: Path, home: Path, alien: Alien
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    with EventLog(home, segment_bytes=1) as log:
        log.append(a_signal(1))
        alien(home / "logs/00000000000000000002.jsonl", outside)
        with pytest.raises(LogPoisoned, match="could not be used"):
            log.append(a_signal(2))
    with EventLog(home) as log, pytest.raises(UnsafePath):
        log.append(a_signal(2))
    assert outside.read_bytes() == b"precious"
    assert not outside.with_name("nothing here").exists()
    subprocess.run(["rm", "-rf", home / "logs/00000000000000000002.jsonl"], check=True)
    with EventLog(home, segment_bytes=1) as log:
        assert log.append(a_signal(2)).seq == 2
    assert ids_in(home) == ["s-1", "s-2"]
    assert_valid_log(home)


@pytest.mark.parametrize("alien", [a_fifo, a_directory, a_socket], ids=lambda a: a.__name__)
def test_an_unexpected_file_at_the_convenience_link_is_left_alone(
    tmp_path: Path, home: Path, alien: Alien
) -> None:
    (home / "logs").mkdir(parents=True)
    alien(home / "logs/signals.log", tmp_path)
    before = tree_contents(home)["logs/signals.log"]
    with EventLog(home, segment_bytes=1) as log:
        assert [log.append(signal).seq for signal in signals(3)] == [1, 2, 3]
    assert tree_contents(home)["logs/signals.log"] == before
    assert sorted(path.name for path in (home / "logs").iterdir() if path.suffix != ".jsonl") == [
        *(".durable", ".lock", "signals.log")
    ]


@pytest.mark.parametrize("name", ["", "logs", "data"])
@pytest.mark.parametrize("alien", [a_dangling_link, a_fifo], ids=lambda a: a.__name__)
def test_a_file_instead_of_a_directory_is_refused(
    tmp_path: Path, home: Path, name: str, alien: Alien
) -> None:
    if name:
        home.mkdir()
    alien(home / name, tmp_path / "outside")
    before = tree_contents(tmp_path)
    done = eventlog("append", home=home, stdin=jsonl([a_signal()]))
    assert (done.code, done.out.count(b'"seq"')) == (3, 0), done.err
    assert "Traceback" not in done.err
    assert {k: v for k, v in tree_contents(tmp_path).items() if k in before} == before
    assert not (tmp_path / "outside").exists()


def test_a_home_may_be_reached_by_a_link(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    with EventLog(tmp_path / "link") as log:
        log.append(a_signal())
    assert ids_in(home) == ["s-1"]


def test_a_loop_of_links_is_refused_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for words in COMMANDS:
        done = eventlog(*words, home=tmp_path / "loop", stdin=jsonl([a_signal()]))
        assert (done.code, done.out) == (3, b"") or b'"error"' in done.out
        assert "Traceback" not in done.err


# -- a home of the old tracker


def old_database(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    with sqlite3.connect(home / "data/signals.db") as database:
        database.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT)")
        database.execute("INSERT INTO signals VALUES (1, 'old')")
    database.close()


def old_database_in_wal_mode(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    database = sqlite3.connect(home / "data/signals.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT)")
    database.close()


def old_log(home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs/signals.log").write_text('{"symbol": "AAPL"}\n')


def old_tracker(home: Path) -> None:
    """The real thing, in its old layout under a home."""
    legacy = TEST_DATA / "legacy"
    for name, folder in (("signals.log", "logs"), ("signals.db", "data")):
        (home / folder).mkdir(parents=True)
        (home / folder / name).write_bytes((legacy / name).read_bytes())


OLD_HOMES = (old_database, old_database_in_wal_mode, old_log, old_tracker)


@pytest.mark.slow
@pytest.mark.parametrize("make_old", OLD_HOMES, ids=lambda make: make.__name__)
def test_every_command_refuses_a_home_of_the_old_tracker_and_touches_nothing(
    home: Path, make_old: Callable[[Path], None]
) -> None:
    make_old(home)
    before, times = tree_contents(home), {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    for words in (*COMMANDS, *OF_THE_TABLE):
        done = eventlog(*words, home=home, stdin=jsonl([a_signal()]))
        assert done.code == 3, words
        assert "eventlog import-legacy" in done.err
        assert "Traceback" not in done.err
    with pytest.raises(ForeignHome, match="import-legacy"):
        EventLog(home)
    assert tree_contents(home) == before
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == times


def test_a_home_that_becomes_the_old_trackers_is_refused_at_the_first_append(home: Path) -> None:
    log = EventLog(home)  # there was nothing yet
    old_log(home)
    before = tree_contents(home)
    with pytest.raises(ForeignHome):
        log.append(a_signal())
    log.close()
    assert tree_contents(home) == before


def a_damaged_database(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data/signals.db").write_bytes(b"SQLite format 3\0" + b"\xa5" * 5000)


def an_empty_database(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data/signals.db").touch()


def our_database(home: Path) -> None:
    old_database(home)
    database = sqlite3.connect(home / "data/signals.db")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.close()


@pytest.mark.parametrize(
    "make", [a_damaged_database, an_empty_database, our_database], ids=lambda make: make.__name__
)
def test_only_a_readable_database_without_our_application_id_is_the_old_trackers(
    home: Path, make: Callable[[Path], None]
) -> None:
    make(home)
    before = tree_contents(home / "data")
    with EventLog(home) as log:
        assert log.append(a_signal()).seq == 1
    assert tree_contents(home / "data") == before


# -- readers change nothing


def test_reading_changes_nothing(home: Path) -> None:
    with EventLog(home, segment_bytes=1000) as log:
        log.append_many(signals(3))
        log.append_many(signals(3, start=4))
    # Where there is a `data` directory, `verify` notes there that the log was whole.
    (home / "data").rmdir()
    before, times = tree_contents(home), {p: p.lstat().st_mtime_ns for p in home.rglob("*")}
    for words in READ_COMMANDS:
        assert eventlog(*words, home=home).code == 0, words
    with EventLog(home) as log:
        assert len(list(log.read())) == log.last_seq == 6
    assert tree_contents(home) == before
    assert {p: p.lstat().st_mtime_ns for p in home.rglob("*")} == times


def test_the_log_directory_holds_nothing_that_changes_without_an_append(home: Path) -> None:
    with EventLog(home, segment_bytes=1000) as log:
        log.append_many(signals(5))
    before = tree_contents(home)
    for _ in range(2):
        with EventLog(home, segment_bytes=1000) as log:
            log.last_seq  # noqa: B018
    assert tree_contents(home) == before


def test_a_new_segment_whose_making_fails_half_way_never_leaves_a_hole(home: Path) -> None:
    """The file is there, and yet the call said that it failed."""
    disk = FaultDisk()
    with EventLog(home, segment_bytes=1, disk=disk) as log:
        log.append(a_signal(1))
        disk.fail("create", path="2.jsonl", error=errno.EIO, late=True)
        for number in (2, 3):
            with suppress(EventLogError):
                log.append(a_signal(number))
    with EventLog(home, segment_bytes=1) as log:
        for number in (2, 3, 4):
            log.append(a_signal(number))
    assert_valid_log(home)
    assert sorted(ids_in(home)) == ["s-1", "s-2", "s-3", "s-4"]


# -- network file systems


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "ext4"])
def test_a_network_file_system_is_refused_unless_forced(home: Path, kind: str) -> None:
    """W9. The list of mounts is not the real one: no test can mount what it names."""
    home.mkdir()
    mounts = home.parent / "mounts"
    mounts.write_text(
        f"21 1 8:1 / / rw - ext4 /dev/x rw\n22 21 0:9 / {home} rw - {kind} there rw\n"
    )
    under = mounted('mount --bind "$1" /proc/$$/mountinfo', mounts)
    done = eventlog("append", home=home, stdin=jsonl([a_signal()]), under=under)
    if kind == "ext4":
        assert done.code == 0
        return
    assert (done.code, done.out) == (3, b"")
    assert f"the home is on a network file system ({kind})" in done.err
    assert tree_contents(home) == {}
    forced = "import sys, eventlog; eventlog.EventLog(sys.argv[1], allow_network_fs=True).close()"
    command = [*under, sys.executable, "-c", forced, str(home)]
    assert subprocess.run(command, check=False).returncode == 0


ODD_MOUNT_POINTS = ["a b", "a\tb", "a\nb", "a\\b", "a\\040b", "a\rb", "a\x0bb", "a\u2028b"]


@pytest.mark.parametrize("name", ODD_MOUNT_POINTS, ids=ascii)
def test_the_file_system_is_identified_for_any_mount_point_name(tmp_path: Path, name: str) -> None:
    """W9: the kernel writes four characters of a name as octal numbers, and the others as such."""
    at = tmp_path / name
    (at / "home").mkdir(parents=True)
    under = mounted('mount -t tmpfs tmpfs "$1" && mkdir "$1/home"', at)
    ask = (
        "import sys; from eventlog.plumbing import filesystem_type as ask; print(ask(sys.argv[1]))"
    )
    command = [*under, sys.executable, "-c", ask, str(at / "home")]
    assert subprocess.run(command, capture_output=True, check=False).stdout == b"tmpfs\n"


def test_two_dots_behind_a_link_lead_to_one_home_for_every_command(tmp_path: Path) -> None:
    """The parent of the directory to which the link leads, as for any other program."""
    (tmp_path / "other/directory").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "other/directory")
    home = f"{tmp_path}/link/../home"
    for words in (("append",), ("project", "sqlite", "--once"), ("status",)):
        done = eventlog("--home", home, *words, stdin=jsonl([a_signal(1)]))
        assert done.code == 0, done.err
    assert (tmp_path / "other/home/data/signals.db").exists()
    assert not (tmp_path / "home").exists()
