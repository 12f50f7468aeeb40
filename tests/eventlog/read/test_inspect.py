"""Inspecting a home: its owner, and whether it holds a log, without reading an entry."""

from pathlib import Path

import pytest

from eventlog import EventLog, ForeignHome, LogCorrupt, LogNotFound, UnsafePath
from eventlog.plumbing import log_status, require_home
from eventlog.read import inspect
from tests.harness.signals import a_signal


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_home_with_a_log_is_ours_whatever_its_entries_hold(home: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    segment = next((home / "logs").glob("*.jsonl"))
    segment.write_bytes(b"\0" * segment.stat().st_size)
    require_home(home)


def test_a_home_without_a_log_is_not_found_and_nothing_is_made(home: Path) -> None:
    with pytest.raises(LogNotFound):
        require_home(home)
    assert not home.exists()


def test_a_home_whose_segments_are_gone_is_corrupt(home: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    next((home / "logs").glob("*.jsonl")).unlink()
    with pytest.raises(LogCorrupt):
        require_home(home)


def test_a_home_of_the_old_tracker_is_foreign(home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "signals.log").write_text("2025-11-18 BUY AAPL\n")
    with pytest.raises(ForeignHome):
        require_home(home)


def test_a_file_is_no_home(home: Path) -> None:
    home.write_text("")
    with pytest.raises(UnsafePath):
        require_home(home)


def test_signals_that_are_appended_while_they_are_counted_are_not_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
        found_end = inspect._end

        def end_before_an_append(*arguments: object) -> object:
            end = found_end(*arguments)  # type: ignore[arg-type]
            log.append(a_signal(2))
            return end

        monkeypatch.setattr(inspect, "_end", end_before_an_append)
        found = log_status(str(home))
    assert (found["last_seq"], found["signals"]) == (1, 1)
