"""The pause between two commits: taken above a rate, and never below it."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from eventlog import Batch, Entry
from eventlog.plumbing import StreamSettings
from projections.replication.mirror import MirrorProjection
from projections.runtime.batcher import Batcher, Pace
from projections.runtime.load import (
    BATCH_ENTRIES_MAX,
    BURST_ENTRIES,
    ENTRIES_PER_S_MIN,
    PAUSE_S,
    Load,
    load_of,
)
from projections.sqlite.projection import SqliteProjection
from tests.harness.deadline import DEADLINE_S


def pauses(*, per_s: float, seconds: float, load: Load | None = None) -> list[float]:
    """The pauses of a projector at a constant rate, each commit taking no time."""
    load = load or Load()
    now_s, applied, found = 50.0, 0, []
    while now_s < 50.0 + seconds:
        due = int((now_s - 50.0) * per_s)
        if due > applied:
            load.add(due - applied, now_s)
            applied = due
            pause_s = load.pause_s(now_s)
            found.append(pause_s)
            now_s += pause_s
        now_s += 0.001
    return found


@pytest.mark.parametrize("per_s", [1, 10, 100, 0.9 * ENTRIES_PER_S_MIN])
def test_below_the_rate_there_is_no_pause(per_s: float) -> None:
    assert set(pauses(per_s=per_s, seconds=20)) == {0.0}


@pytest.mark.parametrize("per_s", [2 * ENTRIES_PER_S_MIN, 1_000, 5_000])
def test_above_the_rate_each_commit_is_followed_by_a_pause(per_s: float) -> None:
    found = pauses(per_s=per_s, seconds=2.0)
    first = found.index(PAUSE_S)
    assert set(found[first:]) == {PAUSE_S}
    assert len(found[:first]) <= 2 * BURST_ENTRIES


def test_a_lone_entry_is_not_delayed_soon_after_a_high_rate() -> None:
    load = Load()
    for number in range(5_000):
        load.add(1, number / 1_000)
    assert load.pause_s(5.0) == PAUSE_S
    load.add(1, 5.0 + BURST_ENTRIES / ENTRIES_PER_S_MIN + 0.01)
    assert load.pause_s(5.0 + BURST_ENTRIES / ENTRIES_PER_S_MIN + 0.01) == 0.0


def test_a_burst_and_a_projection_that_catches_up_are_not_delayed() -> None:
    load = Load()
    load.add(BURST_ENTRIES, 0.0)
    assert load.pause_s(0.0) == 0.0
    for number in range(100):
        load.add(BATCH_ENTRIES_MAX, number / 1_000)
        assert load.pause_s(number / 1_000) == 0.0


def test_the_mirror_is_never_paused_and_other_projections_are() -> None:
    mirror = MirrorProjection(StreamSettings(name="main", urls=("nats://127.0.0.1:1",)))
    assert set(pauses(per_s=1_000, seconds=2, load=load_of(mirror))) == {0.0}
    assert PAUSE_S in pauses(per_s=1_000, seconds=2, load=load_of(SqliteProjection()))


class FixedPause(Load):
    """A load with a given pause; counts how often it is considered."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.fixed_s = pause_s
        self.asked = 0

    def pause_s(self, now_s: float) -> float:
        self.asked += 1
        return self.fixed_s


def entry(seq: int) -> Entry:
    return Entry(seq=seq, batch=seq, recorded_at="", event="x", payload={}, chain="")


def test_a_stop_ends_the_pause_and_nothing_is_read_after_it() -> None:
    async def run() -> None:
        stop, tail, load = asyncio.Event(), Tail(3, 3), FixedPause(10 * DEADLINE_S)
        asyncio.get_running_loop().call_later(0.05, stop.set)
        async with asyncio.timeout(DEADLINE_S), Batcher(tail.batches(), stop, None, load) as source:
            assert await source.next(Pace(), None) == []
        assert (load.asked, tail.reads) == (1, 0)

    asyncio.run(run())


def test_the_pause_comes_before_the_log_is_read() -> None:
    async def run() -> None:
        tail, load = Tail(3, 3), FixedPause(0.2)
        async with Batcher(tail.batches(), asyncio.Event(), None, load) as source:
            coming = asyncio.ensure_future(source.next(Pace(), None))
            await asyncio.sleep(0.05)
            assert tail.reads == 0
            assert len(await coming) == 3
            assert tail.reads == 1

    asyncio.run(run())


def test_with_once_there_is_no_pause() -> None:
    async def run() -> None:
        load = FixedPause(0.2)
        async with Batcher(Tail(3, 3).batches(), asyncio.Event(), None, load) as source:
            assert [len(await source.next(Pace(), 6)) for _ in range(2)] == [3, 3]
        assert load.asked == 0

    asyncio.run(run())


def test_entries_that_were_read_already_are_not_delayed() -> None:
    async def run() -> None:
        load = FixedPause(0.0)
        async with (
            asyncio.timeout(DEADLINE_S),
            Batcher(Tail(6).batches(), asyncio.Event(), None, load) as source,
        ):
            for _ in range(3):
                assert len(await source.next(Pace(batch_entries=2), None)) == 2
                load.fixed_s = 10 * DEADLINE_S
        assert load.asked == 1

    asyncio.run(run())


class Tail:
    """A tail that yields batches of these sizes and then waits for ever."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes
        self.reads = 0

    async def batches(self) -> AsyncGenerator[Batch, None]:
        seq = 0
        for size in self._sizes:
            self.reads += 1
            yield Batch([entry(seq + number) for number in range(1, size + 1)])
            seq += size
        await asyncio.Event().wait()
