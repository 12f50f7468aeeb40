"""The progress bar: on a terminal alone, with rate and time left."""

import os
import pty
import subprocess
import sys
from itertools import pairwise

import pytest

from eventlog.cli.progress import INTERVAL_S, Progress

MIB = 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_shows_amount_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("rebuilding", clock=clock, is_shown=True) as progress:
        clock.now_s = 2.0
        progress(100 * MIB, 400 * MIB)
    shown = capsys.readouterr().err
    assert shown == ("\rrebuilding [#######.......................]  25% 50 MiB/s, 0:06 left\n")


def test_the_line_is_overwritten_at_a_limited_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Progress("x", clock=clock, is_shown=True) as progress:
        for step in range(1, 1001):
            clock.now_s = step * INTERVAL_S / 10
            progress(step, 1000 * 3600)
        clock.now_s += INTERVAL_S / 100
        progress(1000 * 3600, 1000 * 3600)
    lines = capsys.readouterr().err.rstrip("\n").split("\r")[1:]
    assert 90 <= len(lines) <= 102
    assert "100%" in lines[-1]
    assert all(len(after) >= len(before.rstrip()) for before, after in pairwise(lines))


def test_days_are_shown_in_hours(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("x", clock=clock, is_shown=True) as progress:
        clock.now_s = 10.0
        progress(1, 10_000)
        clock.now_s = 20.0
        progress(0, 0)
    shown = capsys.readouterr().err
    assert "27:46:30 left" in shown
    assert "100%" in shown


@pytest.mark.parametrize("on_terminal", [False, True])
def test_it_is_shown_only_on_a_terminal(on_terminal: bool) -> None:
    code = (
        "from eventlog.cli.progress import Progress\n"
        "with Progress('rebuilding') as progress: progress(1, 2); progress(2, 2)"
    )
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    subprocess.run([sys.executable, "-c", code], stderr=writing, check=True)
    os.write(writing, b"@")  # the end; a terminal gives what was written in pieces
    shown = b""
    while not shown.endswith(b"@"):
        shown += os.read(reading, 10_000)
    os.close(reading)
    os.close(writing)
    assert (b"100%" in shown) is on_terminal
