"""`eventlog wait` says at once why an entry cannot arrive, goes on waiting, and can be ended."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from projections.delivery.outbox import Outbox, UnsavedChanges, outbox_path
from projections.delivery.outbox_rows import ParkedSignal
from projections.projection import Checkpoint
from projections.queries.wait import obstacles
from projections.run_directory import FAILED, RUNNING
from projections.runtime.run_files import RunFile
from tests.harness.command import eventlog, pipe
from tests.harness.deadline import until
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, signals

BEFORE_5 = "waiting: entry 5 is not in the log yet, which ends at entry 2\n"
NO_DAEMON = "waiting: no daemon runs the projection sqlite: start `eventlog project sqlite`\n"
SINCE = "2025-11-18T02:00:00.000000+00:00"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    append(tmp_path / "home", *signals(2))
    return tmp_path / "home"


def test_a_wait_says_at_once_what_is_missing_and_goes_on(home: Path) -> None:
    with pipe(home, "5", "--json", command="wait") as waiting:
        until(lambda: waiting.err_so_far == BEFORE_5 + NO_DAEMON, lambda: waiting.err_so_far)
        assert waiting.is_silent()
        append(home, *(a_signal(number) for number in (3, 4, 5)))
        project(home)
        reached = {"seq": 5, "for": "projected", "result": "reached", "problem": None}
        assert waiting.read_all_answers() == [reached]
        assert waiting.wait() == 0
    assert waiting.err == BEFORE_5 + NO_DAEMON


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_a_wait(home: Path, number: signal.Signals) -> None:
    with pipe(home, "5", command="wait") as waiting:
        until(lambda: waiting.err_so_far.count("\n") == 2, lambda: waiting.err_so_far)
        waiting.send(number)
        assert waiting.wait() == 130
    assert waiting.err == BEFORE_5 + NO_DAEMON


def test_a_wait_without_an_obstacle_says_nothing(home: Path) -> None:
    project(home)
    done = eventlog("wait", 2, home=home)
    assert (done.code, done.out, done.err) == (0, b"", "")


def test_a_quiet_wait_reports_the_timeout_alone(home: Path) -> None:
    done = eventlog("-q", "wait", 5, "--timeout", 0, "--json", home=home)
    assert (done.code, done.answers[0]["result"]) == (1, "timeout")
    assert done.answers[0]["problem"] + "\n" == done.err


def test_a_wait_for_a_parked_signal_ends_at_once_with_that_result(home: Path) -> None:
    parked = ParkedSignal(2, "s-2", "refused", 422, "no such symbol", 3, 1.0, 2.0, None)
    outbox = Outbox.open(outbox_path(home))
    checkpoint = Checkpoint(projection="alpine", seq=1, chain="0" * 64)
    outbox.save(checkpoint, [], UnsavedChanges(park={2: parked}), 0)
    outbox.close()
    done = eventlog("wait", 2, "--for", "delivered", "--json", home=home)
    (answer,) = done.answers
    assert (done.code, answer["for"], answer["result"]) == (1, "delivered", "parked")
    assert "no such symbol" in answer["problem"]
    assert answer["problem"] + "\n" == done.err


def test_the_obstacles_and_the_timeout_are_json_with_that_log_format(home: Path) -> None:
    done = eventlog("--log-format", "json", "wait", 1, "--timeout", 0, home=home)
    first, last = map(json.loads, done.err.splitlines())
    assert first["message"] + "\n" == NO_DAEMON
    assert last["message"].startswith("entry 1 was not projected within 0 s")
    assert (first["level"], last["level"]) == ("warning", "error")


def test_the_state_of_the_daemon_decides_what_is_an_obstacle(home: Path) -> None:
    assert len(obstacles(home, 1, "projected")) == 1
    file = RunFile(home, "sqlite", asyncio.Event())
    try:
        file.report(state=RUNNING, since=SINCE, reason=None)
        assert obstacles(home, 1, "projected") == []
        (missing,) = obstacles(home, 1, "delivered")
        assert missing == "no daemon runs the projection alpine: start `eventlog project alpine`"
        file.report(state=FAILED, since=SINCE, reason="the disk is full")
        assert obstacles(home, 1, "projected") == [
            "the projection sqlite has failed: the disk is full"
        ]
    finally:
        file.release()


@pytest.mark.parametrize(
    ("state", "last_error", "obstacle"),
    [
        ("refused", "401: the key is wrong", "delivery is refused: 401: the key is wrong"),
        ("stopped", None, "delivery is stopped"),  # a daemon that has just started
    ],
)
def test_delivery_that_has_stopped_is_an_obstacle(
    home: Path, state: str, last_error: str | None, obstacle: str
) -> None:
    outbox = Outbox.open(outbox_path(home))
    outbox.write_state(state=state, last_error=last_error)
    outbox.close()
    file = RunFile(home, "alpine", asyncio.Event())
    try:
        file.report(state=RUNNING, since=SINCE, reason=None)
        assert obstacles(home, 1, "delivered") == [obstacle]
    finally:
        file.release()
