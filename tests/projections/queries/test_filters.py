"""Filters: signals, count, stats, export and signals_table select the same, now and in the past."""

import asyncio
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from projections import ProjectionError, SignalStore, signals_table
from projections.cli.signals import stats
from projections.queries.filters import OUTCOME_CHOICES, FilterArguments, signal_filter
from projections.queries.stats import GROUPS
from projections.signals.transitions import ACTIONS
from tests.harness.command import eventlog
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed
from tests.harness.tables import raw_entries

Row = dict[str, Any]
SYMBOLS = ("AAPL", "MSFT", "NA")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """60 signals of all kinds; half of the facts come after the time of `then`."""
    home = tmp_path / "home"
    items = [
        a_signal(
            number,
            symbol=SYMBOLS[number % 3],
            strategy=f"strategy {number % 4}",
            action=("BUY", "SELL")[number % 5 == 0],
            timestamp=f"2025-{1 + number % 12:02}-18T02:00:{number % 60:02}Z",
            rsi=number if number % 2 else None,
        )
        for number in range(60)
    ]
    outcomes = ("win", "loss", "breakeven", "expired")
    facts = [closed(number, outcome=outcomes[number % 4]) for number in range(0, 60, 3)]
    append(home, *items, *facts[:10])
    append(home, *facts[10:])
    project(home)
    return home


def then(home: Path) -> str:
    return raw_entries(home)[60].recorded_at


FILTERS: list[tuple[Row, Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"symbol": " na "}, lambda row: row["symbol"] == "NA"),
    ({"strategy": "strategy 2"}, lambda row: row["strategy"] == "strategy 2"),
    ({"strategy": "' OR 1=1 --"}, lambda row: False),
    ({"action": "sell"}, lambda row: row["action"] == "SELL"),
    *(
        ({"outcome": outcome}, lambda row, outcome=outcome: row["outcome"] == outcome)
        for outcome in ("win", "loss", "breakeven", "expired")
    ),
    ({"outcome": "OPEN"}, lambda row: row["outcome"] is None),
    ({"since": "2025-04-18T04:00:03+02:00"}, lambda row: row["timestamp"] >= "2025-04-18T02:00:03"),
    ({"until": "2025-04-18T02:00:03Z"}, lambda row: row["timestamp"] < "2025-04-18T02:00:03"),
    (
        {"symbol": "AAPL", "outcome": "open", "since": "2025-03-01T00:00:00Z", "action": "BUY"},
        lambda row: (
            (row["symbol"], row["outcome"], row["action"]) == ("AAPL", None, "BUY")
            and row["timestamp"] >= "2025-03"
        ),
    ),
]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order of the log."""
    return sorted(rows, key=lambda row: int(row["id"]))


def filters_id(value: object) -> str | None:
    """The id of a test: the filters, and no address of a function, which differs by process."""
    return "-".join(map(str, value.values())) if isinstance(value, dict) else "expected"


@pytest.mark.parametrize("is_past", [False, True], ids=["now", "then"])
@pytest.mark.parametrize(("filters", "is_chosen"), FILTERS, ids=filters_id)
def test_every_query_selects_the_same_signals(
    home: Path, filters: Row, is_chosen: Callable[[Row], bool], is_past: bool
) -> None:
    as_of = then(home) if is_past else None
    with SignalStore.open(home) as store:
        every = store.latest(limit=100, as_of=as_of)
        wanted = [row for row in every if is_chosen(row)]
        found = store.latest(limit=100, as_of=as_of, **filters)
        assert found == wanted
        assert store.latest(limit=2, as_of=as_of, **filters) == wanted[:2]
        assert store.count(as_of=as_of, **filters) == len(wanted)
        stats = store.stats(as_of=as_of, **filters)
    assert (stats["total_signals"], stats["wins"]) == (
        len(wanted),
        [row["outcome"] for row in wanted].count("win"),
    )
    by_id = in_order(wanted)
    for limit in (None, 1, 3, 100):
        table = signals_table(home, as_of=as_of, limit=limit, **filters)
        for column in ("id", "outcome"):
            found_ = table.column(column).to_pylist()
            assert found_ == [row[column] for row in in_order(wanted[:limit])]
    past = ("--as-of", as_of) if as_of else ()
    options = [word for key, value in filters.items() for word in (f"--{key}", value)]
    text = eventlog("export", *past, *options, home=home).out.decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["signal_id"] for row in rows] == [row["signal_id"] for row in by_id]
    answers = eventlog("signals", "--limit", 100, "--json", *past, *options, home=home).out
    assert json.loads(answers) == wanted


def test_the_past_differs_from_now_in_these_tests(home: Path) -> None:
    with SignalStore.open(home) as store:
        assert store.count(outcome="open") < store.count(outcome="open", as_of=then(home))


INVALID = [
    ("--action", "hold", "--action must be BUY or SELL (got 'hold')"),
    ("--outcome", "won", "--outcome must be win, loss, breakeven, expired or open (got 'won')"),
    ("--since", "2025-11-18", "give it like 2025-11-18T00:00:00Z"),
    ("--since", "yesterday", "since needs a time with a UTC offset"),
    ("--until", "2025-11-18T02:00:00", "until needs a time with a UTC offset"),
    ("--by", "colour", "--by must be strategy, symbol, action, month or confidence"),
    ("--limit", "0", "--limit must be a whole number, 1 or more (got 0)"),
    ("--columns", "symbol", "is a column already"),
    ("--columns", "rsi,rsi", "is named twice"),
    ("--columns", "rsi,,regime", "is not a printable name"),
]


@pytest.mark.parametrize(("option", "value", "problem"), INVALID)
def test_a_wrong_value_is_a_usage_error(option: str, value: str, problem: str, home: Path) -> None:
    commands = {
        "--by": ("stats",),
        "--limit": ("signals", "export"),
        "--columns": ("signals", "export"),
    }
    for command in commands.get(option, ("signals", "stats", "export")):
        done = eventlog(command, option, value, home=home)
        assert (done.code, done.out) == (2, b""), done.err
        assert problem in " ".join(done.err.split())


def test_the_options_offer_exactly_the_values_that_the_queries_know() -> None:
    """They are written twice, because `--help` must not load the queries."""
    offered = {
        option.name: tuple(option.type.choices)
        for option in stats.params
        if isinstance(option.type, click.Choice)
    }
    assert offered == {"action": ACTIONS, "outcome": OUTCOME_CHOICES, "by": tuple(GROUPS)}


def test_stats_have_no_limit(home: Path) -> None:
    done = eventlog("stats", "--limit", 5, home=home)
    assert done.code == 2
    assert "there is no option --limit" in done.err


@pytest.mark.parametrize(
    "filters",
    [
        {"action": "hold"},
        {"outcome": "won"},
        {"since": "2025-11-18"},
        {"until": datetime(2025, 11, 18)},  # noqa: DTZ001  # without an offset on purpose
    ],
)
def test_a_wrong_argument_is_refused_with_the_way_out(filters: FilterArguments) -> None:
    with pytest.raises(ProjectionError, match="give") as refusal:
        signal_filter(**filters)
    assert refusal.value.do


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"symbol": 5}, "symbol cannot be 5; give text"),
        ({"strategy": b"s"}, "strategy cannot be b's'; give text"),
        ({"action": 1}, "action cannot be 1; give text"),
        ({"outcome": True}, "outcome cannot be True; give text"),
        ({"limit": 2.5}, "limit cannot be 2.5; give a whole number"),
        ({"limit": "5"}, "limit cannot be '5'; give a whole number"),
    ],
)
def test_an_argument_of_another_type_is_refused_alike_by_every_query(
    home: Path, arguments: Any, problem: str
) -> None:
    async def read_async() -> None:
        async with SignalStore(home) as store:
            await store.latest(**arguments)

    reads: list[Callable[[], object]] = [
        lambda: SignalStore.open(home).latest(**arguments),
        lambda: asyncio.run(read_async()),
        lambda: signals_table(home, **arguments),
    ]
    for read in reads:
        with pytest.raises(ProjectionError, match=re.escape(problem)):
            read()


def test_a_time_that_is_too_fine_is_refused_with_the_way_out() -> None:
    with pytest.raises(ProjectionError, match="at most six digits of a second"):
        signal_filter(since="2025-11-18T02:00:00.123456789Z")


def test_times_of_a_filter_are_compared_in_utc() -> None:
    chosen = signal_filter(
        since=datetime(2025, 11, 18, 2, tzinfo=UTC), until="2025-11-18T03:00:00.5+01:00"
    )
    assert chosen.since == "2025-11-18T02:00:00.000000+00:00"
    assert chosen.until == "2025-11-18T02:00:00.500000+00:00"


def test_further_keys_given_as_one_text_are_refused(home: Path) -> None:
    with SignalStore.open(home) as store, pytest.raises(ProjectionError, match=r"'rsi'") as refusal:
        store.latest(columns="rsi")  # a text is a sequence of its characters: r, s and i
    assert refusal.value.do == "give a list of names: ['rsi']"


def test_further_keys_become_columns_of_signals(home: Path) -> None:
    words = ("signals", "--columns", "rsi,regime", "--limit", 60)
    rows = json.loads(eventlog(*words, "--json", home=home).out)
    assert {row["signal_id"]: row["rsi"] for row in rows} == {
        f"s-{number}": number if number % 2 else None for number in range(60)
    }
    assert {row["regime"] for row in rows} == {None}
    heading, *lines = eventlog(*words, home=home).out.decode().splitlines()
    assert heading.split()[-2:] == ["rsi", "regime"]
    assert {tuple(line.split()[-2:]) for line in lines} == {
        *((str(number), "-") for number in range(1, 60, 2)),
        ("-", "-"),
    }
