"""The lag of the mirror on the overview: only where there is one, and live."""

from dataclasses import asdict
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.plumbing import MirrorRecord, write_record
from tests.browser.console import console
from tests.browser.driver import Browser
from tests.harness.signals import signals

pytestmark = pytest.mark.slow

TILE = "[...document.querySelectorAll('.figures > div')].find(e => /Mirror lag/.test(e.innerHTML))"


def note(home: Path, acked: int, replicas: int) -> None:
    record = MirrorRecord(
        stream="EVENTLOG_main",
        acked=acked,
        state="mirroring",
        replicas=replicas,
        replicas_current=replicas,
    )
    write_record(home / "data", "mirror.json", asdict(record))


def test_the_lag_of_a_mirror_is_shown_live_where_there_is_one(
    browser: Browser, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(10))
    with console(home) as found, browser.context() as context:
        page = context.page()
        page.goto(found.enter_url)
        page.wait("document.querySelector('#checks li')")
        assert page.js(f"{TILE}.hidden") is True
        note(home, acked=7, replicas=3)
        page.wait(f"!{TILE}.hidden")
        assert page.figures()["mirror.lag_entries"] == 3
        assert "mirroring, on 3 of 3 servers" in page.js(f"{TILE}.innerText")
        note(home, acked=10, replicas=1)
        page.wait(f"/too few servers: not replicated/.test({TILE}.innerText)")
        assert page.figures()["mirror.lag_entries"] == 0
        assert not context.problems()
