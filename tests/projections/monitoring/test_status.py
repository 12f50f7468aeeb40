"""`status` and `wait`: the position of each projection, with and without a daemon."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from eventlog.plumbing import ReplicaLog, ReplicaState
from projections import WaitTimeout, wait, wait_async
from projections.monitoring.snapshot import ReplicaSnapshot, take_snapshot
from projections.replication.follow_record import FollowFigures, FollowRecord
from projections.runtime.projector import Projector
from projections.sqlite.projection import SqliteProjection
from tests.harness.command import eventlog
from tests.harness.daemon import daemon, ready
from tests.harness.deadline import until
from tests.harness.log_checks import entries_in, lines_in, tree_contents
from tests.harness.losses import lose_entry
from tests.harness.raw_log import RawLog, swap
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries, seq_in

LOG_KEYS = [
    *("first_seq", "last_seq", "signals", "segments", "bytes", "disk_bytes", "last_recorded_at"),
    "chain",
]
SQLITE_KEYS = {
    *("checkpoint", "lag_entries", "lag_seconds", "rows", "conflicts", "bytes", "wal_bytes"),
    *("latest_timestamp", "daemon"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def status(home: Path) -> dict[str, Any]:
    done = eventlog("status", "--json", home=home)
    assert (done.code, done.err) == (0, "")
    (found,) = done.answers
    return found


def sqlite_figures(home: Path) -> dict[str, Any]:
    figures: dict[str, Any] = status(home)["projections"]["sqlite"]
    return figures


@pytest.mark.parametrize("more", [0, 7])
def test_a_log_that_is_not_the_projected_one_is_reported(
    home: Path, tmp_path: Path, more: int
) -> None:
    """Its last entry may have the same seq, or a later one."""
    append(home, *signals(5))
    project(home)
    append(tmp_path / "other", *signals(5 + more, start=100))
    swap(home, tmp_path / "other")
    figures = sqlite_figures(home)
    assert (figures["checkpoint"], figures["lag_entries"], figures["lag_seconds"]) == (
        5,
        None,
        None,
    )
    assert "not the one projected" in figures["problem"]


def test_it_has_the_keys_of_the_contract(home: Path) -> None:
    append(home, *signals(3), closed(1), closed(9), segment_bytes=1000)
    project(home)
    found = status(home)
    assert list(found["log"]) == LOG_KEYS
    assert found["log"] == {
        "first_seq": 1,
        "last_seq": 5,
        "signals": 3,
        "segments": len(list((home / "logs").glob("*.jsonl"))),
        "bytes": len(b"".join(lines_in(home))),
        "disk_bytes": len(b"".join(lines_in(home))),
        "last_recorded_at": entries_in(home)[-1]["recorded_at"],
        "chain": entries_in(home)[-1]["chain"],
    }
    figures = found["projections"]["sqlite"]
    assert figures.keys() == SQLITE_KEYS
    assert figures == {
        "checkpoint": 5,
        "lag_entries": 0,
        "lag_seconds": 0.0,
        "rows": 3,
        "conflicts": 1,
        "bytes": database_of(home).stat().st_size,
        "wal_bytes": 0,
        "latest_timestamp": "2025-11-18T02:00:00.000000+00:00",
        "daemon": {"state": "stopped", "pid": None, "since": None, "reason": None},
    }


def test_the_text_output_has_the_same_figures(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    text = eventlog("status", home=home).out.decode()
    assert text.startswith("log:\n")
    sqlite = text[text.index("sqlite:") :].splitlines()
    assert ["checkpoint", "3"] in [line.split() for line in sqlite]
    assert ["wal_bytes", "0", "bytes"] in [line.split() for line in sqlite]
    assert ["lag", "0.0", "s"] in [line.split() for line in sqlite]


def test_the_lag_is_measured_against_the_end_of_the_log_while_the_daemon_is_down(
    home: Path,
) -> None:
    append(home, *signals(3))
    project(home)
    append(home, *signals(4, start=4))
    append(home, *signals(2, start=8))
    figures = sqlite_figures(home)
    assert (figures["checkpoint"], figures["lag_entries"], figures["rows"]) == (3, 6, 3)
    oldest = datetime.fromisoformat(entries_in(home)[3]["recorded_at"])
    older_s = (datetime.now(UTC) - oldest).total_seconds()
    assert 0 < figures["lag_seconds"] <= older_s
    assert sqlite_figures(home)["lag_seconds"] > figures["lag_seconds"]  # it grows


def test_the_lag_in_seconds_is_the_age_of_the_oldest_entry_that_is_not_applied(home: Path) -> None:
    source = home.with_name("source")
    append(source, *signals(5))
    RawLog(home).add([(entry.event, entry.payload) for entry in raw_entries(source)])
    figures = sqlite_figures(home)  # recorded at EPOCH, by that log
    age_s = (
        datetime.now(UTC) - datetime.fromisoformat(entries_in(home)[0]["recorded_at"])
    ).total_seconds()
    assert abs(figures["lag_seconds"] - age_s) < 3600
    assert figures["lag_entries"] == 5


@pytest.mark.slow
def test_it_shows_the_lag_of_a_busy_and_of_an_idle_daemon(home: Path) -> None:
    append(home, a_signal(0))
    with ready(home, "sqlite") as d:
        for number in range(1, 30):
            append(home, a_signal(number))
            figures = sqlite_figures(home) if number % 5 == 0 else None
            if figures is not None:
                assert figures["rows"] == figures["checkpoint"] <= number + 1
                assert figures["lag_entries"] <= number + 1 - figures["checkpoint"]
        until(lambda: sqlite_figures(home)["lag_entries"] == 0)
        figures = sqlite_figures(home)
        assert (figures["checkpoint"], figures["lag_seconds"]) == (30, 0.0)
        assert figures["wal_bytes"] == (home / "data" / "signals.db-wal").stat().st_size > 0
        assert (d.stop(), d.complaints) == (0, "")


def test_without_a_database_the_lag_is_the_whole_log(home: Path) -> None:
    append(home, *signals(3))
    before = tree_contents(home)
    figures = sqlite_figures(home)
    assert (figures["checkpoint"], figures["lag_entries"], figures["rows"]) == (0, 3, 0)
    assert figures["lag_seconds"] > 0
    assert figures["bytes"] == 0
    assert "no database" in figures["problem"]
    assert tree_contents(home) == before


def test_figures_of_a_damaged_database_are_null_and_the_problem_is_reported(
    home: Path,
) -> None:
    append(home, *signals(30))
    project(home)
    data = database_of(home).read_bytes()
    for bad in (b"no database at all" * 500, data[:4096] + b"\xa5" * (len(data) - 4096), b""):
        database_of(home).write_bytes(bad)
        before = tree_contents(home)
        found = status(home)
        figures = found["projections"]["sqlite"]
        assert figures["checkpoint"] is figures["rows"] is figures["lag_entries"] is None
        assert figures["problem"].startswith("the database cannot be read: ")
        assert figures["bytes"] == len(bad)
        assert found["log"]["last_seq"] == 30
        assert tree_contents(home) == before


def test_a_log_shorter_than_the_checkpoint_is_not_a_lag_of_zero(home: Path) -> None:
    source = home.with_name("source")
    append(source, *signals(8))
    raw = RawLog(home)
    raw.add([(entry.event, entry.payload) for entry in raw_entries(source)])
    project(home)
    raw.cut(5)
    figures = sqlite_figures(home)
    assert figures["lag_entries"] is figures["lag_seconds"] is None
    assert "the log ends at seq 5" in figures["problem"]
    assert figures["checkpoint"] == 8


def test_a_damaged_log_is_reported_and_the_rest_is_measured(home: Path) -> None:
    append(home, *signals(4))
    project(home)
    append(home, *signals(4, start=5))
    (segment,) = (home / "logs").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"s-5"', b'"s-0"'))
    found = status(home)
    figures = found["projections"]["sqlite"]
    assert (figures["checkpoint"], figures["rows"], figures["lag_entries"]) == (4, 4, 4)
    assert figures["lag_seconds"] is None
    assert "seq 5" in figures["problem"]
    assert (found["log"]["last_seq"], found["log"]["signals"]) == (8, None)


def test_a_lost_end_of_the_log_is_no_lag(home: Path) -> None:
    append(home, *signals(5))
    lose_entry(home, 5)
    figures = sqlite_figures(home)
    assert (figures["checkpoint"], figures["lag_entries"]) == (0, 4)
    projector = Projector(home, SqliteProjection())
    asyncio.run(projector.run(once=True))
    assert projector.has_caught_up
    figures = sqlite_figures(home)
    assert (figures["checkpoint"], figures["lag_entries"], figures["lag_seconds"]) == (4, 0, 0.0)
    log = asyncio.run(take_snapshot(home, [])).log
    assert log is not None
    assert (log.last_seq, log.last_kept) == (5, 4)


@pytest.mark.parametrize("command", ["status", "wait 1", "signals", "stats"])
def test_a_home_without_a_log_is_reported_and_nothing_is_created(home: Path, command: str) -> None:
    done = eventlog(*command.split(), home=home)
    assert done.code == 3
    assert "error: " in done.err
    assert "do: " in done.err
    assert not home.exists()


@pytest.mark.parametrize("command", ["cat", "status", "signals", "rebuild-database", "tail"])
def test_a_log_without_any_of_its_segments_is_not_reported_as_missing(
    home: Path, command: str
) -> None:
    """R6: lock record and watermark show that it existed; an append would not help."""
    append(home, *signals(3))
    project(home)
    for segment in (home / "logs").glob("*.jsonl"):
        segment.unlink()
    done = eventlog(command, home=home)
    assert done.code == 3
    assert "entry 1 is gone: the log was durable up to entry 3" in done.err


def test_status_changes_and_creates_nothing(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    before = tree_contents(home)
    for words in (["status"], ["status", "--json"], ["wait", "3"]):
        assert eventlog(*words, home=home).code == 0
    assert tree_contents(home) == before


# -- wait


def waiting_for(home: Path, seq: int) -> tuple[threading.Thread, list[int]]:
    """A thread that waits for an entry, and the list to which it adds the checkpoint it found."""
    done: list[int] = []

    def run() -> None:
        wait(home, seq, "projected")
        done.append(seq_in(home))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


def test_wait_returns_when_the_entry_is_in_the_table(home: Path) -> None:
    append(home, *signals(2))
    thread, done = waiting_for(home, 2)
    time.sleep(0.1)
    assert not done
    project(home)
    thread.join(60)
    assert done == [2]
    wait(home, 2, "projected", timeout_s=0)  # it is projected already


def test_wait_async_blocks_no_other_task(home: Path) -> None:
    append(home, a_signal(1))

    async def run() -> None:
        with daemon(home, "sqlite"), EventLog(home) as log:
            for number in range(2, 12):
                receipt = await log.append_async(a_signal(number))
                waits = (wait_async(home, receipt.seq, "projected", timeout_s=60) for _ in range(5))
                await asyncio.gather(*waits)
                assert seq_in(home) >= receipt.seq
            cancelled = asyncio.create_task(wait_async(home, 10**6, "projected"))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(run())


def test_a_wait_timeout_names_where_to_look(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    wait(home, 2, "projected", timeout_s=0.05)
    with pytest.raises(WaitTimeout, match=r"entry 3 was not projected within 0\.05 s") as refusal:
        wait(home, 3, "projected", timeout_s=0.05)
    assert "eventlog status" in refusal.value.do


def test_an_unknown_stage_raises_an_error(home: Path) -> None:
    with pytest.raises(ValueError, match="stage"):
        wait(home, 1, "sent")


def test_the_command_waits_and_reports_by_its_exit_code(home: Path) -> None:
    append(home, *signals(2))
    done = eventlog("wait", 2, "--for", "projected", "--timeout", 0.1, home=home)
    assert (done.code, done.out) == (1, b"")
    assert "entry 2 was not projected within 0.1 s" in done.err
    with daemon(home, "sqlite"):
        done = eventlog("wait", 2, "--for", "projected", "--timeout", 60, home=home)
        assert (done.code, done.out) == (0, b"")  # on stderr: the daemon may not run yet
    assert eventlog("wait", 2, home=home).code == 0
    assert eventlog("wait", 2, "--for", "somewhere", home=home).code == 2
    assert eventlog("wait", "two", home=home).code == 2


def test_waiting_continues_while_the_database_is_created_again(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    database_of(home).write_bytes(b"damaged")
    thread, done = waiting_for(home, 3)
    append(home, a_signal(3))
    time.sleep(0.1)
    project(home)
    thread.join(60)
    assert done == [3]
    with closing(sqlite3.connect(database_of(home))) as db:
        assert db.execute("SELECT count(*) FROM signals").fetchone() == (3,)


def test_a_replica_has_figures_of_its_follower_and_other_homes_have_none(home: Path) -> None:
    append(home, *signals(3))
    assert asyncio.run(take_snapshot(home, [])).replica is None
    log = ReplicaLog.open(home)
    log.begin(ReplicaState(stream="main"), log.catch_up())
    log.close()

    def figures() -> ReplicaSnapshot | None:
        return asyncio.run(take_snapshot(home, [])).replica

    assert figures() == ReplicaSnapshot(lag_entries=None, is_following=False)
    record = FollowRecord(home)
    record.write(FollowFigures(stream_seq=5), None)
    assert figures() == ReplicaSnapshot(lag_entries=2, is_following=True)
    record.write(FollowFigures(stream_seq=5), "no server answers")
    assert figures() == ReplicaSnapshot(lag_entries=2, is_following=False)
    record.close(FollowFigures(stream_seq=5))
    assert figures() == ReplicaSnapshot(lag_entries=2, is_following=False)
