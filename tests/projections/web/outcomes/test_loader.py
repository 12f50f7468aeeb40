"""Trades that another process has loaded are those that this one reads, and it ends with us."""

import os
import threading
from pathlib import Path

import pytest

from eventlog import EventLog
from projections.web.outcomes import cache, loader
from projections.web.outcomes.cache import ALL, Outcomes
from projections.web.outcomes.loader import Loader
from tests.harness.deadline import until
from tests.harness.read_side import append, project
from tests.harness.signals import closed, signals
from tests.projections.web.outcomes.test_cache import FILTERS, found

WAITS = "import time; time.sleep(60)"


def last_seq_of(home: Path) -> int:
    with EventLog(home) as log:
        return log.last_seq


def test_what_another_process_has_loaded_answers_as_what_this_one_reads(
    full_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Outcomes(full_home)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "ENTRIES_MIN", 1)
        elsewhere = Outcomes(full_home)
        found(elsewhere, ALL, None)
    assert elsewhere.progress[0] > 0
    for seq in (None, last_seq_of(full_home) // 2, 3):
        for chosen in FILTERS[:2]:
            assert found(elsewhere, chosen, seq) == found(here, chosen, seq)


def test_trades_that_another_process_has_loaded_are_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(home, *signals(3), closed(1), {"event": "voided", "signal_id": "s-1", "voids": 4})
    project(home)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "ENTRIES_MIN", 1)
        outcomes = Outcomes(home)
        found(outcomes, ALL, None)
    append(home, closed(1), closed(2))
    project(home)
    for seq in (None, 6, 5, 4):
        assert found(outcomes, ALL, seq) == found(Outcomes(home), ALL, seq)


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('not what is awaited')"])
def test_without_that_process_the_trades_are_read_here(
    home: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(home, *signals(3), closed(1))
    project(home)
    monkeypatch.setattr(cache, "ENTRIES_MIN", 1)
    monkeypatch.setattr(loader, "COMMAND", (*loader.COMMAND[:-1], code))
    assert found(Outcomes(home), ALL, None)["stats"]["total_signals"] == 3


def test_the_process_ends_when_the_console_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "COMMAND", (*loader.COMMAND[:-1], WAITS))
    one = Loader(home)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(one.load(lambda *_: None)))
    thread.start()
    children = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/children")
    until(lambda: not thread.is_alive() or children.read_text())
    (pid,) = children.read_text().split()
    one.end()
    thread.join()
    assert results == [None]
    assert not Path(f"/proc/{pid}").exists()
    assert one.load(lambda *_: None) is None  # at once
