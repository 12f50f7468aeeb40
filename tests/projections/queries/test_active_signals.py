"""LifecycleTracker: memory holds the signals of the table that can still change."""

import asyncio
import tempfile
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EventLog
from projections import ActiveSignal, LifecycleTracker
from tests.harness import model
from tests.harness.daemon import ready
from tests.harness.deadline import until_async
from tests.harness.histories import Item, histories
from tests.harness.raw_log import RawLog
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries

DAY_ONE = date(2025, 11, 18)  # of the entries that RawLog makes


def active_by_the_model(home: Path) -> dict[str, dict[str, Any]]:
    """The model's rows of active signals."""
    tables = model.fold(raw_entries(home))
    state = {fact[1]: fact[6] for fact in tables.lifecycle if fact[2] != "signal"}
    names = ["seq", "signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"]
    return {
        row[1]: dict(
            zip(names, row, strict=False),
            confidence=row[7],
            strategy=row[8],
            timestamp=row[11],
            order_id=row[16],
        )
        for row in tables.signals
        if state.get(row[1], "open") in ("open", "executed", "reduced")
    }


def in_memory(tracker: LifecycleTracker) -> dict[str, dict[str, Any]]:
    return {
        signal_id: {name: getattr(found, name) for name in ActiveSignal.__dataclass_fields__}
        for signal_id, found in tracker.active.items()
    }


def voids_in(tables: model.Tables) -> list[tuple[Any, ...]]:
    return [fact for fact in tables.lifecycle if fact[2] == "voided"]


def check_conversion(tracker: LifecycleTracker, home: Path, today: date) -> None:
    """Compares the counts with the model's count of facts in force."""
    tables = model.fold(raw_entries(home))
    voided = {raw_entries(home)[f[0] - 1].payload["voids"] for f in voids_in(tables)}
    in_force = {fact[0]: fact[2] for fact in tables.lifecycle if fact[0] not in voided}
    counts = Counter(in_force.values())
    reasons: Counter[str] = Counter()
    for entry in raw_entries(home):
        if entry.event == "skipped" and entry.seq in in_force:
            reasons[str(entry.payload["reason"])] += 1
    found = tracker.conversion(days=1, today=today)
    assert found.generated == counts["signal"]
    for event in ("executed", "skipped", "expired", "cancelled", "reduced", "closed"):
        assert getattr(found, event) == counts[event], event
    assert dict(found.skipped_by_reason) == dict(reasons)
    expected = round(100 * counts["executed"] / counts["signal"], 2) if counts["signal"] else 0.0
    assert found.rate == expected


@pytest.mark.slow
@settings(max_examples=40)
@given(histories(), st.lists(st.integers(1, 10), max_size=4), st.booleans())
def test_the_active_set_from_table_or_log_equals_the_model(
    history: list[Item], steps: list[int], begin_late: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        raw = RawLog(home)

        async def run(left: list[Item]) -> None:
            if not begin_late:
                raw.add([("tick", {})])
                tracker = await LifecycleTracker(home).__aenter__()
            else:
                raw.add(left[: len(left) // 2])
                left = left[len(left) // 2 :]
                tracker = await LifecycleTracker(home).__aenter__()
            cuts = steps[:]
            while left:
                count = cuts.pop() if cuts else len(left)
                raw.add(left[:count])
                left = left[count:]
                await tracker.refresh()
                assert in_memory(tracker) == active_by_the_model(home)
            check_conversion(tracker, home, DAY_ONE)
            async with LifecycleTracker(home) as fresh:  # loads everything from the table
                assert in_memory(fresh) == in_memory(tracker)
                check_conversion(fresh, home, DAY_ONE)

        asyncio.run(run(history))


def test_a_signal_is_active_until_it_ends(home: Path) -> None:
    append(home, *signals(6))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            assert list(tracker.active) == [f"s-{n}" for n in range(1, 7)]
            assert {found.order_id for found in tracker.active.values()} == {None}
            append(
                home,
                {"event": "executed", "signal_id": "s-1", "order_id": "o-1"},
                {"event": "skipped", "signal_id": "s-2", "reason": "weak"},
                {"event": "expired", "signal_id": "s-3"},
                {"event": "cancelled", "signal_id": "s-4"},
                closed(5),
                closed(2),  # not allowed after skipped
            )
            assert len(tracker.active) == 6  # as of the last refresh
            await tracker.refresh()
            assert list(tracker.active) == ["s-1", "s-6"]
            assert tracker.active["s-1"].order_id == "o-1"
            append(home, closed(1))
            await tracker.refresh()
            assert list(tracker.active) == ["s-6"]
            found = tracker.conversion()
            assert (found.generated, found.executed, found.closed) == (6, 1, 2)
            assert (found.skipped, found.expired, found.cancelled) == (1, 1, 1)
            assert dict(found.skipped_by_reason) == {"weak": 1}
            assert (found.rate, found.days) == (16.67, 30)

    asyncio.run(run())


def test_a_voided_fact_does_not_count_and_its_signal_is_active_again(home: Path) -> None:
    append(home, *signals(2), {"event": "skipped", "signal_id": "s-2", "reason": "typo"})

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            executed = {"event": "executed", "signal_id": "s-1", "order_id": "o-1"}
            part = {"event": "reduced", "signal_id": "s-1", "part": 1, "fraction": 0.5}
            append(home, executed, {**part, "exit_price": 160.0})
            await tracker.refresh()
            assert list(tracker.active) == ["s-1"]
            append(home, closed(1))
            await tracker.refresh()
            assert list(tracker.active) == []
            for voids, signal_id in ((6, "s-1"), (5, "s-1"), (3, "s-2")):
                append(home, {"event": "voided", "signal_id": signal_id, "voids": voids})
            await tracker.refresh()
            assert tracker.active.keys() == {"s-1", "s-2"}
            assert tracker.active["s-1"].order_id == "o-1"
            check_conversion(tracker, home, datetime.now(UTC).date())
            found = tracker.conversion()
            assert (found.executed, found.reduced, found.closed, found.skipped) == (1, 0, 0, 0)
            append(home, {"event": "voided", "signal_id": "s-1", "voids": 4})
            await tracker.refresh()
            assert in_memory(tracker)["s-1"]["order_id"] is None
            async with LifecycleTracker(home) as fresh:
                assert in_memory(fresh) == in_memory(tracker)
                assert fresh.conversion() == tracker.conversion()

    asyncio.run(run())


def test_facts_that_came_before_their_signal_are_counted_with_it(home: Path) -> None:
    append(home, closed(9), {"event": "executed", "signal_id": "s-8", "order_id": "o"}, a_signal(1))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            assert list(tracker.active) == ["s-1"]
            assert tracker.conversion().closed == 0
            append(home, a_signal(9), a_signal(8))
            await tracker.refresh()
            assert list(tracker.active) == ["s-1", "s-8"]
            assert tracker.active["s-8"].order_id == "o"
            assert (tracker.conversion().closed, tracker.conversion().executed) == (1, 1)

    asyncio.run(run())


def test_the_active_set_cannot_be_changed_from_outside(home: Path) -> None:
    append(home, a_signal(1))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            with pytest.raises(AttributeError):
                tracker.active.clear()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_before_the_first_entry_nothing_is_active_and_nothing_is_created(home: Path) -> None:
    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            assert not tracker.active
            assert tracker.conversion().generated == 0
            assert tracker.conversion().rate == 0.0
            assert not home.exists()  # noqa: ASYNC240  # a look
            append(home, a_signal(1))
            await tracker.refresh()
            assert list(tracker.active) == ["s-1"]

    asyncio.run(run())


def test_it_starts_from_the_database_and_continues_with_the_log(home: Path) -> None:
    append(home, *signals(3), closed(1))
    project(home)
    append(home, a_signal(4), closed(2))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            assert list(tracker.active) == ["s-3", "s-4"]

    asyncio.run(run())


def test_it_stays_correct_with_a_daemon_and_across_a_new_database(home: Path) -> None:
    append(home, *signals(3))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            with ready(home, "sqlite"):
                for number in range(4, 30):
                    append(home, a_signal(number), closed(number - 2))
                    await tracker.refresh()
                    assert in_memory(tracker) == active_by_the_model(home)
            database_of(home).unlink()
            append(home, closed(28))
            await tracker.refresh()
            assert in_memory(tracker) == active_by_the_model(home)

    asyncio.run(run())


def test_it_follows_the_log_until_it_is_cancelled(home: Path) -> None:
    append(home, a_signal(1))

    async def run() -> None:
        with EventLog(home) as log:
            async with LifecycleTracker(home) as tracker:
                following = asyncio.create_task(tracker.follow())
                for number in range(2, 12):
                    await log.append_async(a_signal(number))
                    await until_async(lambda n=number: f"s-{n}" in tracker.active)  # type: ignore[misc]
                await log.append_async(closed(5))
                await until_async(lambda: "s-5" not in tracker.active)
                following.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await following

    asyncio.run(run())


def test_only_the_requested_days_count(home: Path) -> None:
    raw = RawLog(home)
    append(home.with_name("source"), *signals(3), closed(1))
    raw.add([(entry.event, entry.payload) for entry in raw_entries(home.with_name("source"))])

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            assert tracker.conversion(days=1, today=DAY_ONE).generated == 3
            assert tracker.conversion(days=1, today=date(2025, 11, 19)).generated == 0
            assert tracker.conversion(days=2, today=date(2025, 11, 19)).closed == 1
            assert tracker.conversion(days=1, today=date(2025, 11, 17)).generated == 0
            assert tracker.conversion(days=1).generated == 0  # today by the clock
            append(home.with_name("now"), a_signal(1))
        async with LifecycleTracker(home.with_name("now")) as tracker:
            assert tracker.conversion(days=1, today=datetime.now(UTC).date()).generated == 1

    asyncio.run(run())


@pytest.mark.slow
def test_concurrent_refreshes_count_nothing_twice(home: Path) -> None:
    append(home, *signals(40))

    async def run() -> None:
        async with LifecycleTracker(home) as tracker:
            append(home, *(closed(number) for number in range(1, 21)))
            await asyncio.gather(*(tracker.refresh() for _ in range(10)))
            assert len(tracker.active) == 20
            assert tracker.conversion().closed == 20
            for turns in range(60):  # cancels a refresh at any point, then runs another
                append(home, a_signal(100 + turns))
                refreshing = asyncio.create_task(tracker.refresh())
                for _ in range(turns):
                    await asyncio.sleep(0)
                refreshing.cancel()
                await asyncio.gather(refreshing, tracker.refresh(), return_exceptions=True)
                assert tracker.conversion().generated == 41 + turns
                assert in_memory(tracker) == active_by_the_model(home)

    asyncio.run(run())
