"""The follower on a scripted stream: whatever consumers do, the replica is the primary's log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from errno import ENOSPC
from pathlib import Path

import pytest

from eventlog import EventLog, LogDiverged, LogPoisoned
from eventlog.format.durability import decode_watermark
from eventlog.format.scan import TIP_START
from eventlog.replica import follower as follower_module
from eventlog.replica.engine import StreamEnd, StreamShort, StreamUnavailable
from eventlog.replica.follower import FOLLOWING, WAITING, Follower
from eventlog.replica.replica_log import ReplicaLog
from eventlog.storage.home import home_at
from eventlog.storage.replica_file import ReplicaState
from eventlog.storage.segment_disk import SegmentDisk
from tests.harness.deadline import until_async
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in, segment_contents
from tests.harness.scripted_consumers import Deliver, ScriptedConsumers, stream_lines
from tests.harness.signals import a_signal, signals

LINES = 12


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    home = tmp_path / "primary"
    with EventLog(home, segment_bytes=2000) as log:
        for start, count in ((1, 1), (2, 3), (5, 1), (6, 4), (10, 2), (12, 1)):
            log.append_many(signals(count, start=start))
    return home


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "RETRY_S_MIN", 0.001)
    monkeypatch.setattr(follower_module, "RETRY_S_MAX", 0.002)


def follower_of(stream: ScriptedConsumers, home: Path) -> Follower:
    return Follower(stream.open, ReplicaLog.open(home), stream="main")


def follow_once(stream: ScriptedConsumers, home: Path) -> Follower:
    found = follower_of(stream, home)
    asyncio.run(found.run(asyncio.Event(), once=True))
    return found


@pytest.mark.parametrize(
    ("script", "resets"),
    [
        pytest.param([], 0, id="in order"),
        pytest.param([[Deliver(1, 5), Deliver(1, 5), Deliver(4, 8)]], 0, id="repeated"),
        pytest.param([[Deliver(1, 5), Deliver(7, 9)]], 1, id="a gap"),
        pytest.param([[Deliver(1, 3), Deliver(6, 9)], [Deliver(5, 9)]], 2, id="a gap again"),
        pytest.param([[Deliver(1, 9), Deliver(1, 12)]], 0, id="a rewind"),
        pytest.param([[Deliver(3, 4)], [Deliver(1, 2)]], 1, id="a wrong start"),
        pytest.param([[Deliver(1, 4), StreamUnavailable("silence")]], 1, id="silence"),
        pytest.param([[StreamUnavailable("silence")]] * 3, 3, id="silence three times"),
    ],
)
def test_whatever_a_consumer_delivers_the_replica_is_the_log_of_the_primary(
    primary: Path, tmp_path: Path, script: list[list[object]], resets: int
) -> None:
    stream = ScriptedConsumers(stream_lines(primary))
    stream.script = [list(steps) for steps in script]  # type: ignore[arg-type]
    found = follow_once(stream, tmp_path / "replica")
    assert segment_contents(tmp_path / "replica") == segment_contents(primary)
    assert (found.resets, found.checkpoint, found.lag_entries) == (resets, LINES, 0)


def test_a_consumer_begins_after_the_last_durable_line(primary: Path, tmp_path: Path) -> None:
    stream = ScriptedConsumers(stream_lines(primary))
    stream.script = [[Deliver(1, 5), StreamUnavailable("silence")]]
    follow_once(stream, tmp_path / "replica")
    follow_once(stream, tmp_path / "replica")  # there is nothing more: no consumer
    assert stream.consumers == [0, 5]


def test_a_gap_is_no_reason_to_judge_the_chain_and_a_line_of_another_log_is(
    primary: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with EventLog(other) as log:
        for number in range(LINES):
            log.append(a_signal(100 + number))
    foreign = stream_lines(other)
    stream = ScriptedConsumers(stream_lines(primary))
    stream.script = [[Deliver(1, 3), foreign[7:9]], [foreign[3:5]]]
    with pytest.raises(LogDiverged, match="entry 4 of the stream does not match its chain"):
        follow_once(stream, tmp_path / "replica")
    assert lines_in(tmp_path / "replica") == lines_in(primary)[:3]
    assert stream.consumers == [0, 3]


def test_a_stream_of_another_log_is_refused_before_a_line_is_read(
    primary: Path, tmp_path: Path
) -> None:
    with EventLog(tmp_path / "other") as log:
        log.append_many(signals(LINES + 3, start=100))
    follow_once(ScriptedConsumers(stream_lines(primary)), tmp_path / "replica")
    for count in (LINES + 3, LINES, 2):
        stream = ScriptedConsumers(stream_lines(tmp_path / "other")[:count])
        with pytest.raises(LogDiverged, match=f"at seq {min(count, LINES)} the stream holds"):
            follow_once(stream, tmp_path / "replica")
        assert stream.consumers == []


@pytest.mark.parametrize("count", [0, 5])
def test_a_stream_that_is_behind_the_replica_is_waited_for(
    primary: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = stream_lines(primary)
    follow_once(ScriptedConsumers(lines), tmp_path / "replica")
    stream = ScriptedConsumers(lines[:count])
    monkeypatch.setattr(follower_module, "ONCE_WAIT_S_MAX", 0.0)
    with pytest.raises(StreamUnavailable, match=f"ends at seq {count}, before this replica"):
        follow_once(stream, tmp_path / "replica")
    stream.add(lines[count:])
    follow_once(stream, tmp_path / "replica")
    assert lines_in(tmp_path / "replica") == lines_in(primary)


class Short(ScriptedConsumers):
    async def last(self) -> StreamEnd:
        raise StreamShort("some messages were removed")


def test_a_stream_with_missing_messages_ends_the_run(primary: Path, tmp_path: Path) -> None:
    with pytest.raises(StreamShort):
        follow_once(Short(stream_lines(primary)), tmp_path / "replica")


def test_a_log_becomes_a_replica_only_if_it_is_in_the_stream(primary: Path, tmp_path: Path) -> None:
    lines = stream_lines(primary)
    with EventLog(tmp_path / "home") as log:
        log.append(a_signal(99))
        with pytest.raises(LogDiverged):
            follow_once(ScriptedConsumers(lines), tmp_path / "home")
        log.append(a_signal(100))


# -- as a daemon


@asynccontextmanager
async def running(follower: Follower) -> AsyncIterator[None]:
    """The follower runs while the block does, and is stopped at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(follower.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and event of what the follower has logged."""
    return [
        (record.levelname, record.getMessage().split()[0])
        for record in caplog.records
        if record.name == "eventlog.replica.follower"
    ]


def test_lines_are_written_as_they_come_and_the_watermark_within_a_second(
    primary: Path, tmp_path: Path
) -> None:
    lines = stream_lines(primary)

    async def run() -> None:
        stream = ScriptedConsumers(lines[:4])
        follower = follower_of(stream, tmp_path / "replica")
        async with running(follower):
            for count in (4, 7, LINES):
                stream.add(lines[len(stream.lines) : count])
                await until_async(lambda n=count: follower.checkpoint == n)  # type: ignore[misc]
                assert follower.state == FOLLOWING
            path = tmp_path / "replica/logs/.durable"
            await until_async(lambda: watermark_seq(path) == LINES)

    asyncio.run(run())
    assert segment_contents(tmp_path / "replica") == segment_contents(primary)


def test_the_watermark_is_written_also_while_lines_come_without_a_pause(
    primary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "WATERMARK_AFTER_S", -1.0)
    log = ReplicaLog.open(tmp_path / "replica")
    found: list[tuple[int, bool]] = []
    stream = ScriptedConsumers(stream_lines(primary))
    follower = Follower(
        stream.open,
        log,
        stream="main",
        on_change=lambda: found.append((follower.checkpoint, log.needs_watermark)),
    )
    asyncio.run(follower.run(asyncio.Event(), once=True))
    assert found == [(0, False), (4, False), (8, False), (12, False)]


def watermark_seq(path: Path) -> int:
    found = decode_watermark(path.read_bytes()) if path.exists() else None
    return found.end.seq if found is not None else 0


def test_an_unreachable_stream_is_logged_once_with_its_start_and_its_end(
    primary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        stream = ScriptedConsumers(stream_lines(primary))
        stream.unreachable = 20
        stream.script = [[Deliver(1, 5), StreamUnavailable("silence")]]
        follower = follower_of(stream, tmp_path / "replica")
        async with running(follower):
            await until_async(lambda: follower.checkpoint == LINES)
        assert follower.resets == 1

    asyncio.run(run())
    assert logged(caplog) == 2 * [("WARNING", "follow_waits"), ("WARNING", "follow_goes_on")]


def test_a_stop_ends_a_wait_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "RETRY_S_MIN", 3600.0)

    async def run() -> None:
        stream = ScriptedConsumers()
        stream.unreachable = 1
        follower = follower_of(stream, tmp_path / "replica")
        async with running(follower):
            await until_async(lambda: follower.reason is not None)
            assert (follower.state, str(follower)) == (
                WAITING,
                "waiting at seq 0: no server answers",
            )

    asyncio.run(run())


def test_a_full_disk_is_waited_for_and_logged_once_however_long_it_takes(
    primary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultDisk()
    log = ReplicaLog(SegmentDisk(disk), home_at(tmp_path / "replica"))

    async def run() -> None:
        stream = ScriptedConsumers(stream_lines(primary)[:4])
        follower = Follower(stream.open, log, stream="main")
        async with running(follower):
            await until_async(lambda: follower.checkpoint == 4)
            fault = disk.fail("pwrite", path=".jsonl", error=ENOSPC, onwards=True)
            stream.add(stream_lines(primary)[4:])
            await until_async(lambda: fault.fired > 3)
            assert (follower.state, "No space left" in str(follower.reason)) == (WAITING, True)
            assert follower.lag_entries == LINES - 4
            disk.heal()
            await until_async(lambda: follower.checkpoint == LINES)
            assert follower.state == FOLLOWING
        assert follower.resets == 1

    asyncio.run(run())
    assert logged(caplog) == [("WARNING", "follow_waits"), ("WARNING", "follow_goes_on")]
    assert segment_contents(tmp_path / "replica") == segment_contents(primary)


def test_a_failed_sync_ends_the_run_and_the_next_one_goes_on(primary: Path, tmp_path: Path) -> None:
    disk = FaultDisk()
    log = ReplicaLog(SegmentDisk(disk), home_at(tmp_path / "replica"))
    stream = ScriptedConsumers(stream_lines(primary))
    log.begin(ReplicaState(stream="main"), TIP_START)
    disk.fail("fdatasync", nth=3, path=".jsonl")
    with pytest.raises(LogPoisoned):
        asyncio.run(Follower(stream.open, log, stream="main").run(asyncio.Event(), once=True))
    follow_once(stream, tmp_path / "replica")
    assert segment_contents(tmp_path / "replica") == segment_contents(primary)
