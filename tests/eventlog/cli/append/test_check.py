"""`eventlog append --check`: what an append would do, and not one byte written."""

import fcntl
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EventLog, Receipt
from eventlog.append.dry_run import DryRun
from eventlog.clock import now_recorded
from eventlog.log import validated
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from eventlog.storage.segment_disk import SegmentDisk
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import tree_contents
from tests.harness.signals import a_signal, closed, signals


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def check(home: Path, *lines: Any) -> list[dict[str, Any]]:
    done = eventlog("append", "--check", home=home, stdin=jsonl(list(lines)))
    answers: list[dict[str, Any]] = done.answers
    refused = [found for found in answers if found["result"] in ("invalid", "conflict")]
    assert done.code == (1 if refused else 0)
    assert done.err == "".join(f"line {found['line']}: {found['error']}\n" for found in refused)
    return answers


def test_each_line_gets_one_answer_in_order(home: Path) -> None:
    with EventLog(home) as log:
        log.append_many([*signals(2), closed(1)])
    before = tree_contents(home)
    assert check(
        home,
        a_signal(3),
        a_signal(1),
        b"nonsense",
        a_signal(2, stop_price=1),
        a_signal(4, target_price=-1),
        a_signal(3),
        a_signal(3, stop_price=1),
        closed(1),
        {"event": "tick"},
        a_signal(5, stop_price=500),
        {"event": "executd"},
    ) == [
        {"line": 1, "result": "new", "seq": 4},
        {"line": 2, "result": "duplicate", "seq": 1},
        {
            "line": 3,
            "result": "invalid",
            "error": "line is not JSON: Expecting value at character 1 (got nonsense)",
            "field": "line",
        },
        {
            "line": 4,
            "result": "conflict",
            "error": "signal_id s-2 belongs to a signal with other content (entry 2); a signal "
            "never changes: append a fact about it, or use a new signal_id",
            "field": "signal_id",
        },
        {
            "line": 5,
            "result": "invalid",
            "error": "target_price must be > 0 (got -1)",
            "field": "target_price",
        },
        {"line": 6, "result": "duplicate", "seq": 4},
        {
            "line": 7,
            "result": "conflict",
            "error": "signal_id s-3 belongs to a signal with other content (entry 4); a signal "
            "never changes: append a fact about it, or use a new signal_id",
            "field": "signal_id",
        },
        {"line": 8, "result": "duplicate", "seq": 3},
        {"line": 9, "result": "new", "seq": 5},
        {
            "line": 10,
            "result": "new",
            "seq": 6,
            "warnings": [
                {
                    "field": "stop_price",
                    "warning": "stop_price is above the entry_price, 155.0: the wrong side for a "
                    "BUY (got 500.0)",
                }
            ],
        },
        {
            "line": 11,
            "result": "invalid",
            "error": "event is no known event; did you mean executed? (got executd); use that "
            "name, or one that is not so close to it",
            "field": "event",
        },
    ]
    assert tree_contents(home) == before


def test_a_home_that_is_not_there_is_not_created(home: Path) -> None:
    assert check(home, a_signal(1), a_signal(1)) == [
        {"line": 1, "result": "new", "seq": 1},
        {"line": 2, "result": "duplicate", "seq": 1},
    ]
    assert not home.exists()


def test_a_file_is_checked_and_every_line_after_a_bad_one_too(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    lines = [a_signal(1), {"symbol": 5}, *signals(3000, start=2)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = eventlog("append", "--check", file, home=home)
    assert done.code == 1
    assert [found["line"] for found in done.answers] == list(range(1, 3003))
    assert done.answers[-1] == {"line": 3002, "result": "new", "seq": 3001}


def test_no_lock_is_taken(home: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    with (home / "logs/.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a writer that is slow
        assert check(home, a_signal(1), a_signal(2)) == [
            {"line": 1, "result": "duplicate", "seq": 1},
            {"line": 2, "result": "new", "seq": 2},
        ]


def test_a_damaged_log_ends_the_check(home: Path) -> None:
    with EventLog(home) as log:
        log.append_many(signals(3))
    segment = home / "logs/00000000000000000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"AAPL", b"AAPK", 1))
    done = eventlog("append", "--check", home=home, stdin=jsonl([a_signal(4)]))
    assert (done.code, done.out) == (3, b"")


def test_a_home_of_the_old_tracker_is_refused(home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs/signals.log").write_text("")
    done = eventlog("append", "--check", home=home, stdin=jsonl([a_signal()]))
    assert done.code == 3
    assert "import-legacy" in done.err


ITEMS = st.one_of(
    st.builds(
        a_signal, st.integers(1, 6), stop_price=st.sampled_from([140, 500]), x=st.integers(0, 1)
    ),
    st.builds(closed, st.integers(1, 6), exit_price=st.integers(1, 2)),
    st.builds(lambda n: {"event": "tick", "n": n}, st.integers(0, 1)),
)


def summary(result: object) -> object:
    if isinstance(result, Receipt):
        return result.seq, result.duplicate, result.signal_id, result.sha256, result.warnings
    return str(result)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(ITEMS, max_size=8),
    calls=st.lists(st.lists(ITEMS, max_size=6), max_size=5),
    window=st.integers(1, 6),
)
def test_a_dry_run_gives_what_the_append_gives_then(
    before: list[dict[str, Any]], calls: list[list[dict[str, Any]]], window: int
) -> None:
    """Also where the window is so small that a signal_id leaves it during the run."""
    with (
        TemporaryDirectory() as path,
        EventLog(Path(path) / "home", dedupe_entries=window) as log,
    ):
        log.append_each(before)
        disk = SegmentDisk(RealDisk())
        dry_run = DryRun(disk, home_at(Path(path) / "home"), now_recorded, window)
        expected = [dry_run.append_each([validated(item) for item in call]) for call in calls]
        for call, results in zip(calls, expected, strict=True):
            assert [summary(result) for result in log.append_each(call)] == [
                summary(result) for result in results
            ]
        assert len(dry_run._lines) <= window
