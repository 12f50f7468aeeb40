"""As-of queries: a result is the fold of the entries that the log had recorded by then."""

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Entry
from projections import ProjectionError, SignalStore, signals_table
from projections.queries.as_of import parse_as_of
from projections.queries.filters import OUTCOME_CHOICES, SignalFilter
from projections.queries.selection import (
    SORTED_ENTRIES_MAX,
    Selection,
    by_signal_id,
    latest,
    signal_row,
)
from projections.queries.stats import read_stats
from projections.queries.times import require_past
from projections.signals import schema
from projections.sqlite.database import database_path, set_up
from tests.harness import model
from tests.harness.command import eventlog
from tests.harness.folding import apply_as_projection, database
from tests.harness.histories import FACTS, Item, entries_of, histories
from tests.harness.histories import signals as random_signals
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries, reading, steps_of

T = TypeVar("T")

FIRST = datetime(2025, 11, 18, 2, tzinfo=UTC)  # recorded_at of the first entry of a history
MICROSECOND = timedelta(microseconds=1)
DELAYS_S = (-100, -1, -0.3, 0, 0.3, 0.9, 1, 4, 100)  # from the recording to the decision


def run_query(home: Path, question: Callable[[SignalStore], Awaitable[T]]) -> T:
    async def run() -> T:
        async with SignalStore(home) as store:
            return await question(store)

    return asyncio.run(run())


def write_table(home: Path, entries: Sequence[Entry]) -> None:
    """The table of these entries, made by the statements of the live projection."""
    path = database_path(home)
    set_up(path, check_pages=False)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        apply_as_projection(db, entries, 0)
        db.execute(
            "INSERT OR REPLACE INTO checkpoint(name, seq, chain) VALUES ('sqlite', ?, ?)",
            (entries[-1].seq, entries[-1].chain),
        )
        db.execute("COMMIT")


def text_of(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# -- the promise


@st.composite
def histories_with_an_end(draw: st.DrawFn) -> list[Item]:
    """Histories whose last entry applies and is the newest, so that earlier times are settled."""
    history = draw(histories())
    name, payload = draw(random_signals())
    return [*history, ("note", {}), ("note", {}), (name, {**payload, "signal_id": "the end"})]


@st.composite
def moments_near(draw: st.DrawFn, entries: Sequence[Entry]) -> datetime:
    """Times at, just before and just after each entry but the last."""
    at = draw(st.sampled_from(sorted({entry.recorded_at for entry in entries})))
    moment = datetime.fromisoformat(at) + draw(st.sampled_from([-1, 0, 0, 1])) * MICROSECOND
    return min(moment, datetime.fromisoformat(entries[-1].recorded_at) - MICROSECOND)


def states_in(tables: model.Tables) -> dict[str, str]:
    """The state of each signal: that of its last row in the lifecycle."""
    facts = [row for row in tables.lifecycle if row[2] != "signal"]
    return {row[1]: "open" for row in tables.signals} | {row[1]: row[6] for row in facts}


def expected_stats(tables: model.Tables) -> dict[str, object]:
    outcomes = [row[12] for row in tables.signals if row[12] is not None]
    wins, losses = outcomes.count("win"), outcomes.count("loss")
    return {
        "total_signals": len(tables.signals),
        "open": len(tables.signals) - len(outcomes),
        "wins": wins,
        "losses": losses,
        "breakevens": outcomes.count("breakeven"),
        "expired": outcomes.count("expired"),
        "win_rate": round(100 * wins / (wins + losses), 2) if wins + losses else None,
        "last_updated": tables.lifecycle[-1][3] if tables.lifecycle else None,
    }


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(data=st.data(), history=histories_with_an_end())
def test_the_state_at_a_time_is_the_fold_of_the_entries_recorded_by_then(
    data: st.DataObject, history: list[Item]
) -> None:
    entries = entries_of(history)
    moment = data.draw(moments_near(entries))
    expected = model.fold(e for e in entries if datetime.fromisoformat(e.recorded_at) <= moment)
    now = model.fold(entries)
    has_changed = expected.signals != now.signals[: len(expected.signals)]
    note(f"rows have changed since: {has_changed}")
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder), entries)

        async def check() -> None:
            async with SignalStore(folder) as store:
                rows = await store.latest(limit=1_000, as_of=moment)
                assert sorted([*row.values()][:18] for row in rows) == expected.signals
                assert {r["signal_id"]: r["state"] for r in rows} == states_in(expected)
                assert rows == sorted(rows, key=lambda r: (r["timestamp"], r["id"]), reverse=True)
                of_one = await store.latest("aapl", 1_000, as_of=text_of(moment))
                assert of_one == [row for row in rows if row["symbol"] == "AAPL"]
                assert await store.latest(limit=2, as_of=moment) == rows[:2]
                assert await store.count(as_of=moment) == len(expected.signals)
                for _, signal_id, *_ in now.signals:
                    found = await store.get(signal_id, as_of=moment)
                    expected_row = next((r for r in rows if r["signal_id"] == signal_id), None)
                    extra = json.loads(expected.extras.get(signal_id, "{}"))
                    assert found == (expected_row and {**expected_row, "extra": extra})
                stats = await store.stats(as_of=moment)
                assert expected_stats(expected).items() <= stats.items()
                for outcome in OUTCOME_CHOICES:
                    chosen = await store.latest(limit=1_000, outcome=outcome, as_of=moment)
                    assert chosen == [r for r in rows if (r["outcome"] or "open") == outcome]
                    assert await store.count(outcome=outcome, as_of=moment) == len(chosen)

        asyncio.run(check())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(history=histories(), cuts=st.sets(st.integers(1, 33), max_size=4))
def test_the_queries_up_to_each_seq_give_the_fold_up_to_it(
    history: list[Item], cuts: set[int]
) -> None:
    """Early facts and corrections included, and however the log was divided into batches."""
    entries = entries_of(history)
    ends = [*sorted(cut for cut in cuts if cut < len(entries)), len(entries)]
    with closing(database()) as db:
        for start, end in pairwise([0, *ends]):
            apply_as_projection(db, entries[start:end], start)
        for seq in range(len(entries) + 1):
            expected = model.fold(entries[:seq])
            selection = Selection(SignalFilter(), seq)
            rows = db.execute(*latest(selection, 1_000)).fetchall()
            assert sorted([*signal_row(row)[:18]] for row in rows) == expected.signals
            states = {str(row[1]): signal_row(row)[18] for row in rows}
            assert states == states_in(expected)
            found = read_stats(db, selection)
            assert expected_stats(expected).items() <= found.items()


def test_each_kind_of_fact_is_visible_from_the_microsecond_it_was_recorded(
    home: Path,
) -> None:
    more = {"order_id": "o-1", "reason": "r", "exit_price": 161.0, "part": 1, "fraction": 0.5}
    for number, fact in enumerate(FACTS[:-1]):
        append(home, a_signal(number))
        append(home, {"event": fact, "signal_id": f"s-{number}", **more})
    append(home, a_signal(90))
    append(home, {"event": "executed", "signal_id": "s-90", "order_id": "o"})
    voids = raw_entries(home)[-1].seq
    append(home, {"event": "voided", "signal_id": "s-90", "voids": voids})
    append(home, a_signal(99))
    project(home)
    by_event = {entry.event: entry for entry in raw_entries(home)[:-4]}
    columns = {
        "executed": ("order_id",),
        "reduced": ("exit_price", "profit_loss_pct"),
        "closed": ("outcome", "exit_price", "profit_loss_pct"),
    }

    async def run(store: SignalStore) -> None:
        for event in FACTS[:-1]:
            entry = by_event[event]
            signal_id = str(entry.payload["signal_id"])
            at = datetime.fromisoformat(entry.recorded_at)
            before = await store.get(signal_id, as_of=at - MICROSECOND)
            after = await store.get(signal_id, as_of=at)
            now = await store.get(signal_id)
            assert after == now
            assert before is not None
            assert now is not None
            changed = {key for key in now if before[key] != now[key]}
            assert changed == {"state", *columns.get(event, ())}
            assert (before["state"], now["state"]) == ("open", event)
            assert all(before[key] is None for key in changed - {"state"})
        void = next(entry for entry in raw_entries(home) if entry.event == "voided")
        at = datetime.fromisoformat(void.recorded_at)
        before = await store.get("s-90", as_of=at - MICROSECOND)
        after = await store.get("s-90", as_of=at)
        assert before is not None
        assert after is not None
        assert (before["state"], before["order_id"]) == ("executed", "o")
        assert (after["state"], after["order_id"]) == ("open", None)

    run_query(home, run)


def test_a_time_before_an_entry_that_no_row_holds_selects_the_facts_before_it(home: Path) -> None:
    """An unknown event and a conflict have no row in `lifecycle`."""
    append(home, a_signal(1))
    at = raw_entries(home)[-1].recorded_at
    append(home, {"event": "reviewed", "signal_id": "s-1"})
    append(home, {"event": "voided", "signal_id": "s-1", "voids": 1})
    append(home, a_signal(2))
    project(home)
    done = eventlog("export", "--as-of", at, home=home)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1 + 1
    chosen = signals_table(home, as_of=at)
    assert chosen.column("signal_id").to_pylist() == ["s-1"]


def test_as_of_before_a_correction_shows_what_was_believed_then(home: Path) -> None:
    append(home, a_signal(1, entry_price=192.0))
    append(home, closed(1, exit_price=1920.0))
    append(home, {"event": "voided", "signal_id": "s-1", "voids": 2})
    append(home, closed(1, exit_price=193.92))
    append(home, a_signal(2))
    project(home)

    async def run(store: SignalStore) -> None:
        found = []
        for entry in raw_entries(home)[:4]:
            row = await store.get("s-1", as_of=entry.recorded_at)
            stats = await store.stats(as_of=entry.recorded_at)
            assert row is not None
            found.append((row["exit_price"], row["outcome"], stats["wins"]))
        assert found == [
            (None, None, 0),
            (1920.0, "win", 1),
            (None, None, 0),
            (193.92, "win", 1),
        ]
        assert (await store.stats())["average_return"] == 1.0

    run_query(home, run)


def test_an_early_fact_counts_from_its_signal_on(home: Path) -> None:
    append(home, a_signal(1))
    append(home, closed(2))
    append(home, a_signal(2))
    append(home, a_signal(3))
    project(home)

    async def run(store: SignalStore) -> None:
        for index, (count, wins) in enumerate([(1, 0), (1, 0), (2, 1)]):
            at = raw_entries(home)[index].recorded_at
            stats = await store.stats(as_of=at)
            assert (stats["total_signals"], stats["wins"]) == (count, wins)
            known = raw_entries(home)[0 if index == 1 else index].recorded_at
            assert stats["last_updated"] == known

    run_query(home, run)


def test_a_signal_is_visible_from_the_microsecond_it_was_recorded(home: Path) -> None:
    for number in (1, 2):
        append(home, a_signal(number))
    project(home)
    first, second = raw_entries(home)
    at = datetime.fromisoformat(first.recorded_at)

    async def run(store: SignalStore) -> None:
        assert await store.count(as_of=at - MICROSECOND) == 0
        assert await store.latest(as_of=at - MICROSECOND) == []
        assert await store.get("s-1", as_of=at - MICROSECOND) is None
        assert (await store.stats(as_of=at - MICROSECOND))["last_updated"] is None
        assert await store.count(as_of=at) == 1
        assert await store.count(as_of=second.recorded_at) == 2
        elsewhere = at.astimezone(timezone(timedelta(hours=-5, minutes=-30)))
        assert await store.count(as_of=elsewhere.isoformat()) == 1

    run_query(home, run)


def test_a_result_stays_the_same_after_later_outcomes_and_a_rebuild(
    home: Path,
) -> None:
    append(home, *signals(5))
    append(home, {"event": "executed", "signal_id": "s-1", "order_id": "o"})
    project(home)
    then = raw_entries(home)[-1].recorded_at

    async def run() -> None:
        async with SignalStore(home) as store:
            first = await store.latest(as_of=then), await store.stats(as_of=then)
            assert [row["outcome"] for row in first[0]] == [None] * 5
            for number in range(1, 6):
                append(home, closed(number, exit_price=200.0))
                await asyncio.to_thread(project, home)
                assert (await store.stats())["wins"] == number
                assert (await store.latest(as_of=then), await store.stats(as_of=then)) == first
            os.unlink(database_of(home))
            await asyncio.to_thread(eventlog, "rebuild-database", home=home)
            assert (await store.stats())["wins"] == 5
            assert (await store.latest(as_of=then), await store.stats(as_of=then)) == first

    asyncio.run(run())


# -- what may still change is refused


def test_a_table_behind_the_given_time_is_refused_until_it_has_caught_up(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    append(home, closed(1))
    then = text_of(datetime.now(UTC))

    async def run() -> None:
        async with SignalStore(home) as store:
            early = raw_entries(home)[0].recorded_at
            with pytest.raises(ProjectionError, match=r"at entry 2 of 3"):
                await store.latest(as_of=then)
            with pytest.raises(ProjectionError, match="project sqlite"):
                await store.count(
                    as_of=early
                )  # the next entry of a batch may have the same recorded_at
            await asyncio.to_thread(project, home)
            assert (await store.stats(as_of=then))["wins"] == 1
            assert (await store.stats(as_of=early))["wins"] == 0

    asyncio.run(run())


def test_a_future_time_is_refused(home: Path) -> None:
    append(home, a_signal(1))
    project(home)
    later = datetime.now(UTC) + timedelta(minutes=5)
    with pytest.raises(ProjectionError, match="is in the future"):
        run_query(home, lambda store: store.latest(as_of=later))
    done = eventlog("stats", "--as-of", text_of(later), home=home)
    assert (done.code, done.out) == (3, b"")
    with pytest.raises(ProjectionError):
        require_past(text_of(FIRST), FIRST)
    require_past(text_of(FIRST), FIRST + MICROSECOND)


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        ("2025-11-18T02:00:00Z", "2025-11-18T02:00:00.000000Z"),
        ("2025-11-18t02:00:00.1z", "2025-11-18T02:00:00.100000Z"),
        ("2025-11-18 02:00:00.000001+00:00", "2025-11-18T02:00:00.000001Z"),
        ("2025-11-18T00:30:00.123456+01:00", "2025-11-17T23:30:00.123456Z"),
        (datetime(2025, 11, 18, 2, tzinfo=UTC), "2025-11-18T02:00:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_a_time_has_one_form(given_: str | datetime, stored: str) -> None:
    assert parse_as_of(given_) == stored


@pytest.mark.parametrize(
    "invalid",
    [
        *("", "now", "2025-11-18T02:00:00", "2025-11-18T02:00Z", "2025-02-30T00:00:00Z"),
        *("2025-11-18T24:00:00Z", "2025-11-18T23:59:60Z", "2025-11-18T02:00:00.1234567Z"),
        *("2025-11-18T02:00:00+05:99", "2025-11-18T02:00:00+24:00"),
        *("0001-01-01T00:00:00+01:00", "20251118T020000Z", "x" * 500, "\x1b[31m2025"),
        FIRST.replace(tzinfo=None),
        *(5, 1763431200.5, None, b"2025-11-18T02:00:00Z", FIRST.time(), [FIRST]),
    ],
    ids=repr,
)
def test_an_invalid_time_is_refused_with_a_valid_example(invalid: object) -> None:
    with pytest.raises(ProjectionError, match="give it like 2025-11-18T02:00:00Z") as raised:
        parse_as_of(invalid)
    assert len(raised.value.what) < 200
    assert raised.value.what.isprintable()


def test_a_date_alone_is_refused_with_its_start_as_the_suggestion(home: Path) -> None:
    with pytest.raises(ProjectionError, match="give it like 2025-11-18T00:00:00Z"):
        parse_as_of(FIRST.date())
    append(home, a_signal(1))
    for command in ("signals", "stats"):
        done = eventlog(command, "--as-of", "2025-11-18", home=home)
        assert (done.code, done.out) == (2, b"")
        assert "give it like 2025-11-18T00:00:00Z" in done.err


# -- the commands


def answer(*words: object, home: Path) -> Any:
    done = eventlog(*words, "--json", home=home)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.slow
def test_the_commands_accept_as_of(home: Path) -> None:
    append(home, a_signal(1), a_signal(2, symbol="MSFT"))
    append(home, closed(1))
    append(home, a_signal(3))
    project(home)
    then = raw_entries(home)[1].recorded_at
    found = answer("signals", "--as-of", then, home=home)
    assert [(row["signal_id"], row["outcome"]) for row in found] == [("s-2", None), ("s-1", None)]
    assert [row["outcome"] for row in answer("signals", home=home)] == [None, None, "win"]
    of_one = answer("signals", "--as-of", then, "--symbol", "msft", "--limit", 5, home=home)
    assert of_one == found[:1]
    stats = answer("stats", "--as-of", then, home=home)
    assert (stats["total_signals"], stats["wins"], stats["last_updated"]) == (2, 0, then)
    for_people = eventlog("signals", "--as-of", then, home=home).out.decode()
    assert "s-1" in for_people
    assert "win" not in for_people


@pytest.mark.slow
def test_imported_signals_count_from_their_import_as_the_help_states(
    home: Path, tmp_path: Path
) -> None:
    old = {**a_signal(1, timestamp="2024-03-01T02:00:00"), "server_timestamp": 1709258400.0}
    (tmp_path / "signals.log").write_text(json.dumps(old) + "\n")
    before = text_of(datetime.now(UTC))
    done = eventlog("import-legacy", "--log", tmp_path / "signals.log", home=home)
    assert done.code == 0, done.err
    project(home)
    assert answer("signals", "--as-of", "2024-04-01T00:00:00Z", home=home) == []
    assert answer("signals", "--as-of", before, home=home) == []
    then = raw_entries(home)[-1].recorded_at
    (found,) = answer("signals", "--as-of", then, home=home)
    assert found["timestamp"] == "2024-03-01T02:00:00.000000+00:00"
    said = " ".join(eventlog("signals", "--help").out.decode().split())
    assert "import-legacy brought in count from their import on" in said


def test_no_as_of_query_scans_the_table_or_sorts_it(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    symbol = SignalFilter(symbol="AAPL")
    with closing(reading(database_of(home))) as db:
        for seq in (None, SORTED_ENTRIES_MAX + 1):  # up to there a few signals are sorted
            for statement in (
                latest(Selection(SignalFilter(), seq), 10, with_extra=True),
                latest(Selection(symbol, seq), 10),
                latest(Selection(replace(symbol, since="2025", until="2026"), seq), 10),
                latest(Selection(SignalFilter(outcome="win"), seq), 10),
                by_signal_id("s-1", seq),
            ):
                plan = [
                    row[3]
                    for row in db.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement[1])
                ]
                # Two parts of at most ten signals each are sorted together.
                parts = sum(step.startswith("SCAN (subquery") for step in plan)
                assert parts == (2 if seq is not None and "UNION" in statement.sql else 0)
                assert sum("TEMP B-TREE" in step for step in plan) == parts, plan
                last = [step for step in plan if step.startswith("SEARCH f ")]
                assert len(last) == max(1, parts), plan
                for step in last:
                    assert "lifecycle_signal_id (signal_id=?" in step, plan
                    assert (seq is None) != ("AND rowid<?" in step), plan
                of_signals = [step for step in plan if " s " in step]
                assert len(of_signals) == max(1, parts)
                assert all("USING INDEX" in step for step in of_signals), plan


# -- the cost


def test_the_newest_signals_of_an_early_time_are_found_at_a_cost_that_does_not_grow() -> None:
    def steps(signals: int) -> int:
        with closing(sqlite3.connect(":memory:")) as db:
            for statement in (*schema.TABLES, *schema.INDEXES):
                db.execute(statement)
            db.execute(
                """WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                INSERT INTO signals SELECT i, i, 'AAPL', 'BUY', 150, 158, 147, 85, 'm', 'stock',
                'x', printf('%09d', i), NULL, NULL, NULL, i, NULL, i FROM n""",
                (signals,),
            )

            def read() -> None:
                rows = db.execute(*latest(Selection(SignalFilter(), 500), 10)).fetchall()
                assert [row[0] for row in rows] == [*range(500, 490, -1)]

            return steps_of(db, read)

    assert steps(8_000) < 1.1 * steps(1_000)


@contextmanager
def signals_decided(times: Iterable[tuple[datetime, datetime]]) -> Iterator[sqlite3.Connection]:
    """A table of open signals, each with the times at which it was recorded and decided."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in (*schema.TABLES, *schema.INDEXES):
            db.execute(statement)
        for seq, (recorded, decided) in enumerate(times, start=1):
            values = (seq, str(seq), *("AAPL", "BUY", 1.0, 1.0, 1.0, 1.0, "m", "stock", "x"))
            timestamp = decided.isoformat(timespec="microseconds")
            db.execute(schema.INSERT_SIGNAL, (*values, timestamp, "", f"{recorded:%F %T}"))
            lifecycle = (seq, str(seq), text_of(recorded))
            db.execute(schema.INSERT_SIGNAL_LIFECYCLE, lifecycle)
        yield db


@given(st.lists(st.tuples(st.sampled_from([0, 0.4, 1, 5]), st.sampled_from(DELAYS_S)), max_size=30))
def test_the_newest_signals_of_a_time_are_found_whether_they_were_decided_before_or_after_it(
    gaps: list[tuple[float, float]],
) -> None:
    start = FIRST
    times = []
    for gap_s, delay_s in gaps:
        start += timedelta(seconds=gap_s)
        times.append((start, start + timedelta(seconds=delay_s)))
    with signals_decided(times) as db:
        for seq in range(1, len(times) + 1):
            known = sorted(((times[i - 1][1], i) for i in range(1, seq + 1)), reverse=True)
            statement = latest(Selection(SignalFilter(outcome="open"), seq), 5)
            found = [row[0] for row in db.execute(*statement)]
            assert found == [i for _, i in known[:5]]


def test_the_newest_signals_of_a_later_time_are_found_at_a_cost_that_does_not_grow() -> None:
    seq = SORTED_ENTRIES_MAX + 60

    def steps(signals: int) -> int:
        recorded = [FIRST + timedelta(seconds=i) for i in range(signals)]
        decided = [
            at + timedelta(seconds=60 if i == seq - 20 else 0) for i, at in enumerate(recorded)
        ]
        with signals_decided(zip(recorded, decided, strict=True)) as db:
            query = latest(Selection(SignalFilter(), seq), 10)
            return steps_of(db, lambda: db.execute(*query).fetchall())

    assert steps(2 * seq) < 1.1 * steps(seq)
