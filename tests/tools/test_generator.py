"""tools/generator.py: its decisions, the prices that it never sees, and the entries in the log.

Invariant: prices are real ones, simulated ones, or spelled out; no test depends on when it runs.
"""

import ast
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import chain, islice
from math import fsum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EventLog, SignalConflict
from tests.harness.command import eventlog
from tests.harness.read_side import project
from tests.harness.requirements import CHECKOUT, needs_prices
from tools.generator import (
    BARS_NEEDED,
    HOLD_DAYS_MAX,
    Book,
    Decision,
    Item,
    Stop,
    decide,
    exit_of,
    run,
)
from tools.prices import Bar, Day, read_days, simulate

WAIT_STEPS_MAX = 600  # of 50 ms: when a process has done nothing by then, the test fails
MONDAY = date(2024, 1, 1)
RISING = [100 * 1.01**n * (1 + n % 2 / 500) for n in range(BARS_NEEDED)]


def a_bar(
    close: float, n: int = 0, *, opened: float | None = None, low: float = 0.0, high: float = 0.0
) -> Bar:
    opened = opened or close
    bottom, top = min(opened, close), max(opened, close)
    return Bar(
        day=MONDAY + timedelta(days=n),
        open=opened,
        high=high or top * 1.005,
        low=low or bottom * 0.995,
        close=close,
        volume=1.0,
    )


def bars_of(closes: Iterable[float]) -> list[Bar]:
    return [a_bar(close, n) for n, close in enumerate(closes)]


def days_of(bars: Iterable[Bar], symbol: str = "ABC") -> list[Day]:
    return [(bar.day, {symbol: bar}) for bar in bars]


def items_of(days: Iterable[Day]) -> list[Item]:
    book = Book()
    return list(chain.from_iterable(book.take(bars) for _, bars in days))


def kinds(items: Iterable[Mapping[str, object]]) -> Counter[object]:
    return Counter(item.get("event", "signal") for item in items)


def digest(items: Iterable[Item]) -> str:
    return sha256(json.dumps(list(items)).encode()).hexdigest()


def content(log: EventLog) -> list[Item]:
    """The items of the log, as they were appended."""
    return [
        {k: v for k, v in {"event": e.event, **e.payload}.items() if k != "sha256"}
        for e in log.read()
    ]


def as_given(items: Iterable[Item]) -> list[Item]:
    return [{"event": "signal", **item} for item in items]


# The rule


def test_a_rising_market_is_bought_and_a_falling_one_sold() -> None:
    up, down = decide(bars_of(RISING)), decide(bars_of(RISING[::-1]))
    assert up is not None
    assert down is not None
    assert (up.action, up.confidence) == ("BUY", 100.0)
    assert (down.action, down.confidence) == ("SELL", 100.0)
    assert up.stop < up.entry < up.target
    assert down.target < down.entry < down.stop


@pytest.mark.parametrize(
    "closes",
    [
        RISING[1:],
        [100.0] * BARS_NEEDED,
        [100.0 + n % 2 for n in range(BARS_NEEDED)],
        [*RISING[:-10], *(RISING[-10] * (1.2 if n % 2 else 0.9) for n in range(10))],
    ],
    ids=["too short a history", "flat", "to and fro", "wilder than usual"],
)
def test_without_a_clear_and_calm_direction_there_is_no_signal(closes: Sequence[float]) -> None:
    assert decide(bars_of(closes)) is None


def test_a_price_so_wild_that_its_target_is_below_zero_gives_no_signal() -> None:
    falling = [replace(bar, high=bar.close * 3, low=bar.close / 3) for bar in bars_of(RISING[::-1])]
    assert decide(falling) is None


def test_target_and_stop_are_three_and_two_true_ranges_away() -> None:
    """The true range counts from the close before, where the day began beyond it."""
    flat = [replace(bar, high=bar.close + 1, low=bar.close - 1) for bar in bars_of(RISING)]
    decision = decide(flat)
    assert decision is not None
    spans = [
        (after.close + 1) - min(after.close - 1, before.close)
        for before, after in zip(flat[-15:-1], flat[-14:], strict=True)
    ]
    span = fsum(spans) / 14
    assert decision.target == pytest.approx(decision.entry + 3 * span)
    assert decision.stop == pytest.approx(decision.entry - 2 * span)


CHANGES = st.lists(st.floats(-0.3, 0.4), min_size=BARS_NEEDED, max_size=BARS_NEEDED + 30)


@given(changes=CHANGES, drift=st.floats(-0.02, 0.02), start=st.floats(1e-3, 1e5))
def test_every_decision_is_valid_under_the_contract(
    changes: list[float], drift: float, start: float
) -> None:
    """Confidence is percent, and never between 0 and 1, where it would be taken for a fraction."""
    closes = [start]
    for change in changes:
        closes.append(max(closes[-1] * (1 + drift + change / 20), 1e-4))
    decision = decide(bars_of(closes))
    if decision is None:
        return
    assert decision.confidence == 0 or 1 < decision.confidence <= 100
    assert len(decision.reasoning) >= 20
    low, high = sorted((decision.stop, decision.target))
    assert 0 < low < decision.entry < high < float("inf")
    assert (decision.target > decision.stop) == (decision.action == "BUY")


@given(older=st.lists(st.floats(1.0, 1000.0), max_size=20))
def test_a_decision_does_not_depend_on_bars_older_than_its_stated_period(
    older: list[float],
) -> None:
    recent = bars_of(RISING)
    assert decide([*bars_of(older), *recent]) == decide(recent)


# A trade that is open

BUY = Decision(
    action="BUY", entry=100.0, target=106.0, stop=96.0, confidence=80.0, reasoning="because of it"
)
SELL = Decision(
    action="SELL", entry=100.0, target=94.0, stop=104.0, confidence=80.0, reasoning="because of it"
)


@pytest.mark.parametrize(
    ("decision", "opened", "low", "high", "end"),
    [
        (BUY, 100.0, 97.0, 105.0, None),
        (BUY, 100.0, 97.0, 106.0, 106.0),
        (BUY, 100.0, 96.0, 105.0, 96.0),
        (BUY, 100.0, 96.0, 106.0, 96.0),
        (BUY, 95.0, 94.0, 107.0, 95.0),
        (BUY, 107.0, 95.0, 108.0, 107.0),
        (SELL, 100.0, 95.0, 103.0, None),
        (SELL, 100.0, 94.0, 103.0, 94.0),
        (SELL, 100.0, 95.0, 104.0, 104.0),
        (SELL, 100.0, 94.0, 104.0, 104.0),
        (SELL, 105.0, 93.0, 106.0, 105.0),
        (SELL, 93.0, 92.0, 105.0, 93.0),
    ],
)
def test_a_trade_ends_at_the_open_then_the_stop_then_the_target(
    decision: Decision, opened: float, low: float, high: float, end: float | None
) -> None:
    """Of a day that touches both the stop is assumed: it does not say which came first."""
    bar = a_bar(100.0, opened=opened, low=low, high=high)
    assert exit_of(decision, bar) == end


def test_a_signal_is_executed_at_the_next_open_and_closed_by_its_target() -> None:
    history = bars_of(RISING)
    n, last = len(history), RISING[-1]
    wins = a_bar(last * 1.2, n, opened=last * 1.01)
    items = items_of(days_of([*history, wins]))
    assert [item.get("event") for item in items[:3]] == [None, "executed", "closed"]
    first, executed, closed = items[:3]
    assert first["signal_id"] == "consensus_v1:ABC:2024-04-10"
    assert first["timestamp"] == "2024-04-10T21:00:00.000000+00:00"
    assert executed == {
        "event": "executed",
        "signal_id": first["signal_id"],
        "order_id": "order:consensus_v1:ABC:2024-04-10",
        "fill_price": wins.open,
        "executed_at": "2024-04-11T14:30:00.000000+00:00",
    }
    assert closed == {
        "event": "closed",
        "signal_id": first["signal_id"],
        "exit_price": first["target_price"],
        "closed_at": "2024-04-11T21:00:00.000000+00:00",
    }


def test_a_signal_that_goes_nowhere_is_closed_at_its_last_day() -> None:
    history = bars_of(RISING)
    still = [
        a_bar(RISING[-1], len(history) + n, low=RISING[-1] * 0.999, high=RISING[-1] * 1.001)
        for n in range(HOLD_DAYS_MAX)
    ]
    until = items_of(days_of([*history, *still[:-1]]))
    assert [item.get("event") for item in until] == [None, "executed"]
    closed = items_of(days_of([*history, *still]))[2]
    assert (closed["event"], closed["exit_price"]) == ("closed", still[-1].close)


# Over years

Source = Callable[[], list[Day]]


def real_days() -> list[Day]:
    return list(read_days(needs_prices()))


def simulated_days() -> list[Day]:
    return list(simulate(7))


of_both = pytest.mark.parametrize("source", [real_days, simulated_days], ids=["real", "simulated"])


@pytest.mark.slow
@of_both
def test_every_signal_lives_one_legal_life(source: Source) -> None:
    """One open signal a symbol; signal, executed, closed; no outcome, since the profit decides."""
    stage: dict[object, str] = {}
    signals: dict[object, Item] = {}
    alive: Counter[object] = Counter()
    for item in items_of(source()):
        signal_id = item["signal_id"]
        match item.get("event", "signal"):
            case "signal":
                assert signal_id not in signals
                signals[signal_id] = item
                stage[signal_id] = "signal"
                alive[item["symbol"]] += 1
            case "executed":
                assert stage[signal_id] == "signal"
                stage[signal_id] = "executed"
                assert str(item["executed_at"]) >= str(signals[signal_id]["timestamp"])
            case "closed":
                assert stage[signal_id] == "executed"
                stage[signal_id] = "closed"
                alive[signals[signal_id]["symbol"]] -= 1
                assert item.keys() == {"event", "signal_id", "exit_price", "closed_at"}
        assert max(alive.values()) <= 1
    assert len(signals) > 2_000


def with_another_future(days: Sequence[Day], after: int, factor: float) -> list[Day]:
    def other(bar: Bar) -> Bar:
        opened, close = bar.close * factor, bar.open * factor
        return replace(
            bar, open=opened, close=close, high=bar.high * factor, low=bar.low * factor, volume=0.0
        )

    return [
        (day, bars if n < after else {symbol: other(bar) for symbol, bar in bars.items()})
        for n, (day, bars) in enumerate(days)
    ]


@pytest.mark.slow
@of_both
def test_the_signals_of_a_day_do_not_depend_on_the_future(source: Source) -> None:
    days = source()[:1_500]
    for after in range(200, len(days), 300):
        known = items_of(days[:after])
        changed = items_of(with_another_future(days, after, 1.3))
        assert changed[: len(known)] == known
        assert {"signal", "executed", "closed"} <= set(kinds(known)), "closes are among it"
        assert changed != items_of(days), "the future that was changed has no effect"


@given(
    seed=st.integers(0, 10**6),
    after=st.integers(110, 159),
    factor=st.floats(0.2, 5.0),
)
@settings(max_examples=30)
def test_no_future_prices_change_earlier_signals(seed: int, after: int, factor: float) -> None:
    days = list(simulate(seed, ["AAA", "BBB"], days=160))
    known = items_of(days[:after])
    assert items_of(with_another_future(days, after, factor))[: len(known)] == known


def test_symbols_do_not_influence_each_other() -> None:
    both = items_of(simulate(7, ["ALFA", "ZULU"], days=1_000))
    alone = items_of(simulate(7, ["ZULU"], days=1_000))
    assert [item for item in both if ":ZULU:" in str(item["signal_id"])] == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "counts", "sha"),
    [
        (
            real_days,
            {"signal": 2324, "executed": 2324, "closed": 2317},
            "f7b40be4bdcce746fbb0bfa94925d44393c10b38e551e193403c5cbeebbb78bb",
        ),
        (
            simulated_days,
            {"signal": 2787, "executed": 2787, "closed": 2781},
            "4d3e538b4a5594a2326780e2629d2d6212d591f9b4436ef3eb847710aac966b1",
        ),
    ],
    ids=["real", "simulated"],
)
def test_twenty_years_end_in_the_same_results_to_the_digit(
    source: Source, counts: dict[str, int], sha: str
) -> None:
    items = items_of(source())
    assert kinds(items) == counts
    assert digest(items) == sha


# In a log


def test_it_appends_by_the_public_surface_alone() -> None:
    """It is there to be copied: it imports only names that the README documents."""
    tree = ast.parse((CHECKOUT / "tools/generator.py").read_text())
    imported = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    ours = {(module, name) for module, name in imported if "eventlog" in str(module)}
    assert ours == {("eventlog", "EventLog"), ("eventlog", "EventLogError")}
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "log"
    }
    assert called == {"append", "append_many", "read"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "stats", "sha"),
    [
        (
            real_days,
            {
                "total_signals": 2324,
                "wins": 1138,
                "losses": 1179,
                "win_rate": 49.12,
                "average_return": 0.82,
            },
            "02bd936636758e437074a2d96b028d866e5bebf6869096721700d6af05bd422c",
        ),
        (
            simulated_days,
            {
                "total_signals": 2787,
                "wins": 1309,
                "losses": 1472,
                "win_rate": 47.07,
                "average_return": 0.59,
            },
            "0182d548f9658bdd8894ca9d79a54862b28411af3c11721d4b4b557aa929a946",
        ),
    ],
    ids=["real", "simulated"],
)
def test_stats_reports_twenty_years_to_the_digit(
    tmp_path: Path, source: Source, stats: dict[str, float], sha: str
) -> None:
    append(tmp_path, source(), by_day=True)
    project(tmp_path)
    (said,) = eventlog("stats", "--json", home=tmp_path).answers
    assert said["last_updated"] is not None  # when the log took it: another one each time
    assert {key: said[key] for key in stats} == stats
    with EventLog(tmp_path) as log:
        items = content(log)
    assert digest(dict(sorted(item.items())) for item in items) == sha
    with closing(sqlite3.connect(tmp_path / "data/signals.db")) as table:
        outcomes = dict(table.execute("SELECT signal_id, outcome FROM signals"))
    assert outcomes == outcomes_by_contract(items)


def outcomes_by_contract(items: Iterable[Item]) -> dict[object, str | None]:
    """The sign of the gain, in decimal; None for a signal that is not closed."""
    signals: dict[object, Item] = {}
    outcomes: dict[object, str | None] = {}
    for item in items:
        signal_id = item["signal_id"]
        if item["event"] == "signal":
            signals[signal_id], outcomes[signal_id] = item, None
        elif item["event"] == "closed":
            about = signals[signal_id]
            gain = Decimal(str(item["exit_price"])) - Decimal(str(about["entry_price"]))
            gain = gain if about["action"] == "BUY" else -gain
            outcomes[signal_id] = "win" if gain > 0 else "loss" if gain < 0 else "breakeven"
    return outcomes


def append(home: Path, days: Iterable[Day], *, by_day: bool = False) -> Counter[str]:
    with EventLog(home) as log:
        return run(log, days, Book(), Stop(), by_day=by_day, rate=None)


@pytest.mark.parametrize("by_day", [False, True], ids=["one by one", "a day at once"])
def test_the_log_holds_exactly_the_generated_items(tmp_path: Path, by_day: bool) -> None:
    days = list(simulate(7, days=300))
    counts = append(tmp_path, days, by_day=by_day)
    items = items_of(days)
    with EventLog(tmp_path) as log:
        assert content(log) == as_given(items)
        # No write holds entries of two days, and one by one each entry is a write of its own.
        writes = len({entry.batch for entry in log.read()})
    assert writes == (len({when(item) for item in items}) if by_day else len(items))
    assert counts["appended"] == len(items)


def when(item: Item) -> str:
    """The day on which it was said."""
    at = item.get("timestamp", item.get("executed_at", item.get("closed_at")))
    return str(at)[:10]


@pytest.mark.slow
def test_twenty_real_years_pass_validation_and_a_second_run_adds_nothing(tmp_path: Path) -> None:
    days = real_days()
    first = append(tmp_path, days, by_day=True)
    again = append(tmp_path, days, by_day=True)
    with EventLog(tmp_path) as log:
        assert content(log) == as_given(items_of(days))
        assert log.last_seq == first["appended"] == again["known"]
    assert again["appended"] == 0
    of_kinds = ("signal", "executed", "closed")
    assert [first[kind] for kind in of_kinds] == [again[kind] for kind in of_kinds]


def test_the_log_answers_duplicate_to_a_repeated_entry(tmp_path: Path) -> None:
    """So a generator that cannot read the log first is safe too, within the window."""
    items = items_of(simulate(7, days=200))
    with EventLog(tmp_path) as log:
        first, again = log.append_many(items), log.append_many(items)
    assert [receipt.seq for receipt in again] == [receipt.seq for receipt in first]
    assert all(receipt.duplicate for receipt in again)


def test_a_longer_run_continues_where_a_shorter_one_stopped(tmp_path: Path) -> None:
    days = list(simulate(7, days=300))
    append(tmp_path, days[:200])
    append(tmp_path, days)
    with EventLog(tmp_path) as log:
        assert content(log) == as_given(items_of(days))


def test_a_run_continues_beyond_the_dedupe_window(tmp_path: Path) -> None:
    days = list(simulate(7, days=200))
    with EventLog(tmp_path, dedupe_entries=3) as log:
        run(log, days, Book(), Stop(), by_day=True, rate=None)
        again = run(log, days, Book(), Stop(), by_day=True, rate=None)
    assert again["appended"] == 0


def test_other_prices_of_the_same_day_are_a_conflict_and_not_a_second_truth(tmp_path: Path) -> None:
    """Prices adjusted for dividends change with each download: such a run needs another home."""
    days = days_of(bars_of(RISING))
    append(tmp_path, days)
    other = days_of(bars_of(close * 0.99 for close in RISING))
    with pytest.raises(SignalConflict):
        append(tmp_path, other)


def test_a_stopped_run_appends_nothing_more(tmp_path: Path) -> None:
    stop = Stop()
    days = list(simulate(7, days=200))

    def until(day: date) -> Iterable[Day]:
        for now, bars in days:
            if now == day:
                stop.name = "SIGTERM"
            yield now, bars

    with EventLog(tmp_path) as log:
        run(log, until(days[150][0]), Book(), stop, by_day=False, rate=None)
        assert content(log) == as_given(items_of(days[:150]))


# As a command


def command(home: Path, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, CHECKOUT / "tools/generator.py", "--home", home, *arguments]


def run_command(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments), capture_output=True, text=True, timeout=120, check=False
    )


def started(home: Path, *arguments: str | Path, entries: int) -> subprocess.Popen[str]:
    """The command, once it has appended so many entries."""
    process = subprocess.Popen(
        command(home, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(WAIT_STEPS_MAX):
        with EventLog(home) as log:
            if log.last_seq >= entries or process.poll() is not None:
                return process
        time.sleep(0.05)
    process.kill()
    process.communicate()
    pytest.fail("the generator appended nothing")


def test_the_command_ends_with_one_line_of_results(tmp_path: Path) -> None:
    done = run_command(tmp_path, "--simulate", "7", "--days", "150", "--symbols", "alfa", "xyz")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("generator: ")
    assert "150 days of a simulated market, seed 7" in done.stdout
    assert done.stdout.count("\n") == 1
    with EventLog(tmp_path) as log:
        payloads = [entry.payload for entry in log.read() if entry.event == "signal"]
    assert {payload["symbol"] for payload in payloads} <= {"ALFA", "XYZ"}
    assert {payload["strategy"] for payload in payloads} == {"consensus_v1_sim7"}


def test_the_command_reads_price_files(tmp_path: Path) -> None:
    prices = needs_prices()
    done = run_command(
        tmp_path, "--prices", prices, "--symbols", "SPY", "--days", "400", "--batch", "day"
    )
    assert done.returncode == 0
    with EventLog(tmp_path) as log:
        expected = as_given(items_of(islice(read_days(prices, ["SPY"]), 400)))
        assert content(log) == expected


def test_the_command_reports_errors_without_a_traceback(tmp_path: Path) -> None:
    done = run_command(tmp_path / "home", "--prices", tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("generator: no price files")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("wrong", [("--days", "0"), ("--rate", "0"), ("--rate", "nan")])
def test_a_wrong_argument_is_a_usage_error(tmp_path: Path, wrong: tuple[str, str]) -> None:
    assert run_command(tmp_path, *wrong).returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_stops_the_command_cleanly_and_a_next_run_continues(
    tmp_path: Path, signum: signal.Signals
) -> None:
    process = started(tmp_path, "--simulate", "7", "--days", "200", "--rate", "20", entries=5)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"stopped by {signum.name}" in out
    whole = run_command(tmp_path, "--simulate", "7", "--days", "200")
    assert_whole(tmp_path)
    assert whole.returncode == 0


def test_kills_leave_the_log_of_an_undisturbed_run(tmp_path: Path) -> None:
    for entries in (3, 20, 40):
        process = started(
            tmp_path, "--simulate", "7", "--days", "200", "--rate", "100", entries=entries
        )
        process.kill()
        process.communicate(timeout=60)
    assert run_command(tmp_path, "--simulate", "7", "--days", "200").returncode == 0
    assert_whole(tmp_path)


def assert_whole(home: Path) -> None:
    book = Book(strategy="consensus_v1_sim7", data_source="simulated_market")
    items = chain.from_iterable(book.take(bars) for _, bars in simulate(7, days=200))
    with EventLog(home) as log:
        assert content(log) == as_given(items)
