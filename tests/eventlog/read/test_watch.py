"""The watch of a log directory: what wakes it, what it costs in silence, and its end."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.plumbing import LogWatch
from eventlog.read.file_events import FileEvents, FileTimes, open_file_events
from eventlog.read.tail import POLL_S, SILENCE_S, SILENT_POLL_S, poll_s
from tests.harness.daemon import daemon
from tests.harness.deadline import DEADLINE_S, until, until_async
from tests.harness.read_side import append
from tests.harness.signals import a_signal
from tests.harness.tables import seq_in

VISIBLE_S = 0.025  # what is promised for a lone signal after a silence; below, ten times that
KINDS = pytest.mark.parametrize("open_events", [open_file_events, FileTimes])


class CountingEvents:
    """The file events of a directory, with the number of times that they woke the loop."""

    def __init__(self, log_dir: str) -> None:
        self._events = open_file_events(log_dir)
        self.woken = 0

    def arm(self, on_change: Callable[[], object]) -> None:
        def count() -> None:
            self.woken += 1
            on_change()

        self._events.arm(count)

    def disarm(self) -> None:
        self._events.disarm()

    def take(self) -> bool:
        return self._events.take()

    def close(self) -> None:
        self._events.close()


@KINDS
def test_each_change_after_a_look_is_seen(
    tmp_path: Path, open_events: Callable[[str], FileEvents]
) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            watch = LogWatch(tmp_path, open_events)
            with watch.subscription() as one, watch.subscription() as other:
                assert watch.ensure_running() and watch.is_alive()
                assert one.is_set()  # the first look may have been before the watch
                for number in range(2, 6):
                    one.clear()
                    other.clear()
                    if number % 2:  # before or after it waits
                        log.append(a_signal(number))
                    watch.ensure_running()
                    if not number % 2:
                        log.append(a_signal(number))
                    async with asyncio.timeout(DEADLINE_S):
                        await asyncio.gather(one.wait(), other.wait())

    asyncio.run(run())


@KINDS
def test_a_watch_whose_directory_is_gone_is_dead_and_starts_again(
    tmp_path: Path, open_events: Callable[[str], FileEvents]
) -> None:
    async def run() -> None:
        append(tmp_path, a_signal(1))
        watch = LogWatch(tmp_path, open_events)
        with watch.subscription() as changed:
            watch.ensure_running()
            shutil.rmtree(tmp_path / "logs")
            assert not watch.is_alive()
            append(tmp_path, a_signal(1))
            await until_async(watch.ensure_running)
            changed.clear()
            watch.ensure_running()
            append(tmp_path, a_signal(2))
            async with asyncio.timeout(DEADLINE_S):
                await changed.wait()

    asyncio.run(run())


def test_without_an_append_nothing_wakes_it_and_a_busy_reader_is_not_woken(tmp_path: Path) -> None:
    async def run() -> None:
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            events = CountingEvents(os.fspath(tmp_path / "logs"))
            watch = LogWatch(tmp_path, lambda _: events)
            with watch.subscription() as changed:
                watch.ensure_running()
                changed.clear()
                watch.ensure_running()
                list(log.read())  # reading is no change
                await asyncio.sleep(0.05)
                assert events.woken == 0
                for number in range(2, 12):
                    log.append(a_signal(number))
                    await asyncio.sleep(0.005)
                assert changed.is_set()
                assert events.woken == 1  # and no more before it waits again
                for _ in range(2):
                    changed.clear()
                    watch.ensure_running()
                    await asyncio.sleep(0.05)
                assert events.woken == 2  # by the changes since the first, which then were taken

    asyncio.run(run())


def test_in_silence_the_log_is_read_within_a_second_by_all_tails_at_once(tmp_path: Path) -> None:
    assert poll_s(0.0, is_watched=True) == poll_s(1e9, is_watched=False) == POLL_S
    assert poll_s(SILENCE_S, is_watched=True) == SILENT_POLL_S <= 1.0

    async def run() -> None:
        watch = LogWatch(tmp_path)
        now_s = asyncio.get_running_loop().time()
        ticks_s = {round(watch.tick_s(SILENT_POLL_S), 6)}
        await asyncio.sleep(0.01)
        ticks_s.add(round(watch.tick_s(SILENT_POLL_S), 6))
        assert len(ticks_s) == 1
        assert now_s < min(ticks_s) <= now_s + SILENT_POLL_S

    asyncio.run(run())


def test_tails_share_one_watch_and_the_last_one_ends_it(tmp_path: Path) -> None:
    async def run() -> None:
        opened: list[CountingEvents] = []

        def open_events(log_dir: str) -> FileEvents:
            opened.append(CountingEvents(log_dir))
            return opened[-1]

        watch = LogWatch(tmp_path, open_events)
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            async with aclosing(log.tail(watch=watch)) as one:
                async with aclosing(log.tail(watch=watch)) as other, asyncio.timeout(DEADLINE_S):
                    await asyncio.gather(anext(one), anext(other))
                    for number in (2, 3, 4):
                        coming = asyncio.gather(anext(one), anext(other))
                        await asyncio.sleep(0.02)  # so that both wait
                        log.append(a_signal(number))
                        assert [batch[-1].seq for batch in await coming] == [number, number]
                assert watch.is_alive()
                log.append(a_signal(5))
                assert [entry.seq for entry in await anext(one)] == [5]
        assert len(opened) == 1
        assert not watch.is_alive()

    asyncio.run(run())


ABANDONED = """
import asyncio, sys
from eventlog import EventLog

async def run():
    batches = log.tail(after=log.last_seq)
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0.3)
    return batches, waiting

log = EventLog(sys.argv[1])
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(run())
"""


@pytest.mark.slow
def test_a_program_that_never_closes_its_tail_ends_without_an_abort(tmp_path: Path) -> None:
    append(tmp_path, a_signal(1))
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FATAL" not in done.stderr


@pytest.mark.slow
def test_a_lone_signal_after_a_silence_is_soon_in_the_table(tmp_path: Path) -> None:
    append(tmp_path, a_signal(1))
    took_s = []
    with daemon(tmp_path, "sqlite"), EventLog(tmp_path) as log:
        until(lambda: seq_in(tmp_path) == 1)
        for number in (2, 3, 4):
            time.sleep(SILENCE_S + 1.5)  # with the write of the watermark
            log.append(a_signal(number))
            appended_s = time.monotonic()
            until(lambda number=number: seq_in(tmp_path) == number)  # type: ignore[misc]
            took_s.append(time.monotonic() - appended_s)
    assert min(took_s) < 10 * VISIBLE_S, took_s
