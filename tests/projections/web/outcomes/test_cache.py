"""The figures of the page Outcomes equal those of the commands, as of every entry."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from projections.errors import ProjectionError
from projections.queries.filters import SignalFilter, signal_filter
from projections.queries.selection import Selection
from projections.queries.stats import read_stats, read_stats_by
from projections.queries.table import read_home
from projections.sqlite.database import database_path
from projections.sqlite.file import connect
from projections.web.outcomes import columns, groups, reading
from projections.web.outcomes import trades as trades_module
from projections.web.outcomes.cache import ALL, Outcomes
from projections.web.outcomes.curve import POINTS_MAX, make_curve, thinned
from projections.web.outcomes.trades import Trades
from tests.harness.command import eventlog
from tests.harness.console import WebConsole
from tests.harness.read_side import append, project
from tests.harness.signals import closed, signals
from tests.projections.web.conftest import fill

FILTERS = (
    ALL,
    signal_filter(strategy="gap"),
    signal_filter(symbol="aapl", action="BUY"),
    signal_filter(since="2025-03-01T00:00:00Z", until="2025-09-03T02:00:00.123456Z"),
    signal_filter(symbol="none"),
)
GROUPS = ("strategy", "symbol", "month")


def expected(home: Path, chosen: SignalFilter, seq: int) -> dict[str, Any]:
    """The output of `eventlog stats` as of an entry."""
    selection = Selection(chosen, seq)
    return read_home(
        home,
        lambda database: {
            "stats": read_stats(database, selection),
            "by": {key: read_stats_by(database, selection, key) for key in GROUPS},
        },
    )


def found(outcomes: Outcomes, chosen: SignalFilter, seq: int | None) -> dict[str, Any]:
    answer = outcomes.try_answer(chosen, seq)
    assert answer is not None
    return answer


def assert_equal(home: Path, outcomes: Outcomes, chosen: SignalFilter, seq: int) -> None:
    answer = found(outcomes, chosen, seq)
    assert {key: answer[key] for key in ("stats", "by")} == expected(home, chosen, seq)


def last_seq_of(home: Path) -> int:
    with EventLog(home) as log:
        return log.last_seq


@pytest.mark.parametrize("chosen", FILTERS)
def test_the_figures_equal_those_of_stats_as_of_every_entry(
    full_home: Path, chosen: SignalFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "BLOCK", 4)  # so that few trades fill many blocks
    outcomes = Outcomes(full_home)
    for seq in range(last_seq_of(full_home) + 1):
        assert_equal(full_home, outcomes, chosen, seq)


@pytest.mark.parametrize("values_per_position_max", [0, 8])
def test_trades_that_are_read_in_many_parts_are_those_of_stats(
    full_home: Path, values_per_position_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the signals of a part are looked up in a table, and in several processes."""
    monkeypatch.setattr(trades_module, "ENTRIES_PER_PART", 9)
    monkeypatch.setattr(reading, "ROWS_PER_CHUNK", 3)
    monkeypatch.setattr(columns, "VALUES_PER_POSITION_MAX", values_per_position_max)
    monkeypatch.setattr(columns, "CHUNK", 7)
    monkeypatch.setattr(groups, "PART_SAMPLE", 2)
    last_seq = last_seq_of(full_home)
    outcomes = Outcomes(full_home)
    for seq in (last_seq, last_seq // 2):
        for chosen in FILTERS[:2]:
            assert_equal(full_home, outcomes, chosen, seq)


@pytest.mark.parametrize(
    "closed_at",
    [
        "2025-02-30T10:00:00.123456+00:00",
        "2025-W45-2T10:00:00.123456+00:00",
        "2025-11-18 10:00:00.123456+00:00",
        "2025-11-18T10:00:00.123456+01:00",
        "2025-11-18T10:00:00Z",
        "2025-11-18",
        "",
    ],
)
def test_a_close_at_a_time_in_another_form_is_held_as_long_as_in_stats(
    home: Path, closed_at: str
) -> None:
    """Validation lets no such time into the log: another program may have."""
    stored = "2025-12-01T00:00:00.000000+00:00"
    append(home, *signals(2), closed(1, closed_at=stored), closed(2, closed_at=stored))
    project(home)
    with closing(connect(database_path(home))) as database:
        sql = "UPDATE lifecycle SET detail = json_set(detail, '$.closed_at', ?) WHERE seq = 3"
        database.execute(sql, (closed_at,))
        database.commit()
    assert_equal(home, Outcomes(home), ALL, 4)


@pytest.mark.slow
def test_a_console_that_follows_the_log_has_the_figures_of_one_that_starts_later(
    home: Path, full_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "BLOCK", 4)
    outcomes = Outcomes(home)
    with EventLog(full_home) as source, EventLog(home) as log:
        for count, entry in enumerate(source.read(), 1):
            log.append(
                {"event": entry.event, **entry.payload}
                if entry.event != "signal"
                else entry.payload
            )
            if count % 9 == 0:
                project(home)
                found(outcomes, ALL, None)
                found(outcomes, FILTERS[1], None)
    project(home)
    for seq in range(0, last_seq_of(home) + 1, 3):
        for chosen in FILTERS[:2]:
            assert_equal(home, outcomes, chosen, seq)
    assert found(outcomes, ALL, None) == found(Outcomes(home), ALL, None)


def test_a_table_that_was_rebuilt_is_read_anew(home: Path) -> None:
    fill(home)
    project(home)
    outcomes = Outcomes(home)
    before = found(outcomes, ALL, None)
    assert eventlog("rebuild-database", home=home).code == 0
    assert found(outcomes, ALL, 40) == found(Outcomes(home), ALL, 40)
    assert found(outcomes, ALL, None) == before


def test_a_table_that_has_grown_is_read_on_and_not_anew(home: Path) -> None:
    """Without a daemon the table has no WAL between two runs, and a new time and size."""
    append(home, *signals(2), closed(1))
    project(home)
    trades = Trades(home)
    trades.follow(lambda *_: None)
    number = trades.number
    append(home, closed(2))
    project(home)
    trades.follow(lambda *_: None)
    assert (trades.number, trades.seq, len(trades.trades.known_seq)) == (number, 4, 2)


def test_a_trade_that_is_closed_and_voided_at_once_is_left_out_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the trades that came with it divide its block."""
    monkeypatch.setattr(groups, "BLOCK", 4)
    append(home, *signals(9), closed(1))
    project(home)
    outcomes = Outcomes(home)
    found(outcomes, ALL, None)
    append(home, *(closed(number, exit_price=160.0 + number) for number in range(2, 10)))
    append(home, {"event": "voided", "signal_id": "s-2", "voids": 11})
    project(home)
    for seq in (None, 19, 18, 11):
        assert found(outcomes, ALL, seq) == found(Outcomes(home), ALL, seq)
    assert_equal(home, outcomes, ALL, 19)


def test_an_answer_as_of_an_entry_is_not_of_a_table_that_was_there_before(
    home: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for each, price in ((home, 90.0), (other, 400.0)):
        append(each, *signals(2), closed(1, exit_price=price))
        project(each)
    outcomes = Outcomes(home)
    assert_equal(home, outcomes, ALL, 3)
    home.rename(tmp_path / "before")
    other.rename(home)
    assert_equal(home, outcomes, ALL, 3)
    (home / "data" / "signals.db").unlink()
    with pytest.raises(ProjectionError, match="no database"):
        found(outcomes, ALL, 3)


def test_returns_beyond_any_reason_are_added_up_like_those_of_stats(home: Path) -> None:
    with EventLog(home) as log:
        for number in range(6):
            log.append_many(
                [
                    {
                        "signal_id": f"s-{number}",
                        "symbol": "A",
                        "action": "BUY",
                        "entry_price": 1e-300,
                        "target_price": 1.0,
                        "stop_price": 1.0,
                        "confidence": 80,
                        "strategy": "s",
                    },
                    {
                        "event": "closed",
                        "signal_id": f"s-{number}",
                        "exit_price": 1.0,
                        "profit_loss_pct": 1.7e308 * (-1 if number % 3 == 2 else 1),
                    },
                ]
            )
    project(home)
    outcomes = Outcomes(home)
    for seq in range(13):
        assert_equal(home, outcomes, ALL, seq)


def test_an_answer_over_http_equals_the_command_at_the_same_entry(
    web: WebConsole, full_home: Path
) -> None:
    now = web.get("/api/outcomes")
    assert now["as_of"]["live"]
    assert now["stats"] == json.loads(eventlog("stats", "--json", home=full_home).out)
    with EventLog(full_home) as log:
        entry = next(log.read(after=57))
    at = entry.recorded_at
    past = web.get("/api/outcomes", as_of=at, strategy="gap")
    words = ("stats", "--json", "--as-of", at, "--strategy", "gap")
    assert past["as_of"]["recorded_at"] == at
    assert past["stats"] == json.loads(eventlog(*words, home=full_home).out)
    by = json.loads(eventlog(*words, "--by", "month", home=full_home).out)
    assert past["by"]["month"] == by
    assert past != now


def test_the_calibration_adds_intervals_to_the_bands_of_stats(web: WebConsole) -> None:
    answer = web.get("/api/outcomes")
    assert answer["calibration"]
    for band, stats_band in zip(answer["calibration"], answer["stats"]["calibration"], strict=True):
        assert {key: band[key] for key in stats_band} == stats_band
        assert 0 <= band["win_rate_low"] <= band["win_rate"] <= band["win_rate_high"] <= 100


def test_the_bars_of_the_histogram_add_up_to_the_trades(web: WebConsole) -> None:
    answer = web.get("/api/outcomes")
    stats = answer["stats"]
    trades = stats["total_signals"] - stats["open"]
    assert trades > 30
    assert sum(bar["count"] for bar in answer["histogram"]) == trades


def test_the_curve_ends_at_the_sum_of_the_returns_as_of_every_entry(full_home: Path) -> None:
    outcomes = Outcomes(full_home)
    found(outcomes, ALL, None)
    for seq in range(last_seq_of(full_home) + 1):
        returns = returns_at(full_home, seq)
        answer = found(outcomes, ALL, seq)
        curve = make_curve(range(len(returns)), returns)
        assert answer["curve"]["v"] == thinned(curve, len(returns))["v"], seq
        assert answer["max_drawdown"] == min(curve.depths, default=None)


def returns_at(home: Path, seq: int) -> list[float]:
    """The returns of all trades as of an entry, in the order in which the log learned them."""
    selection = Selection(ALL, seq)
    source = selection.source("", "l.outcome IS NOT NULL")
    sql = f"SELECT l.profit_loss_pct {source} ORDER BY l.known_seq, l.seq"
    rows = read_home(home, lambda db: db.execute(sql, selection.parameters()).fetchall())
    return [pct for (pct,) in rows]


def test_thinning_keeps_the_ends_the_extremes_and_the_drawdown() -> None:
    returns = [((number * 7919) % 101 - 50) / 10 for number in range(50_000)]
    returns[31_234] = -900.0
    curve = make_curve(range(50_000), returns)
    kept: Any = thinned(curve, 50_000)
    assert len(kept["t"]) <= POINTS_MAX
    assert (kept["t"][0], kept["t"][-1]) == (0, 49_999)
    assert min(kept["v"]) == round(min(curve.sums), 6)
    assert max(kept["v"]) == round(max(curve.sums), 6)
    assert min(kept["d"]) == round(min(curve.depths), 6)


def test_names_that_came_later_are_no_choice_as_of_an_earlier_entry(home: Path) -> None:
    with EventLog(home) as log:
        for number, name in enumerate(("early", "late")):
            log.append(
                {
                    "signal_id": name,
                    "symbol": name,
                    "action": "BUY",
                    "entry_price": 1.0 + number,
                    "target_price": 2.0,
                    "stop_price": 0.5,
                    "confidence": 80,
                    "strategy": name,
                }
            )
    project(home)
    outcomes = Outcomes(home)
    assert found(outcomes, ALL, 2)["choices"]["strategies"] == ["early", "late"]
    assert found(outcomes, ALL, 1)["choices"] == {"strategies": ["early"], "symbols": ["EARLY"]}


def test_the_range_names_no_trade_that_came_later(full_home: Path) -> None:
    outcomes = Outcomes(full_home)
    lasts = [
        found(outcomes, ALL, seq)["range"]["last_seq"] for seq in range(last_seq_of(full_home) + 1)
    ]
    assert lasts[0] is None
    assert lasts[-1] is not None
    assert all(last is None or last <= seq for seq, last in enumerate(lasts))
