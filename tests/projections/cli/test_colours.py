"""Bad news has a colour on a terminal, and nowhere else."""

import asyncio
from pathlib import Path

import pytest

from projections.run_directory import FAILED
from projections.runtime.run_files import RunFile
from tests.harness.command import COMMAND, eventlog
from tests.harness.log_checks import segments_in
from tests.harness.read_side import append
from tests.harness.signals import signals
from tests.harness.terminal import terminal

RED = "\x1b[31m\x1b[1m"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A damaged home without a table."""
    home = tmp_path / "home"
    append(home, *signals(3))
    (segment,) = segments_in(home)
    segment.write_bytes(segment.read_bytes().replace(b'"s-2"', b'"s-X"'))
    return home


@pytest.mark.parametrize(
    ("command", "bad_news"),
    [
        ("verify", f"{RED}DAMAGED: 1 finding\x1b[0m"),
        ("status", f"problem            {RED}there is no database yet\x1b[0m"),
        ("doctor", f"{RED}problem \x1b[0m"),
    ],
)
def test_bad_news_is_red_on_a_terminal_only(home: Path, command: str, bad_news: str) -> None:
    home.joinpath("data").chmod(0o777)  # which doctor calls a problem
    with terminal(COMMAND, "--home", home, command, columns=200) as t:
        t.wait()
        t.until(bad_news)
    assert b"\x1b" not in eventlog(command, home=home, env={"TERM": "xterm-256color"}).out


def test_the_failure_of_a_daemon_is_red_in_status(home: Path) -> None:
    file = RunFile(home, "sqlite", asyncio.Event())
    try:
        file.report(state=FAILED, since="2025-11-18T02:00:00+00:00", reason="the disk is full")
        with terminal(COMMAND, "--home", home, "status", columns=200) as t:
            t.wait()
            t.until(f"daemon             {RED}failed")
            t.until("the disk is full")
    finally:
        file.release()


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_without_colours_gets_none(home: Path, env: dict[str, str]) -> None:
    with terminal(COMMAND, "--home", home, "verify", env=env, columns=200) as t:
        assert t.wait() == 1
        t.until("DAMAGED: 1 finding:")
        assert "\x1b[3" not in t.text
