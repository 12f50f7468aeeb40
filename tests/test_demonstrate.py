"""tools/demonstrate.py, run as tools/demo runs it: what it says is so, and it ends when told to.

Invariant: none of these runs leaves a file outside its own directory.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.needs import CHECKOUT, needs_shared
from tests.harness.process import PATIENCE_S
from tests.harness.whole import assert_whole, bytes_of

COMMAND = (sys.executable, "-P", "-m", "tools.demonstrate")
DAYS = 300  # a hundred pass before the first signal


def environment(tmp: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp)}


def demo(tmp: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=tmp,
        env=environment(tmp),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def figures(text: str) -> tuple[int, int, int]:
    """Entries appended, entries and signals read back, from the last line."""
    found = re.search(r"demo: ([\d,]+) entries appended .* ([\d,]+) entries of ([\d,]+) sig", text)
    assert found, text
    appended, entries, signals = (int(group.replace(",", "")) for group in found.groups())
    return appended, entries, signals


def test_the_last_line_tells_what_the_log_holds(tmp_path: Path) -> None:
    done = demo(tmp_path, "--simulate", 7, "--days", DAYS, "--home", "home")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a simulated market, seed 7" in done.stdout
    assert "duplicate=True" in done.stdout
    assert "DAMAGED: 1 findings" in done.stdout
    entries = assert_whole(tmp_path / "home")
    signals = [entry for entry in entries if entry["event"] == "signal"]
    assert len(signals) > 0
    assert figures(done.stdout.splitlines()[-1]) == (len(entries), len(entries), len(signals))
    assert [path.name for path in tmp_path.iterdir()] == ["home"], "the damaged copy is gone"


def test_a_second_run_in_the_same_home_writes_nothing(tmp_path: Path) -> None:
    words = ("--simulate", 1, "--days", DAYS, "--home", "home")
    assert demo(tmp_path, *words).returncode == 0
    before = bytes_of(tmp_path / "home/logs")
    done = demo(tmp_path, *words)
    assert done.returncode == 0
    assert figures(done.stdout)[0] == 0
    after = bytes_of(tmp_path / "home/logs")
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


def test_it_runs_on_real_prices_and_says_so(tmp_path: Path) -> None:
    prices = needs_shared("data/prices")
    done = demo(tmp_path, "--prices", prices, "--days", DAYS)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"real daily prices of 8 symbols, from {prices}" in done.stdout
    (home,) = tmp_path.glob("eventlog-demo-*")
    assert figures(done.stdout)[1] == len(assert_whole(home))


def test_prices_that_are_not_there_are_told_and_leave_nothing_behind(tmp_path: Path) -> None:
    done = demo(tmp_path, "--prices", "nowhere")
    assert done.returncode == 3
    assert "no price files (nowhere)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_when_told_to(tmp_path: Path, signum: signal.Signals) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--simulate", "1", "--home", "home"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "the log is durable up to" in line:
                break
        process.send_signal(signum)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "")
    assert f"Stopped by {signum.name}" in out
    found = re.search(r"stopped with ([\d,]+) entries", out.splitlines()[-1])
    assert found
    assert int(found[1].replace(",", "")) == len(assert_whole(tmp_path / "home"))


def test_ctrl_c_while_it_reads_ends_it_before_the_next_step(tmp_path: Path) -> None:
    assert demo(tmp_path, "--simulate", 1, "--days", DAYS, "--home", "home").returncode == 0
    process = subprocess.Popen(
        [*COMMAND, "--simulate", "1", "--days", str(DAYS), "--home", "home"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal tells the whole group, its commands included
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("2."):
                break
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "\n5. " not in out
    assert "Traceback" not in out
