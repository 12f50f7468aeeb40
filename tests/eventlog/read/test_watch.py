"""The watch of a log directory: its step, what it costs in silence, and its end."""

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest
import watchfiles

from eventlog import EventLog
from eventlog.plumbing import LogWatch
from eventlog.read.tail import POLL_S, SILENT_POLL_S, poll_s
from eventlog.read.watch import SILENCE_S, SILENT_STEP_S, STEP_S, Pacer
from tests.harness.daemon import daemon
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.read_side import append
from tests.harness.signals import a_signal
from tests.harness.tables import seq_in

WAKEUPS_PER_S_MAX = 60  # what is promised for an idle home
VISIBLE_S = 0.025  # what is promised for a lone signal after a silence; below, ten times that


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "eventlog-watch"]


def test_the_step_is_short_while_changes_come_and_longer_after_a_silence() -> None:
    clock = Clock()
    pacer = Pacer(clock, clock.sleep)
    assert pacer.step_s == STEP_S  # a projector that starts has entries to expect
    for after_s, expected_s in [(SILENCE_S - 0.1, STEP_S), (SILENCE_S + 0.1, SILENT_STEP_S)]:
        clock.now_s += 1_000
        pacer.begin_pass(has_changes=True)
        assert pacer.step_s == STEP_S
        clock.now_s += after_s
        pacer.begin_pass(has_changes=False)
        assert pacer.step_s == expected_s


def test_it_waits_before_every_other_look_and_before_the_first_of_each_pass() -> None:
    clock = Clock()
    pacer = Pacer(clock, clock.sleep)
    for looks, waits in [(1, 1), (2, 1), (3, 2), (6, 3)]:
        clock.slept_s.clear()
        pacer.begin_pass(has_changes=False)
        for _ in range(looks):
            assert not pacer.is_set()
        assert clock.slept_s == [STEP_S] * waits
    pacer.stop()
    assert pacer.is_set()


def test_a_change_is_returned_by_the_look_after_one_wait(tmp_path: Path) -> None:
    waits = 0

    def sleep(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            (tmp_path / "new").touch()
        time.sleep(0.1)  # the event is queued by another thread

    pacer = Pacer(sleep=sleep)
    for changes in watchfiles.watch(
        tmp_path, step=0, debounce=0, rust_timeout=10_000, stop_event=pacer, recursive=False
    ):
        assert {Path(path).name for _, path in changes} == {"new"}
        assert waits == 2
        pacer.stop()


def test_in_silence_it_keeps_to_its_wakeups_and_polls_within_a_second() -> None:
    # The rest is for the polls of the log, of which each costs a few.
    assert 1 / SILENT_STEP_S <= 50 < WAKEUPS_PER_S_MAX
    assert SILENT_STEP_S < VISIBLE_S
    assert poll_s(0.0, is_watched=True) == poll_s(1e9, is_watched=False) == POLL_S
    assert poll_s(SILENCE_S, is_watched=True) == SILENT_POLL_S <= 1.0


def test_tails_of_a_home_wait_for_the_same_tick(tmp_path: Path) -> None:
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
        before = len(watch_threads())
        watch = LogWatch(tmp_path)
        with EventLog(tmp_path) as log:
            log.append(a_signal(1))
            async with aclosing(log.tail(watch=watch)) as one:
                async with aclosing(log.tail(watch=watch)) as other, asyncio.timeout(DEADLINE_S):
                    await asyncio.gather(anext(one), anext(other))
                    for number in (2, 3, 4):
                        coming = asyncio.gather(anext(one), anext(other))
                        await asyncio.sleep(0.02)  # so that both wait
                        assert len(watch_threads()) == before + 1
                        log.append(a_signal(number))
                        assert [batch[-1].seq for batch in await coming] == [number, number]
                assert len(watch_threads()) == before + 1
                log.append(a_signal(5))
                assert [entry.seq for entry in await anext(one)] == [5]
        assert len(watch_threads()) == before

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
            time.sleep(SILENCE_S + 1.5)  # with the write of the watermark, and a pass
            log.append(a_signal(number))
            appended_s = time.monotonic()
            until(lambda number=number: seq_in(tmp_path) == number)  # type: ignore[misc]
            took_s.append(time.monotonic() - appended_s)
    assert min(took_s) < 10 * VISIBLE_S, took_s
