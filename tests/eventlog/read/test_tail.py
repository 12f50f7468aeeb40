"""Tail: durable entries in order, as they come, whatever the file watch does."""

import asyncio
import logging
import os
import shutil
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from watchfiles._rust_notify import WatchfilesRustInternalError

from eventlog import Batch, EventLog, LogCorrupt, LogDiverged
from eventlog.read.tail import POLL_S, UNFINISHED_LINE_WARN_S
from tests.harness.command import pipe
from tests.harness.deadline import DEADLINE_S, until_async
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import segments_in
from tests.harness.signals import a_signal, signals


async def take(batches: AsyncGenerator[Batch, None], count: int) -> list[int]:
    """The seqs of the next entries; a hang fails the test."""
    found: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            found += [entry.seq for entry in await anext(batches)]
    return found


def test_entries_come_in_order_as_they_are_appended_across_rotations(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path, segment_bytes=2_000) as log:
            log.append_many(signals(5))
            async with aclosing(log.tail(after=2)) as batches:
                assert await take(batches, 3) == [3, 4, 5]
                for number in range(6, 30):
                    log.append(a_signal(number))
                    assert await take(batches, 1) == [number]
        assert len(segments_in(tmp_path)) > 3

    asyncio.run(run())


def test_a_tail_that_is_far_behind_gets_everything_in_bounded_batches(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path, segment_bytes=300_000) as log:
            for start in range(1, 6_001, 500):  # so that it rotates
                log.append_many(signals(500, start=start))
            found: list[int] = []
            async with aclosing(log.tail()) as batches:
                while len(found) < 6_000:
                    batch = await anext(batches)
                    assert len(batch) < 4_000
                    found += [entry.seq for entry in batch]
            assert found == list(range(1, 6_001))

    asyncio.run(run())


def test_the_position_of_a_batch_is_used_and_a_wrong_one_is_ignored(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        with EventLog(tmp_path, segment_bytes=2_000) as log:
            log.append_many(signals(10))
            async with aclosing(log.tail()) as batches:
                position = (await anext(batches)).position
            assert position is not None
            log.append_many(signals(3, start=11))
            for hint in (position, position._replace(byte_offset=position.byte_offset - 7)):
                async with aclosing(log.tail(10, hint=hint)) as batches:
                    assert await take(batches, 3) == [11, 12, 13]

    asyncio.run(run())


def test_it_waits_for_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    async def run() -> None:
        home = tmp_path / "later"
        with EventLog(home) as log:
            async with aclosing(log.tail()) as batches:
                first = asyncio.ensure_future(take(batches, 1))
                await asyncio.sleep(0.05)
                assert not home.exists()
                log.append(a_signal(1))
                assert await first == [1]

    asyncio.run(run())


def test_without_any_file_event_the_timer_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def watch(*_: Any, **__: Any) -> Iterator[set[Any]]:
        ended.wait()
        yield from ()

    monkeypatch.setattr(watchfiles, "watch", watch)

    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            async with aclosing(log.tail()) as batches:
                assert await take(batches, 1) == [1]
                coming = asyncio.ensure_future(take(batches, 1))
                await asyncio.sleep(0.2)  # so that it waits
                log.append(a_signal(2))
                assert await coming == [2]

    asyncio.run(run())
    ended.set()
    assert POLL_S <= 1.0  # what T1 promises


@pytest.mark.slow
def test_a_watch_that_dies_again_and_again_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 0

    def watch(*_: Any, **__: Any) -> Iterator[set[Any]]:
        nonlocal deaths
        deaths += 1
        raise OSError("the watch limit is reached")

    monkeypatch.setattr(watchfiles, "watch", watch)

    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            async with aclosing(log.tail()) as batches:
                await take(batches, 1)
                for number in range(2, 6):
                    coming = asyncio.ensure_future(take(batches, 1))
                    await asyncio.sleep(0.2)  # so that it waits, and watches
                    log.append(a_signal(number))
                    assert await coming == [number]

    asyncio.run(run())
    assert deaths > 1


async def watched(log: EventLog, count: int) -> list[bool]:
    """What `on_watch` is told, the first `count` times."""
    told: list[bool] = []
    async with aclosing(log.tail(on_watch=told.append)) as batches:
        coming = asyncio.ensure_future(take(batches, 1_000))
        await until_async(lambda: len(told) >= count)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
    return told


@pytest.mark.slow
def test_it_reports_whether_file_events_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog(tmp_path) as log:
        log.append(a_signal(1))
        assert set(asyncio.run(watched(log, 2))) == {True}

        def watch(*_: Any, **__: Any) -> Iterator[set[Any]]:
            raise OSError("the watch limit is reached")

        monkeypatch.setattr(watchfiles, "watch", watch)
        assert set(asyncio.run(watched(log, 3))) == {False}  # also right after it was started again


def test_nothing_comes_out_before_its_sync_has_returned(tmp_path: Path) -> None:
    async def run() -> None:
        disk = FaultDisk()
        with EventLog(tmp_path, disk=disk) as writer, EventLog(tmp_path) as log:
            writer.append(a_signal(1))
            async with aclosing(log.tail()) as batches:
                await take(batches, 1)
                with disk.holding("fdatasync") as reached:
                    appending = asyncio.ensure_future(asyncio.to_thread(writer.append, a_signal(2)))
                    await asyncio.to_thread(reached.wait, DEADLINE_S)
                    coming = asyncio.ensure_future(take(batches, 1))
                    await asyncio.sleep(0.7)
                    assert not coming.done()
                await appending
                assert await coming == [2]

    asyncio.run(run())


def test_a_log_truncated_behind_it_stops_it(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append_many(signals(5))
        with EventLog(tmp_path) as log:
            async with aclosing(log.tail()) as batches:
                await take(batches, 5)
                os.truncate(segments_in(tmp_path)[-1], 700)
                with pytest.raises((LogDiverged, LogCorrupt)):
                    await take(batches, 1)

    asyncio.run(run())


def test_replacing_the_log_by_another_stops_it(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append_many(signals(5))
        with EventLog(tmp_path) as log:
            async with aclosing(log.tail()) as batches:
                await take(batches, 5)
                shutil.rmtree(tmp_path / "logs")
                with EventLog(tmp_path) as other:
                    other.append_many(signals(9, start=100))
                with pytest.raises((LogDiverged, LogCorrupt)):
                    await take(batches, 1)

    asyncio.run(run())


def test_a_restored_log_directory_is_followed_again(tmp_path: Path) -> None:
    async def run() -> None:
        logs, copy = tmp_path / "logs", tmp_path / "copy"
        with EventLog(tmp_path) as log:
            log.append_many(signals(5))
        with EventLog(tmp_path) as log:
            async with aclosing(log.tail()) as batches:
                await take(batches, 5)
                shutil.copytree(logs, copy, symlinks=True)
                shutil.rmtree(logs)
                copy.rename(logs)
                for number in (6, 7):
                    with EventLog(tmp_path) as other:
                        other.append(a_signal(number))
                    assert await take(batches, 1) == [number]

    asyncio.run(run())


@pytest.mark.slow
def test_an_unfinished_line_is_awaited_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
        for name in (".lock", ".durable"):  # as after a restart of the machine
            (tmp_path / "logs" / name).unlink()
        with segments_in(tmp_path)[-1].open("ab") as file:
            file.write(b"x" * 5_000_000)
        with EventLog(tmp_path) as log:
            async with aclosing(log.tail()) as batches:
                await take(batches, 1)
                coming = asyncio.ensure_future(take(batches, 1))
                await asyncio.sleep(UNFINISHED_LINE_WARN_S + 2)
                assert not coming.done()
                log.append(a_signal(2))  # a writer puts the bytes aside
                assert await coming == [2]

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert sum("unfinished_line" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("kind", [OSError, WatchfilesRustInternalError])
def test_the_failure_of_a_watch_and_its_end_are_logged_once_at_the_same_level(
    kind: type[Exception],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = iter([True, True, True])
    watch = watchfiles.watch

    def failing_at_first(*args: Any, **options: Any) -> Any:
        if next(failures, False):
            raise kind("no inotify instance is left")
        return watch(*args, **options)

    monkeypatch.setattr(watchfiles, "watch", failing_at_first)

    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            async with aclosing(log.tail()) as batches:
                await take(batches, 1)
                waiting = asyncio.ensure_future(anext(batches))
                await until_async(lambda: "watch_works_again" in caplog.text)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert next(failures, None) is None
    seen = [r for r in caplog.records if r.getMessage().startswith("watch_")]
    assert [r.getMessage().split()[0] for r in seen] == ["watch_failed", "watch_works_again"]
    assert seen[0].levelno == seen[1].levelno


def test_closing_it_leaves_no_descriptor_and_ends_its_watch(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                async with aclosing(log.tail()) as batches:
                    await take(batches, 1)
                    waiting = asyncio.ensure_future(anext(batches))
                    await asyncio.sleep(0.02)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
            for thread in threading.enumerate():
                if thread.name == "eventlog-watch":
                    await asyncio.to_thread(thread.join, DEADLINE_S)
            # What a watch held is closed a moment after its thread.
            await until_async(
                lambda: len(os.listdir("/proc/self/fd")) <= before, "closing them all"
            )

    asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_follows_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    with EventLog(tmp_path) as log:
        log.append_many(signals(3))
        with pipe(tmp_path, "-n", "1", "-f", "--json", command="tail") as tail:
            assert [line["seq"] for line in tail.read_answers(1)] == [3]
            log.append(a_signal(4))
            assert [line["seq"] for line in tail.read_answers(1)] == [4]
            tail.send(number)
            assert tail.wait() == 130
            assert "Traceback" not in tail.err
