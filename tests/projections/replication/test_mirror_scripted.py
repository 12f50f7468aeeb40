"""The mirror against a scripted stream: lost acknowledgements, false refusals, lost messages."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from eventlog import EventLog, LogDiverged, NotReplicated, WaitTimeout
from eventlog.plumbing import FENCED, MIRRORING, UNFIT, WAITING, is_replicated
from eventlog.replica.nats_stream import BATCH_LINES_MAX
from projections.replication.mirror_record import WRITE_PAUSE_S
from tests.harness.deadline import until_async
from tests.harness.log_checks import lines_in
from tests.harness.losses import lose_entry
from tests.harness.mirrors import RunningMirror, mirror_once, mirroring, record_of
from tests.harness.scripted_stream import ScriptedStream, scripted_stream
from tests.harness.signals import signals


def fill(home: Path, entries: int, *, start: int = 1) -> None:
    with EventLog(home) as log:
        log.append_many(signals(entries, start=start))


def wait_replicated(home: Path, seq: int, timeout_s: float = 20) -> None:
    with EventLog(home) as log:
        log.wait_replicated(seq, timeout_s=timeout_s)


def run(
    home: Path,
    work: Callable[[ScriptedStream, RunningMirror], Awaitable[None]],
    *,
    fails: bool = False,
) -> None:
    """Runs `work` beside a mirror that has published ten lines."""

    async def play() -> None:
        async with scripted_stream() as stream:
            await asyncio.to_thread(fill, home, 10)
            async with mirroring(home, stream.settings, stream.open_engine) as mirror:
                await until_async(lambda: mirror.seq == 10)
                await work(stream, mirror)
                await until_async(lambda: bool(mirror.failures) == fails)

    asyncio.run(play())


@pytest.mark.parametrize("entries", [1, 5, 700])
def test_lines_whose_acknowledgement_is_lost_are_not_published_again(
    home: Path, entries: int
) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        before, stream.lose_acks = stream.appends, 1
        await asyncio.to_thread(fill, home, entries, start=11)
        await until_async(lambda: mirror.seq == 10 + entries)
        assert stream.messages == lines_in(home)
        assert stream.appends == before + -(-entries // BATCH_LINES_MAX)  # rounded up

    run(home, work)
    assert (record_of(home).acked, record_of(home).lost_acked) == (10 + entries, 0)


@pytest.mark.parametrize("entries", [1, 5])
def test_a_refusal_by_a_proposal_that_was_never_committed_only_delays(
    home: Path, entries: int
) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        before = stream.appends
        stream.refuse = 3
        await asyncio.to_thread(fill, home, entries, start=11)
        await until_async(lambda: mirror.seq == 10 + entries)
        assert stream.appends >= before + 4  # three refusals, and the one that passed
        assert stream.messages == lines_in(home)

    run(home, work)
    assert record_of(home).lost_acked == 0


def test_acknowledged_lines_that_the_stream_lost_are_reported_and_published_again(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await until_async(lambda: mirror.acked == 10)
        del stream.messages[7:]
        await until_async(lambda: stream.messages == lines_in(home))
        await until_async(lambda: mirror.acked == 10)
        assert record_of(home).lost_acked == 3

    run(home, work)
    assert "mirror_lost_acknowledged stream=EVENTLOG_scripted from=8 to=10" in caplog.text


def test_lost_lines_are_published_again_only_once_their_loss_is_noted(home: Path) -> None:
    """On a full disk a mirror that was killed after the refill would have forgotten the loss."""

    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await until_async(lambda: mirror.acked == 10)
        await asyncio.sleep(2 * WRITE_PAUSE_S)  # the record is written
        in_the_way = home / "data/.mirror.json.new"  # as little can be written as on a full disk
        in_the_way.mkdir()
        del stream.messages[7:]
        await asyncio.to_thread(fill, home, 1, start=11)
        await until_async(lambda: "cannot be noted" in (mirror.supervisor.stalled or ""))
        assert len(stream.messages) == 7
        in_the_way.rmdir()
        await until_async(lambda: stream.messages == lines_in(home))
        assert record_of(home).lost_acked == 3

    run(home, work)


def empty(_home: Path) -> list[bytes]:
    return []


def foreign(_home: Path) -> list[bytes]:
    return [b"hello"] * 12


def of_another_home(home: Path) -> list[bytes]:
    """A stream that has lost three lines, and that another home has continued beyond them."""
    lines = lines_in(home)
    other = home.with_name("other")
    shutil.copytree(home, other, symlinks=True)
    (segment,) = (other / "logs").glob("*.jsonl")
    segment.write_bytes(b"".join(lines[:7]))
    for name in (".lock", ".durable"):
        (other / "logs" / name).unlink()
    fill(other, 5, start=100)
    return lines_in(other)


@pytest.mark.parametrize(
    ("found", "state", "held"),
    [(empty, UNFIT, 0), (foreign, FENCED, 0), (of_another_home, FENCED, 7)],
)
def test_what_the_stream_holds_no_more_is_replicated_no_more_whatever_stops_the_mirror(
    home: Path, found: Callable[[Path], list[bytes]], state: str, held: int
) -> None:
    """An accepted gap ends the mirror of an empty stream, and other lines end that of any."""

    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await until_async(lambda: mirror.acked == 10)
        messages = await asyncio.to_thread(found, home)
        if state == UNFIT:
            await asyncio.to_thread(lose_entry, home, 5)
        assert is_replicated(str(home), 10)
        stream.messages[:] = messages
        await until_async(lambda: record_of(home).lost_acked == 10 - held)
        await until_async(lambda: mirror.state == state)
        assert stream.messages == messages

    run(home, work, fails=True)
    assert (record_of(home).acked, record_of(home).lost_acked) == (held, 10 - held)
    assert not is_replicated(str(home), held + 1)
    assert held == 0 or is_replicated(str(home), held)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_stream_created_again_with_as_many_lines_of_others_is_found_out(
    home: Path, restarts: bool
) -> None:
    """The lines of this log then follow theirs, and the last line is one of this log."""

    async def change(stream: ScriptedStream) -> None:
        other = home.with_name("other")
        await asyncio.to_thread(fill, other, 10, start=50)
        stream.messages[:] = lines_in(other)
        stream.created = "2026-01-02T03:05:05Z"
        await asyncio.to_thread(fill, home, 1, start=11)

    async def play() -> None:
        async with scripted_stream() as stream:
            await asyncio.to_thread(fill, home, 10)
            async with mirroring(home, stream.settings, stream.open_engine) as mirror:
                await until_async(lambda: mirror.acked == 10 and record_of(home).looked == 10)
                if not restarts:
                    await change(stream)
                    await until_async(lambda: mirror.state == FENCED)
                    await until_async(lambda: record_of(home).lost_acked > 0)
            if restarts:
                await change(stream)
                stream.messages += lines_in(home)[10:]
            for _ in range(2):
                # The second where the mirror looked before it had a line to publish.
                words = "created again, and at seq 10|at seq 10 the stream holds another line"
                with pytest.raises(LogDiverged, match=words):
                    await asyncio.to_thread(mirror_once, home, stream.settings, stream.open_engine)

    asyncio.run(play())
    assert (record_of(home).acked, record_of(home).state) == (0, FENCED)
    assert not is_replicated(str(home), 11)


def test_a_stream_that_once_had_too_few_servers_replicates_nothing_until_it_is_empty(
    home: Path,
) -> None:
    """A new server counts as up to date long before it has the older messages."""

    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await until_async(lambda: mirror.acked == 10)
        stream.replicas = 1
        await until_async(lambda: mirror.state == UNFIT)
        with pytest.raises(NotReplicated, match="has 1 of the 3 replicas"):
            is_replicated(str(home), 10)
        stream.replicas = 3
        await asyncio.to_thread(fill, home, 1, start=11)
        await until_async(lambda: stream.messages == lines_in(home))
        await until_async(lambda: mirror.state == MIRRORING)
        with pytest.raises(NotReplicated, match="has 1 of the 3 replicas"):
            is_replicated(str(home), 11)
        stream.messages.clear()
        await until_async(lambda: mirror.acked == 11 and record_of(home).lost_acked == 11)
        assert is_replicated(str(home), 11)

    run(home, work, fails=True)


def test_a_stream_that_recovers_has_lost_nothing(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await asyncio.to_thread(fill, home, 40, start=11)  # it recovers for longer than a second
        await until_async(lambda: mirror.acked == 50)
        stream.messages, stream.recovers = stream.messages[:2], stream.messages[2:]
        await until_async(lambda: mirror.state == WAITING)
        await until_async(lambda: mirror.state == MIRRORING)
        assert stream.messages == lines_in(home)

    run(home, work)
    assert record_of(home).lost_acked == 0


def test_what_a_leader_without_a_majority_says_of_the_end_is_not_believed(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await until_async(lambda: mirror.acked == 10)
        others = stream.messages[7:]  # acknowledged by a leader that the other two have elected
        del stream.messages[7:]
        stream.heard_s = 60
        await until_async(lambda: mirror.state == WAITING)
        assert "its leader has heard of 1 of 3 servers" in (record_of(home).last_error or "")
        stream.messages, stream.heard_s = [*stream.messages, *others], 0.5
        await until_async(lambda: mirror.state == MIRRORING)
        assert stream.messages == lines_in(home)

    run(home, work)
    assert record_of(home).lost_acked == 0


def test_a_waiter_does_not_wait_for_the_next_record(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        started_s = time.monotonic()
        for seq in range(11, 21):
            await asyncio.to_thread(fill, home, 1, start=seq)
            await asyncio.to_thread(wait_replicated, home, seq)
        # Ten records take five seconds.
        assert time.monotonic() - started_s < 5 * WRITE_PAUSE_S

    run(home, work)


def test_an_outage_is_noticed_without_a_new_line_and_ends_without_one(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        stream.is_silent = True
        await until_async(lambda: mirror.state == WAITING)
        assert "no answer from the stream" in (record_of(home).last_error or "")
        stream.is_silent = False
        await until_async(lambda: mirror.state == MIRRORING)
        assert record_of(home).last_error is None

    run(home, work)


def test_without_a_server_it_opens_at_what_was_acknowledged_and_waits(home: Path) -> None:
    async def play() -> None:
        async with scripted_stream() as stream:
            await asyncio.to_thread(fill, home, 10)
            async with mirroring(home, stream.settings, stream.open_engine) as mirror:
                await until_async(lambda: mirror.seq == 10)
            stream.is_silent = True
            await asyncio.to_thread(fill, home, 5, start=11)
            async with mirroring(home, stream.settings, stream.open_engine) as mirror:
                await until_async(lambda: mirror.seq == 10)  # so the daemon is ready
                await until_async(lambda: mirror.supervisor.stalled is not None)
                assert mirror.state == WAITING
                stream.is_silent = False
                await until_async(lambda: mirror.seq == 15)
            assert stream.messages == lines_in(home)

    asyncio.run(play())


def test_the_servers_that_hold_the_stream_are_counted(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        pass

    run(home, work)
    assert (record_of(home).replicas, record_of(home).replicas_current) == (3, 2)


def test_lines_are_replicated_once_they_are_acknowledged(home: Path) -> None:
    async def work(stream: ScriptedStream, mirror: RunningMirror) -> None:
        await asyncio.to_thread(wait_replicated, home, 10)
        stream.is_silent = True
        await asyncio.to_thread(fill, home, 5, start=11)
        with pytest.raises(WaitTimeout):
            await asyncio.to_thread(wait_replicated, home, 11, timeout_s=0.1)
        stream.is_silent = False
        await asyncio.to_thread(wait_replicated, home, 15)

    run(home, work)
