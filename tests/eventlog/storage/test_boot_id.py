"""A log without a boot id is synced and read from the device each time it is opened (C7)."""

from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog, jsonl
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.log_checks import assert_valid_log, lines_in
from tests.harness.mounts import mounted
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up, seq_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "home", segment_bytes=1000) as log:
        for signal_ in signals(6):
            log.append(signal_)
    return tmp_path / "home"


NO_BOOT_ID = 'mount -t tmpfs tmpfs "$1"'
BOOT_ID_FOLDER = "/proc/sys/kernel/random"
NO_PROC = "umount -l /proc"


def without_boot_id(kind: str) -> tuple[str, ...]:
    return mounted(NO_PROC) if kind == "no /proc" else mounted(NO_BOOT_ID, BOOT_ID_FOLDER)


@pytest.fixture(params=["no file", "no /proc"])
def bootless(request: pytest.FixtureRequest) -> tuple[str, ...]:
    prefix: tuple[str, ...] = without_boot_id(request.param)
    return prefix


def test_a_log_works_where_no_boot_id_can_be_read(
    tmp_path: Path, bootless: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    for number in (1, 2, 3):
        lines = jsonl(signals(2, start=2 * number))
        done = eventlog("append", "--segment-bytes", 1, home=home, stdin=lines, under=bootless)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
    assert len(assert_valid_log(home)) == 6
    done = eventlog("cat", home=home, under=bootless)
    assert (done.code, done.out) == (0, b"".join(lines_in(home)))
    for words in (("verify",), ("status",), ("tail",), ("project", "sqlite", "--once")):
        assert eventlog(*words, home=home, under=bootless).code == 0, words
    assert_caught_up(home)


def test_that_no_boot_id_can_be_read_is_reported_once(
    tmp_path: Path, bootless: tuple[str, ...]
) -> None:
    lines = jsonl(signals(400))
    words = ("append", "--segment-bytes", 2000)
    done = eventlog(*words, home=tmp_path / "home", stdin=lines, under=bootless)
    assert done.code == 0, done.err
    assert done.err.count("boot_id_unknown") == 1, done.err


def test_a_record_without_a_boot_id_is_not_used_by_others(
    home: Path, bootless: tuple[str, ...]
) -> None:
    """One of two containers has a boot id; each reads all that the other has acknowledged."""
    for number in range(100, 104):
        under = bootless if number % 2 else ()
        done = eventlog("append", home=home, stdin=jsonl([a_signal(number)]), under=under)
        assert done.code == 0, done.err
        for reading in ((), bootless):
            out = eventlog("cat", home=home, under=reading).out
            assert out == b"".join(lines_in(home))
    assert len(assert_valid_log(home)) == 10


@pytest.mark.slow
def test_a_daemon_follows_where_no_boot_id_can_be_read(home: Path) -> None:
    """Also in a container that has no boot id while the generators outside have one."""
    with daemon(home, "sqlite", under=without_boot_id("no file")) as d:
        until(lambda: seq_in(home) == 6 or d.process.poll() is not None)
        with EventLog(home) as log:
            log.append(a_signal(100))
        until(lambda: seq_in(home) == 7 or d.process.poll() is not None)
        assert d.process.poll() is None, d.err
        assert d.stop() == 0
    assert_caught_up(home)
