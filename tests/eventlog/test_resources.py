"""No thread, no descriptor, process 1: it works, waits, or says so (C7)."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import COMMAND, command_line, eventlog, jsonl, pipe, strace
from tests.harness.daemon import daemon
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import assert_valid_log
from tests.harness.mounts import mounted
from tests.harness.privileges import without_threads
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up, seq_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "home", segment_bytes=1000) as log:
        for signal_ in signals(6):
            log.append(signal_)
    return tmp_path / "home"


# -- no thread can be started

WITH_THREADS = (
    *(("append",), ("project", "sqlite", "--once"), ("project", "all", "--once")),
    *(("signals",), ("signals", "--json"), ("stats",), ("rebuild-database",), ("verify",)),
    *(("top", "--once"), ("export",), ("digest",), ("status",), ("wait", "6", "--timeout", "1")),
    *(("compress",), ("backup", "DEST"), ("cat",), ("tail",), ("parked", "list"), ("repair",)),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", WITH_THREADS, ids=" ".join)
def test_without_threads_a_command_works_or_exits_3_with_a_message(
    home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    named = [str(tmp_path / "backup") if word == "DEST" else word for word in words]
    done = eventlog(*named, home=home, stdin=jsonl([a_signal(100)]), under=without_threads())
    assert "Traceback" not in done.err, done.err
    assert done.code in (0, 3), done.err
    if done.code == 3:
        assert "error: " in (line[:7] for line in done.err.splitlines()), "after what is logged"
        assert "thread" in done.err or "process" in done.err
        assert "do:" in done.err


@pytest.mark.slow
def test_a_daemon_without_threads_waits_and_goes_on_when_it_has_them(home: Path) -> None:
    """The first threads start; then there is none for a while."""
    with daemon(home, "sqlite", under=without_threads(nth="4..14")) as d:
        until(lambda: seq_in(home) == 6 or d.process.poll() is not None, "the first entries")
        assert d.process.poll() is None, d.err
        for number in range(100, 110):
            with EventLog(home) as log:
                log.append(a_signal(number))
            time.sleep(0.3)
            assert d.process.poll() is None, d.err
        until(lambda: seq_in(home) == 16 or d.process.poll() is not None, "the others")
        assert d.process.poll() is None, d.err
        assert "Traceback" not in d.err
    assert_caught_up(home)


# -- no descriptor can be opened


@contextmanager
def few_descriptors(pid: int, count: int) -> Iterator[None]:
    """The process may open no file: it has more than `count` already."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has ended, which the test then tells
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("sqlite",), ("all",)], ids=" ".join)
def test_a_daemon_without_descriptors_stalls_and_goes_on_when_it_has_them(
    home: Path, names: tuple[str, ...]
) -> None:
    with daemon(home, *names) as d:
        until(lambda: seq_in(home) == 6)
        with few_descriptors(d.process.pid, 3):
            for number in range(100, 106):
                with EventLog(home, segment_bytes=1000) as log:
                    log.append(a_signal(number))
                time.sleep(0.5)
                assert d.process.poll() is None, d.err
        until(lambda: seq_in(home) == 12 or d.process.poll() is not None, "all entries")
        assert d.process.poll() is None, d.err
        assert "Traceback" not in d.err
        assert d.stop() == 0
    assert_caught_up(home)


@pytest.mark.slow
def test_a_tail_without_descriptors_goes_on_when_it_has_them(home: Path) -> None:
    with pipe(home, "-n", 0, "-f", "--json", command="tail") as p:
        until(lambda: _watches(p.process.pid), "the watch on the log")
        with few_descriptors(p.process.pid, 3):
            with EventLog(home) as log:
                log.append(a_signal(100))
            time.sleep(1.5)
        with EventLog(home) as log:
            log.append(a_signal(101))
        assert [answer["signal_id"] for answer in p.read_answers(2)] == ["s-100", "s-101"]
        p.send(signal.SIGTERM)
        p.wait()
    assert "Traceback" not in p.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("cat",), ("append",), ("project", "sqlite", "--once"), ("signals",), ("verify",)]
)
@pytest.mark.parametrize("count", [7, 9, 12, 16])  # with fewer Python itself does not start
def test_with_few_descriptors_from_the_start_a_command_works_or_says_so(
    home: Path, words: tuple[str, ...], count: int
) -> None:
    under = ("prlimit", f"--nofile={count}")
    done = eventlog(*words, home=home, stdin=jsonl([a_signal(100)]), under=under)
    assert done.code in (0, 3), done.err
    assert "Traceback" not in done.err


# -- process 1, and SIGTERM


def as_process_1() -> tuple[str, ...]:
    mounted("true")
    return ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def _watches(pid: int) -> bool:
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since the directory was listed
            links.append(os.readlink(path))
    return "anon_inode:inotify" in links


def _descendants(pid: int) -> list[int]:
    try:
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    return found + [grandchild for child in found for grandchild in _descendants(child)]


LONG_COMMANDS = {  # each takes as long as its system calls are made to take
    "wait": ("wait", "1000"),
    "wait delivered": ("wait", "1000", "--for", "delivered"),
    "tail": ("tail", "-f"),
    "append": ("append",),
    "project": ("project", "sqlite"),
    "top": ("top",),
    "doctor": ("doctor",),
    "cat": ("cat",),
    "verify": ("verify",),
    "rebuild-database": ("rebuild-database",),
    "export": ("export",),
    "export to a file": ("export", "--output", "FILE"),
    "backup": ("backup", "DEST"),
    "compress": ("compress",),
    "repair": ("repair",),
    "signals": ("signals",),
    "stats": ("stats",),
    "digest": ("digest",),
    "status": ("status",),
    "import-legacy": ("import-legacy", "--log", "OLD"),
    "restore": ("restore", "DEST"),
}
SLOW = ("-e", "trace=pread64", "-e", "inject=pread64:delay_enter=300ms")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [
        *(pytest.param(name, True, id=f"{name} as process 1") for name in LONG_COMMANDS),
        *(pytest.param(name, False, id=name) for name in ("append", "project", "top", "verify")),
    ],
)
def test_sigterm_ends_a_command_that_takes_long(
    home: Path, tmp_path: Path, name: str, first: bool
) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    if name == "restore":
        assert eventlog("backup", tmp_path / "dest", home=home).code == 0
    (tmp_path / "old").write_text('{"symbol": "AAPL"}\n' * 200_000)
    places = {"DEST": tmp_path / "dest", "FILE": tmp_path / "out.csv", "OLD": tmp_path / "old"}
    at = tmp_path / "new" if name in ("restore", "import-legacy") else home
    words = [places.get(word, word) for word in LONG_COMMANDS[name]]
    under = (*strace(*SLOW), *(as_process_1() if first else ()))
    process = subprocess.Popen(
        command_line(words, at, under),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: process.poll() is not None or _running(process.pid), "its start")
        time.sleep(1)  # it is in the middle of its work
        assert process.poll() is None, f"{name} had ended before it could be asked to"
        target = _running(process.pid)
        # The kernel drops a signal to process 1 that it does not catch yet.
        until(lambda: not first or _catches_sigterm(target), "its handler")
        os.kill(target, signal.SIGTERM)
        started_s = time.monotonic()
        _, err = process.communicate(timeout=DEADLINE_S)
        assert time.monotonic() - started_s < 10, "P1: within 10 s"
        assert b"Traceback" not in err, err.decode()
    except subprocess.TimeoutExpired:
        pytest.fail(f"{name} does not end on SIGTERM")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # closes the pipes too
    assert_valid_log(home)


def _catches_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert caught is not None
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _running(pid: int) -> int:
    """The pid of the eventlog command below `pid`, once it has begun; 0 before."""
    for child in _descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(COMMAND) in words and b"unshare" not in words and b"strace" not in words:
            return child
    return 0


def test_wait_as_process_1_ends_on_sigterm(home: Path) -> None:
    process = subprocess.Popen(
        command_line(("wait", "1000"), home, as_process_1()),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: _running(process.pid), "its start")
        time.sleep(1)
        os.kill(_running(process.pid), signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        pytest.fail("it does not end on SIGTERM")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert b"Traceback" not in err
    assert process.returncode != 0, "the entry is not there"
