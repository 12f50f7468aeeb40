"""A daemon that is started before the first append waits for the log, and creates nothing."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import NotifySocket, abstract_name, daemon, listening
from tests.harness.deadline import until
from tests.harness.log_checks import tree_contents
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up, database_of, seq_in

START_S = 1.0  # what is promised; below, as the best of some tries: the machine may be busy
TRIES = 5


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_it_waits_and_starts_with_the_first_append(home: Path) -> None:
    with daemon(home, "all") as d:
        until(lambda: d.steps == ["started", "waiting_for_log"])
        time.sleep(0.7)
        assert d.process.poll() is None
        assert not home.exists()
        append(home, *signals(2))
        until(lambda: seq_in(home) == 2)
        until(lambda: "caught_up" in d.steps)
        assert d.stop() == 0
        assert d.steps == [
            "started",
            "waiting_for_log",
            "ready",
            "caught_up",
            "stopping",
            "stopped",
        ]
    assert_caught_up(home)


@pytest.mark.slow
def test_it_starts_within_a_second_of_the_first_append(tmp_path: Path) -> None:
    took_s = []
    for number in range(TRIES):
        home = tmp_path / str(number)
        with daemon(home, "sqlite") as d:
            until(lambda d=d: "waiting_for_log" in d.steps)  # type: ignore[misc]
            time.sleep(0.1 * number)
            append(home, a_signal(1))
            started_s = time.monotonic()
            until(lambda home=home: seq_in(home) == 1)  # type: ignore[misc]
            took_s.append(time.monotonic() - started_s)
    assert min(took_s) < START_S, took_s


@pytest.mark.parametrize("made", [(), ("home",), ("home", "logs", "data")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_waits_and_nothing_was_created(
    tmp_path: Path, made: tuple[str, ...], number: signal.Signals
) -> None:
    home = tmp_path / "home"
    for name in made:
        (home if name == "home" else home / name).mkdir()
    before = tree_contents(tmp_path)
    with daemon(home, "all", "--compress") as d:
        until(lambda: "waiting_for_log" in d.steps)
        d.send(number)
        started_s = time.monotonic()
        assert d.wait() == 0
        assert time.monotonic() - started_s < 5  # at once, on a machine that may be busy
        assert d.complaints == ""
        assert d.steps == ["started", "waiting_for_log", "stopping", "stopped"]
    assert tree_contents(tmp_path) == before


@pytest.mark.slow
def test_systemd_is_notified_while_it_waits(home: Path) -> None:
    with NotifySocket(abstract_name()) as systemd:
        with daemon(home, "sqlite", env={"NOTIFY_SOCKET": systemd.address}) as d:
            until(lambda: systemd.has_received("READY=1"))
            until(lambda: systemd.has_received("STATUS=waiting for the first entry"))

            def is_fed_again() -> bool:
                systemd.has_received("")
                return systemd.messages.count("WATCHDOG=1") >= 3

            until(is_fed_again)
            append(home, a_signal(1))
            until(lambda: systemd.has_received("STATUS=sqlite at seq 1"))
            assert d.stop() == 0
        systemd.has_received("")
        assert systemd.messages.count("READY=1") == 1
        assert systemd.messages.count("STOPPING=1") == 1


def test_health_says_that_it_waits_and_metrics_answer(home: Path) -> None:
    with listening(home, "all") as (d, url):

        def health() -> dict[str, Any]:
            with urllib.request.urlopen(f"{url}/health") as answer:
                assert answer.status == 200
                found: dict[str, Any] = json.loads(answer.read())
                return found

        found = health()
        assert (found["status"], found["reasons"]) == ("ok", ["waiting for the first entry"])
        assert [one["state"] for one in found["projections"].values()] == [None, None]
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert b'eventlog_projection_failed{projection="sqlite"' in answer.read()
        assert not home.exists()
        append(home, a_signal(1))
        until(lambda: "waiting for the first entry" not in str(health()["reasons"]))
        until(lambda: seq_in(home) == 1)
        assert d.stop() == 0


def test_once_does_not_wait(home: Path) -> None:
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert "there is no log at this home" in done.err
    assert not home.exists()


def test_a_log_whose_segments_are_gone_is_damage_and_no_wait(home: Path) -> None:
    append(home, *signals(3))
    for segment in (home / "logs").glob("*.jsonl"):
        segment.unlink()
    with daemon(home, "sqlite") as d:
        assert d.wait() == 3
        assert "waiting_for_log" not in d.err


def test_a_home_of_the_old_tracker_is_refused_and_no_wait(home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "signals.log").write_text("old\n")
    with daemon(home, "sqlite") as d:
        assert d.wait() == 3
        assert "belongs to the old tracker" in d.err


def test_a_table_without_its_log_is_not_touched_and_does_not_follow_a_new_log(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    before = database_of(home).read_bytes()
    os.rename(home / "logs", home / "moved")
    with daemon(home, "sqlite") as d:
        until(lambda: "waiting_for_log" in d.steps)
        append(home, a_signal(9))
        until(lambda: "projection_failed projection=sqlite" in d.err)
        assert "was built from another log" in d.err
        assert d.stop() == 0
    assert database_of(home).read_bytes() == before
