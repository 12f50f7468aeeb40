"""The demo, run as tools/demo runs it: its figures are right, and it leaves no process.

Invariant: none of these runs leaves a process, or a file outside its own directory.
"""

import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil  # type: ignore[import-untyped]  # the extra `alpine` brings it; it is untyped
import pytest

from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import assert_valid_log, tree_contents
from tests.harness.read_side import append
from tests.harness.requirements import CHECKOUT, needs_prices
from tests.harness.signals import signals
from tests.harness.tables import assert_caught_up
from tests.harness.terminal import CTRL_C, CURSOR_HIDDEN, CURSOR_SHOWN, terminal

COMMAND = (sys.executable, "-P", "-m", "tools.demonstration")
DAYS = 220  # a hundred pass before the first signal
FEW = ("--simulate", 7, "--days", DAYS, "--home", "home")
MOMENTS = [n * 0.6 for n in range(12)]  # seconds after its first line; FEW takes about eight


class Figures(NamedTuple):
    """The figures in the last line."""

    entries: int
    signals: int
    source: str


def environment(tmp: Path) -> dict[str, str]:
    """The environment of a demo. TMPDIR also marks each of its processes: see `left_of`."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp)}


def demo(tmp: Path, *words: object, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=tmp,
        env={**environment(tmp), **env},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


@contextmanager
def running(tmp: Path, *words: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=tmp,
        env=environment(tmp),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal's foreground job: its group can be signalled
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        for left in left_of(tmp):
            left.kill()


def left_of(tmp: Path) -> list[psutil.Process]:
    """Every running process that descends from a demo in `tmp`."""
    return [process for process in psutil.process_iter() if _is_of(process, tmp)]


def _is_of(process: psutil.Process, tmp: Path) -> bool:
    try:
        ours = process.environ().get("TMPDIR") == str(tmp)
        return bool(ours and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):  # it has ended, or belongs to another account
        return False


def commands_of(tmp: Path, word: str) -> list[psutil.Process]:
    """The processes of a demo with `word` in their command line."""
    return [process for process in left_of(tmp) if word in " ".join(process.cmdline())]


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """Returns the output up to the line with `text`."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"{text!r} is not in the output: {output}")


def figures(text: str) -> Figures:
    pattern = (
        r"demo: ([\d,]+) entries of ([\d,]+) signals are the same .* verified, on (.*), in .* s\."
    )
    found = re.fullmatch(pattern, text)
    assert found, text
    entries, count = (int(group.replace(",", "")) for group in found.groups()[:2])
    return Figures(entries, count, found[3])


def rows_in(home: Path) -> int:
    with closing(sqlite3.connect(f"file:{home}/data/signals.db?mode=ro", uri=True)) as table:
        (count,) = table.execute("SELECT count(*) FROM signals").fetchone()
    return int(count)


def reported(text: str) -> dict[str, object]:
    """The output of `eventlog reconcile --json`."""
    (line,) = re.findall(r'^ +(\{"ok":.*\})$', text, re.MULTILINE)
    report: dict[str, object] = json.loads(line)
    return report


# Complete runs


@pytest.mark.slow
def test_with_machines_a_failover_loses_nothing_that_was_replicated_and_writes_nothing_twice(
    tmp_path: Path,
) -> None:
    done = demo(tmp_path, "--machines", "--home", "home")
    assert (done.returncode, done.stderr) == (0, "")
    a, b = (assert_valid_log(tmp_path / "home" / name) for name in ("a", "b"))
    assert a == b
    assert [entry["host"] for entry in b if entry["event"] == "promoted"] == ["b"]
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"demo: ([\d,]+) entries .* the ([\d,]+) that were .* in .* s\.", last)
    assert found, last
    entries, replicated = (int(text.replace(",", "")) for text in found.groups())
    assert (entries, 0 < replicated < entries) == (len(b), True)
    assert left_of(tmp_path) == []
    again = demo(tmp_path, "--machines", "--home", "home")
    assert (again.returncode, "is from an earlier run" in again.stderr) == (3, True)


@pytest.mark.slow
def test_the_last_line_of_each_run_gives_the_counts_of_log_table_and_alpine(
    tmp_path: Path,
) -> None:
    done = demo(tmp_path, *FEW)
    assert (done.returncode, done.stderr) == (0, "")
    home = tmp_path / "home"
    entries = assert_valid_log(home)
    count = sum(entry["event"] == "signal" for entry in entries)
    last = figures(done.stdout.splitlines()[-1])
    assert last == (len(entries), count, "a simulated market")
    assert count > 0
    assert rows_in(home) == count
    assert_caught_up(home)
    report = reported(done.stdout)
    assert (report["ok"], report["at_alpine"], report["signals"]) == (True, count, count)
    for text in ("a simulated market, seed 7\n", "duplicate=True", "DAMAGED: 1 finding:"):
        assert text in done.stdout
    assert "the same digest as before" in done.stdout
    digests = re.findall(r"^ +([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert len(digests) == 2 and len(set(digests)) == 1
    assert left_of(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"], "the damaged copy is gone"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {path.name for path in (home / "demo-logs").iterdir()} >= {
        *("alpine.log", "generator.log", "projector.log"),
    }
    key = (home / "demo-alpine.key").read_text().strip()
    texts = [path.read_text() for path in (home / "demo-logs").iterdir()]
    assert not any(key in text for text in (done.stdout, *texts))

    # A second run writes nothing to the log, and delivers to a new and empty Alpine.
    before = tree_contents(home / "logs")
    again = demo(tmp_path, *FEW)
    assert (again.returncode, again.stderr) == (0, "")
    assert figures(again.stdout.splitlines()[-1]) == last
    assert "reconcile --replay" in again.stdout
    after = tree_contents(home / "logs")
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


@pytest.mark.slow
def test_it_runs_on_real_prices_and_prints_so(tmp_path: Path) -> None:
    """All of the files, as the tutorial promises."""
    prices = needs_prices()
    done = demo(tmp_path, "--prices", prices)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"real daily prices of 8 symbols, 2005-11-17 to 2025-11-11, from {prices}" in done.stdout
    (home,) = tmp_path.glob("eventlog-demo-*")
    entries = assert_valid_log(home)
    count = sum(entry["event"] == "signal" for entry in entries)
    last = figures(done.stdout.splitlines()[-1])
    assert last == (len(entries), count, "real daily prices of 8 symbols")
    assert reported(done.stdout)["at_alpine"] == count == rows_in(home)


@pytest.mark.slow
def test_with_web_the_console_of_its_home_stays_open_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, *FEW, "--web") as process, httpx.Client(trust_env=False) as client:
        shown = read_until(process, "open http://")
        url = shown[shown.rindex("http://") :].strip()
        read_until(process, "The console is still open")
        assert client.get(url).status_code == 303
        status = client.get(httpx.URL(url).join("/api/status")).json()
        assert status["log"]["last_seq"] == len(assert_valid_log(tmp_path / "home")) > 0
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, err) == (130, "")
        assert left_of(tmp_path) == []


@pytest.mark.slow
def test_on_a_terminal_it_shows_the_live_view_and_keeps_the_last_of_it(tmp_path: Path) -> None:
    words = (*COMMAND, *FEW)
    with terminal(*words, columns=120, lines=40, env=environment(tmp_path), cwd=tmp_path) as t:
        settings = t.settings
        t.until("delivering, delivered")
        t.until("SQLite and at Alpine")
        assert t.wait() == 0
        assert t.settings == settings
        assert t.text.rindex(CURSOR_SHOWN) > t.text.rindex(CURSOR_HIDDEN)
        assert "Traceback" not in t.text


# Refusals and failures


def test_missing_prices_are_reported_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = demo(tmp_path, "--prices", "nowhere")
    assert done.returncode == 3
    assert "no price files (" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    """Its signals would count as delivered, to an Alpine that is gone a minute later."""
    append(tmp_path / "home", *signals(2))
    before = tree_contents(tmp_path / "home")
    done = demo(tmp_path, *FEW)
    assert done.returncode == 3
    assert "has files that are not from the demo" in done.stderr
    assert tree_contents(tmp_path / "home") == before


def test_a_directory_that_holds_anything_else_does_not_become_its_home(tmp_path: Path) -> None:
    """The demo ends with the advice to remove the home."""
    (tmp_path / "thesis.txt").write_text("years of work")
    for named in (".", ""):
        done = demo(tmp_path, "--simulate", "7", "--days", DAYS, "--home", named)
        assert done.returncode == 3
        assert "has files that are not from the demo" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_without_any_signal_asks_for_more_days(tmp_path: Path) -> None:
    done = demo(tmp_path, "--simulate", "7", "--days", "20", "--home", "home")
    assert done.returncode == 1
    assert "its rule needs more than a hundred days" in done.stderr


@pytest.mark.slow
def test_a_process_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "demo-logs").mkdir(mode=0o700)
    (home / "demo-alpine.key").write_text("open to others\n")
    (home / "demo-alpine.key").chmod(0o644)
    done = demo(tmp_path, *FEW)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("tools/demo: alpine did not start (")
    log = home / "demo-logs/alpine.log"
    assert f"its log is {log}" in line
    assert "open to others" in log.read_text()
    assert left_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "word"),
    [("projector", "project all"), ("alpine", "tools.alpine --dev"), ("generator", "generator.py")],
)
def test_a_process_that_dies_is_named_with_its_log_and_ends_the_others(
    tmp_path: Path, name: str, word: str
) -> None:
    with running(tmp_path, "--simulate", "1", "--home", "home") as process:
        read_until(process, "delivering")
        (victim,) = commands_of(tmp_path, word)
        victim.kill()
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        (line,) = err.splitlines()
        assert line.startswith(f"tools/demo: {name} ")
        assert f"its log is {tmp_path}/home/demo-logs/{name}.log" in line
        assert left_of(tmp_path) == []


@pytest.mark.slow
def test_a_closed_stdout_ends_it_with_every_process_it_started(tmp_path: Path) -> None:
    with running(tmp_path, *FEW) as process:
        read_until(process, "it listens on")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 3
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert left_of(tmp_path) == []


# Stopped by a signal


@pytest.mark.slow
@pytest.mark.parametrize("moment_s", MOMENTS)
def test_whenever_it_is_stopped_nothing_runs_any_more(tmp_path: Path, moment_s: float) -> None:
    """Stopped by Ctrl-C, which goes to the process group, by SIGTERM, or by a closed terminal."""
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP][MOMENTS.index(moment_s) % 3]
    with running(tmp_path, *FEW) as process:
        begin = read_until(process, "1. ")
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert err == ""
        assert left_of(tmp_path) == []
        if process.returncode != 0:  # the demo ended before the signal
            assert process.returncode == 130
            found = re.fullmatch(
                r"demo: stopped with ([\d,]+) entries in (.*)", out.splitlines()[-1]
            )
            assert found
            assert f"Stopped by {number.name}" in out
            assert int(found[1].replace(",", "")) == len(assert_valid_log(tmp_path / "home"))
        logs = [path.read_text() for path in (tmp_path / "home/demo-logs").glob("*.log")]
        assert not any("Traceback" in text for text in (begin, out, *logs))


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_ends_the_live_view_and_gives_it_back(tmp_path: Path) -> None:
    words = (*COMMAND, "--simulate", "1", "--home", "home")
    with terminal(*words, columns=120, lines=40, env=environment(tmp_path), cwd=tmp_path) as t:
        settings = t.settings
        t.until("delivering, delivered")
        t.press(CTRL_C)
        t.press(CTRL_C)
        assert t.wait() == 130
        t.until("demo: stopped with")
        assert t.settings == settings
        assert t.text.rindex(CURSOR_SHOWN) > t.text.rindex(CURSOR_HIDDEN)
        assert "Traceback" not in t.text
    until(lambda: left_of(tmp_path) == [])


@pytest.mark.slow
def test_a_stopped_run_continues_in_the_same_home(tmp_path: Path) -> None:
    with running(tmp_path, *FEW) as process:
        read_until(process, "alpine lag")
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
    done = demo(tmp_path, *FEW)
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(done.stdout.splitlines()[-1]).entries == len(assert_valid_log(tmp_path / "home"))
