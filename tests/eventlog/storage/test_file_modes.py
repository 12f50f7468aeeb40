"""Modes and owners of files are those of the contract, whatever the umask and the account (C9).

Modes bind here as they bind an ordinary account, for a mode without the owner's bits locks out the
next command.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from eventlog import EventLog
from tests.harness.command import Done, eventlog, jsonl
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.log_checks import assert_valid_log
from tests.harness.privileges import bound_by_modes
from tests.harness.requirements import needs_tool
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import seq_in
from tests.harness.tiny_alpine import tiny_alpine

UMASKS = (0o777, 0o277, 0o377, 0o477, 0o000)
OWNER = 54_321  # an account that nobody has

pytestmark = pytest.mark.slow  # each test runs several commands
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to others")


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where everything is made; removable afterwards whatever its modes have become."""
    folder = tmp_path / "all"
    folder.mkdir()
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def run(*words: object, home: Path, umask: int, stdin: bytes = b"", code: int = 0) -> Done:
    done = eventlog(*words, home=home, stdin=stdin, umask=umask, under=bound_by_modes())
    assert "Traceback" not in done.err, done.err
    assert done.code == code, (words, done.code, done.err)
    return done


def assert_private(folder: Path) -> None:
    """Each directory below 0700, each file 0600."""
    wrong = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            expected = 0o700 if stat.S_ISDIR(mode) else 0o600
            if stat.S_IMODE(mode) != expected:
                wrong[str(path.relative_to(folder))] = oct(stat.S_IMODE(mode))
    assert wrong == {}


# -- modes


def test_the_files_of_a_log_are_private(folder: Path, umask: int) -> None:
    home = folder / "a/home"
    for number in (1, 2, 3):
        lines = jsonl([a_signal(number)])
        run("append", "--segment-bytes", 1, home=home, umask=umask, stdin=lines)
    run("cat", home=home, umask=umask)
    run("verify", home=home, umask=umask)
    run("compress", home=home, umask=umask)
    with max((home / "logs").glob("*.jsonl")).open("ab") as segment:
        segment.write(b'{"v":1,"seq":4')
    (home / "logs/.lock").unlink()
    run("append", home=home, umask=umask, stdin=jsonl([a_signal(4)]))
    assert list((home / "logs").glob("*.torn"))
    assert list((home / "logs").glob("*.zst"))
    assert_private(folder)


def test_the_files_of_projections_are_private_and_the_next_command_can_use_them(
    folder: Path, umask: int
) -> None:
    home = folder / "home"
    run("append", home=home, umask=umask, stdin=jsonl([*signals(3), closed(1)]))
    for words in (("project", "sqlite"), ("project", "sqlite"), ("project", "all")):
        run(*words, "--once", home=home, umask=umask)
    run("rebuild-database", home=home, umask=umask)
    run("rebuild-database", home=home, umask=umask)
    run("signals", home=home, umask=umask)
    run("status", home=home, umask=umask)
    run("project", "sqlite", "--once", home=home, umask=umask)
    assert_private(folder)


def test_a_daemon_makes_private_files(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    before = os.umask(umask)
    try:
        with daemon(home, "all", under=bound_by_modes()) as d:
            # The reader below must not make a -shm that the daemon may not write.
            os.umask(before)
            until(lambda: d.process.poll() is not None or seq_in(home) == 3)
            assert d.process.poll() is None, d.err
            assert_private(folder)
            assert d.stop() == 0
    finally:
        os.umask(before)
    assert_private(folder)


def test_delivery_state_is_private(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(2))
    with tiny_alpine() as alpine:
        alpine.refused["s-1"] = b"no"
        for _ in range(2):
            done = eventlog(
                *("project", "alpine", "--once"),
                home=home,
                umask=umask,
                env=alpine.env,
                under=bound_by_modes(),
            )
            assert "Traceback" not in done.err
            assert "Permission denied" not in done.err
    assert set(alpine.received) == {"s-1", "s-2"}
    assert (home / "data/alpine.db").exists()
    assert_private(folder)


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_exported_files_are_private(folder: Path, umask: int, format_: str) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    for _ in range(2):  # the second one replaces the first
        run("export", "--format", format_, "--output", folder / "out", home=home, umask=umask)
    assert_private(folder)


def test_a_backup_and_what_is_restored_from_it_are_private(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home, segment_bytes=1) as log:
        for signal in signals(3):
            log.append(signal)
    for words in (("backup",), ("backup", "--verify")):
        run(*words, folder / "backup", home=home, umask=umask)
    run("restore", folder / "backup", home=folder / "restored", umask=umask)
    run("rebuild-database", home=folder / "restored", umask=umask)
    assert_private(folder)


def test_repair_makes_private_files(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home, segment_bytes=1) as log:
        for signal in signals(3):
            log.append(signal)
    segment = min((home / "logs").glob("*.jsonl"))
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b"AAPL", b"AAPX"))
    run("repair", "--accept", home=home, umask=umask)
    run("verify", home=home, umask=umask, code=1)
    assert (home / "logs/.accepted").exists()
    assert_private(folder)


def test_the_rejects_of_an_import_are_private(folder: Path, umask: int) -> None:
    source = folder / "old.log"
    source.touch(mode=0o600)
    source.write_text('{"symbol": "AAPL"}\n')
    words = ("import-legacy", "--log", source, "--rejects", folder / "rejects")
    for _ in range(2):
        run(*words, home=folder / "home", umask=umask, code=1)
    assert (folder / "rejects").read_bytes()
    assert_private(folder)


def test_a_set_aside_database_is_private(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    (home / "data/signals.db").touch(mode=0o600)
    (home / "data/signals.db").write_bytes(b"SQLite format 3\0" + b"\xa5" * 5000)
    run("project", "sqlite", "--once", home=home, umask=umask)
    assert list((home / "data").glob("signals.db.damaged-*"))
    assert_private(folder)


def test_doctor_and_top_leave_nothing_that_locks_others_out(folder: Path, umask: int) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    run("project", "sqlite", "--once", home=home, umask=umask)
    run("top", "--once", home=home, umask=umask)
    done = eventlog("doctor", home=home, umask=umask, under=bound_by_modes())
    assert "Traceback" not in done.err and done.code in (0, 1)
    assert b"Permission denied" not in done.out
    assert_private(folder)


@pytest.mark.parametrize("mode", [0o2750, 0o750])
def test_a_group_that_may_read_data_may_read_the_database_under_any_umask(
    folder: Path, umask: int, mode: int
) -> None:
    home = folder / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    (home / "data").chmod(mode)
    run("project", "sqlite", "--once", home=home, umask=umask)
    run("rebuild-database", home=home, umask=umask)
    assert stat.S_IMODE((home / "data").stat().st_mode) == mode
    assert stat.S_IMODE((home / "data/signals.db").stat().st_mode) == 0o640


# -- owners


def owners_in(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_uid, status.st_gid) for name, status in found.items()}


def strangers_in(home: Path) -> dict[str, tuple[int, int]]:
    return {path: owner for path, owner in owners_in(home).items() if owner != (OWNER, OWNER)}


@pytest.fixture
def service_home() -> Iterator[Path]:
    """A home that belongs to a service's account, where that account may reach it."""
    with TemporaryDirectory() as parent:
        os.chmod(parent, 0o711)
        yield _service_home(Path(parent) / "home")


def _service_home(home: Path) -> Path:
    with EventLog(home, segment_bytes=1) as log:
        for signal in signals(3):
            log.append(signal)
    for path in (home, *home.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    return home


@needs_root
@pytest.mark.parametrize(
    "commands",
    [
        [("append", "--segment-bytes", "1")],
        [("project", "sqlite", "--once")],
        [("project", "all", "--once")],
        [("rebuild-database",)],
        [("compress",)],
        [("verify",)],
        [("project", "sqlite", "--once"), ("signals",), ("status",), ("top", "--once")],
        [("repair",)],
    ],
    ids=lambda commands: " ".join(commands[-1]),
)
def test_what_root_makes_in_the_home_of_another_account_belongs_to_that_account(
    service_home: Path, commands: list[tuple[str, ...]]
) -> None:
    for words in commands:
        done = eventlog(*words, home=service_home, stdin=jsonl([a_signal(100)]))
        assert done.code == 0, done.err
    assert strangers_in(service_home) == {}


@needs_root
def test_what_root_cuts_in_the_home_of_another_account_belongs_to_that_account(
    service_home: Path,
) -> None:
    with max((service_home / "logs").glob("*.jsonl")).open("ab") as segment:
        segment.write(b'{"v":1,"seq":4')
    for name in (".lock", ".durable"):
        (service_home / "logs" / name).unlink()
    done = eventlog("append", home=service_home, stdin=jsonl([a_signal(100)]))
    assert done.code == 0, done.err
    assert list((service_home / "logs").glob("*.torn"))
    assert strangers_in(service_home) == {}


@needs_root
def test_a_home_that_root_makes_in_the_directory_of_another_account_belongs_to_that_account(
    tmp_path: Path,
) -> None:
    """As the first append of a person with root's powers, before the service has started."""
    srv = tmp_path / "srv"
    srv.mkdir()
    os.chown(srv, OWNER, OWNER)
    done = eventlog("append", home=srv / "home", stdin=jsonl(signals(2)))
    assert done.code == 0, done.err
    assert strangers_in(srv) == {}


@needs_root
def test_the_service_goes_on_after_root_has_appended_once(service_home: Path) -> None:
    lines = jsonl([a_signal(100)])
    assert eventlog("append", "--segment-bytes", 1, home=service_home, stdin=lines).code == 0
    as_service = (
        needs_tool("setpriv", apt="util-linux"),
        f"--reuid={OWNER}",
        f"--regid={OWNER}",
        "--clear-groups",
    )
    done = eventlog("append", home=service_home, stdin=jsonl([a_signal(101)]), under=as_service)
    assert done.code == 0, done.err
    assert len(assert_valid_log(service_home)) == 5


@needs_root
def test_a_file_of_root_in_the_home_of_root_stays_with_root(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert eventlog("append", home=home, stdin=jsonl(signals(1))).code == 0
    assert set(owners_in(home).values()) == {(os.getuid(), os.getgid())}


@needs_root
def test_a_directory_with_another_group_gives_that_group(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append(a_signal())
    for path in (home, *home.rglob("*")):
        os.chown(path, OWNER, OWNER + 1, follow_symlinks=False)
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert (home / "data/signals.db").stat().st_uid == OWNER
    assert (home / "data/signals.db").stat().st_gid == OWNER + 1
