"""tools/prices.py: what a price file may hold, and the market that stands in for one.

Invariant: nothing here depends on the network or on the day on which it runs.
"""

import json
from datetime import date, timedelta
from hashlib import sha256
from itertools import islice, pairwise
from math import fsum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.requirements import needs_prices
from tools.prices import (
    SIMULATED_DAYS,
    SIMULATED_SYMBOLS,
    Bar,
    Day,
    PriceFileError,
    closes_at,
    merge,
    opens_at,
    read_days,
    read_file,
    simulate,
)

HEADING = (
    "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
    "2024-01-02,10.0,11.0,9.0,10.5,1000\n"
)
FIRST = Bar(day=date(2024, 1, 2), open=10.5, high=11.0, low=9.0, close=10.0, volume=1000.0)
SYMBOLS = st.text("ABCXYZ-", min_size=1, max_size=6)


def a_file(directory: Path, rows: str = "", *, heading: str = HEADING, name: str = "A.csv") -> Path:
    path = directory / name
    path.write_text(heading + rows)
    return path


def assert_bars_hold(days: list[Day]) -> None:
    assert all(before < after for (before, _), (after, _) in pairwise(days))
    for day, bars in days:
        for bar in bars.values():
            assert bar.day == day
            assert 0 < bar.low <= min(bar.open, bar.close)
            assert max(bar.open, bar.close) <= bar.high < float("inf")
            assert bar.volume >= 0


def test_the_real_files_are_read_whole_and_day_by_day() -> None:
    days = list(read_days(needs_prices()))
    assert_bars_hold(days)
    counts = {symbol: sum(symbol in bars for _, bars in days) for symbol in days[-2][1]}
    assert counts == {
        "AAPL": 5027,
        "AMZN": 5027,
        "BTC-USD": 4073,
        "ETH-USD": 2924,
        "MSFT": 5027,
        "NVDA": 5027,
        "SPY": 5027,
        "TSLA": 3868,
    }
    assert (days[0][0], days[-1][0], len(days)) == (date(2005, 11, 17), date(2025, 11, 11), 6295)


def test_only_the_requested_symbols_of_a_directory_are_read() -> None:
    days = list(read_days(needs_prices(), ["SPY", "ETH-USD"]))
    assert {symbol for _, bars in days for symbol in bars} == {"SPY", "ETH-USD"}


def test_a_row_becomes_a_bar(tmp_path: Path) -> None:
    assert read_file(a_file(tmp_path)) == ("AAPL", (FIRST,))


def test_columns_are_found_by_name_and_others_are_left_alone(tmp_path: Path) -> None:
    heading = "Price,Adj Close,Open,High,Low,Close,Volume\nTicker,B,B,B,B,B,B\nDate,,,,,,\n"
    path = a_file(tmp_path, "2024-01-02,1.0,10.5,11.0,9.0,10.0,1000\n", heading=heading)
    assert read_file(path) == ("B", (FIRST,))


def test_a_day_without_prices_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    symbol, bars = read_file(a_file(tmp_path, "2024-01-03,,,,,\n2024-01-04,10.0,11.0,9.0,10.5,0\n"))
    assert [bar.day.day for bar in bars] == [2, 4]
    assert "rows_without_price symbol=AAPL rows=1" in caplog.text
    assert symbol == "AAPL"


def test_a_volume_of_zero_stays(tmp_path: Path) -> None:
    _, bars = read_file(a_file(tmp_path, "2024-01-03,10.0,11.0,9.0,10.5,0\n"))
    assert bars[-1].volume == 0


def test_noise_beyond_eight_digits_is_rounded_away(tmp_path: Path) -> None:
    """The real files have closes one bit above the high of their day."""
    row = "2024-01-03,21.123456999999999,21.123456999999996,20.0,20.0,1\n"
    _, bars = read_file(a_file(tmp_path, row))
    assert bars[-1].close == bars[-1].high == 21.123457


def test_a_high_that_misses_the_close_by_rounding_is_widened_to_it(tmp_path: Path) -> None:
    _, bars = read_file(a_file(tmp_path, "2024-01-03,11.000001,11.0,9.0,8.999999,1\n"))
    assert (bars[-1].low, bars[-1].high) == (8.999999, 11.000001)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("2024-01-03,10.0,11.0,9.0,10.5", "5 columns instead of 6"),
        ("2024-01-03,10.0,11.0,9.0,10.5,1,2", "7 columns instead of 6"),
        ("", "0 columns instead of 6"),
        ("2024-01-03,10.0,11.0,9.0,,1", "could not convert"),
        ("2024-01-03,ten,11.0,9.0,10.5,1", "could not convert"),
        ("2024-01-03,10.0,11.0,9.0,10.5,", "could not convert"),
        ("03.01.2024,10.0,11.0,9.0,10.5,1", "Invalid isoformat"),
        ("2024-01-03,nan,11.0,9.0,10.5,1", "not finite"),
        ("2024-01-03,10.0,inf,9.0,10.5,1", "not finite"),
        ("2024-01-03,10.0,inf,-inf,10.5,1", "not finite"),
        ("2024-01-03,10.0,11.0,9.0,10.5,inf", "not finite"),
        ("2024-01-03,10.0,11.0,9.0,10.5,-1", "negative"),
        ("2024-01-03,0.0,11.0,0.0,10.5,1", "above zero"),
        ("2024-01-03,-10.0,11.0,-11.0,10.5,1", "above zero"),
        ("2024-01-03,10.0,9.0,11.0,10.0,1", "within low and high"),
        ("2024-01-03,11.5,11.0,9.0,10.5,1", "within low and high"),
        ("2024-01-03,10.0,11.0,9.0,8.5,1", "within low and high"),
        ("2024-01-02,10.0,11.0,9.0,10.5,1", "2024-01-02 does not follow 2024-01-02"),
        ("2024-01-01,10.0,11.0,9.0,10.5,1", "2024-01-01 does not follow 2024-01-02"),
    ],
)
def test_an_impossible_row_is_refused_with_file_and_line(
    tmp_path: Path, row: str, problem: str
) -> None:
    path = a_file(tmp_path, row + "\n")
    with pytest.raises(PriceFileError, match=problem) as refusal:
        read_file(path)
    assert f"{path} line 5" in str(refusal.value)


@pytest.mark.parametrize(
    "heading",
    [
        "",
        "Price,Close,High,Low,Open,Volume\n",
        "Date,Open,High,Low,Close,Volume\n2024-01-02,1,1,1,1,1\n2024-01-03,1,1,1,1,1\n",
        "Price,Close,High,Low,Open\nTicker,A,A,A,A\nDate,,,,\n",
        "Price,Close,Close,High,High,Low,Open,Volume\nTicker,A,B,A,B,A,A,A\nDate,,,,,,,\n",
        "Price,Close,Close,High,Low,Open,Volume\nTicker,A,A,A,A,A,A\nDate,,,,,,\n",
    ],
    ids=["empty", "cut", "another format", "a column missing", "two symbols", "a column twice"],
)
def test_a_file_with_another_header_is_refused(tmp_path: Path, heading: str) -> None:
    with pytest.raises(PriceFileError, match="not a price file of one symbol"):
        read_file(a_file(tmp_path, heading=heading))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "A.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PriceFileError, match="cannot be read"):
        read_file(path)


def test_a_directory_without_the_requested_symbols_lists_its_symbols(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match="no price files"):
        read_days(tmp_path)
    a_file(tmp_path)
    with pytest.raises(PriceFileError, match=r"no prices of MSFT .* choose from AAPL"):
        read_days(tmp_path, ["AAPL", "MSFT"])
    a_file(tmp_path, name="B.csv")
    with pytest.raises(PriceFileError, match="a second file for AAPL"):
        read_days(tmp_path)


@given(
    series=st.dictionaries(
        SYMBOLS, st.sets(st.dates(date(2000, 1, 1), date(2000, 3, 1))), max_size=4
    )
)
def test_merging_gives_each_bar_once_on_its_day(series: dict[str, set[date]]) -> None:
    def bar(day: date) -> Bar:
        return Bar(day=day, open=1.0, high=1.0, low=1.0, close=1.0, volume=0.0)

    days = list(merge({symbol: [bar(day) for day in sorted(of)] for symbol, of in series.items()}))
    assert [day for day, _ in days] == sorted(set().union(*series.values()))
    assert {symbol: {day for day, bars in days if symbol in bars} for symbol in series} == series


def test_shares_close_in_new_york_and_crypto_at_midnight_utc() -> None:
    day = date(2024, 12, 31)
    assert opens_at("SPY", day) == "2024-12-31T14:30:00.000000+00:00"
    assert closes_at("SPY", day) == "2024-12-31T21:00:00.000000+00:00"
    assert opens_at("BTC-USD", day) == "2024-12-31T00:00:00.000000+00:00"
    assert closes_at("BTC-USD", day) == "2025-01-01T00:00:00.000000+00:00"


@given(seed=st.integers(), symbols=st.lists(SYMBOLS, min_size=1, max_size=3, unique=True))
@settings(max_examples=20)
def test_every_simulated_market_is_plausible(seed: int, symbols: list[str]) -> None:
    days = list(simulate(seed, symbols, days=120))
    assert_bars_hold(days)
    assert all(set(bars) == set(symbols) and day.weekday() < 5 for day, bars in days)


@given(seed=st.integers(), days=st.integers(min_value=1, max_value=60))
@settings(max_examples=20)
def test_a_longer_simulation_begins_with_the_shorter_one(seed: int, days: int) -> None:
    assert list(simulate(seed, days=days)) == list(islice(simulate(seed), days))


@given(seed=st.integers(), others=st.sets(SYMBOLS, max_size=3))
@settings(max_examples=20)
def test_a_simulated_symbol_does_not_depend_on_the_others(seed: int, others: set[str]) -> None:
    alone = [bars["ONE"] for _, bars in simulate(seed, ["ONE"], days=30)]
    among = [bars["ONE"] for _, bars in simulate(seed, ["ONE", *others], days=30)]
    assert alone == among


@pytest.mark.slow
def test_by_default_twenty_years_of_eight_symbols_are_simulated() -> None:
    days = list(simulate(1))
    assert len(days) == SIMULATED_DAYS
    assert all(tuple(sorted(bars)) == SIMULATED_SYMBOLS for _, bars in days)
    assert timedelta(days=19 * 365) < days[-1][0] - days[0][0] < timedelta(days=20 * 365)


def test_a_simulated_market_is_the_same_to_the_digit_on_every_machine() -> None:
    """Else two people would speak of different results by the same seed."""
    text = json.dumps(
        [
            [symbol, str(day), bar.open, bar.high, bar.low, bar.close, bar.volume]
            for day, bars in simulate(7, days=500)
            for symbol, bar in bars.items()
        ]
    )
    assert (
        sha256(text.encode()).hexdigest()
        == "9169c925e3e47bdb58aae043be0fc17dee1b5fd6e46314a60c228cdae0a43674"
    )


@pytest.mark.slow
def test_wild_days_come_in_clusters_and_with_fat_tails() -> None:
    """The purpose of the model: a Gaussian walk alone has neither."""
    for symbol in SIMULATED_SYMBOLS:
        closes = [bars[symbol].close for _, bars in simulate(7, [symbol])]
        changes = [after / before - 1 for before, after in pairwise(closes)]
        squares = [change**2 for change in changes]
        middle = fsum(squares) / len(squares)
        variance = fsum((square - middle) ** 2 for square in squares)
        together = fsum((a - middle) * (b - middle) for a, b in pairwise(squares))
        assert together / variance > 0.05, symbol  # 0 for a walk, give or take 0.014
        assert fsum(square**2 for square in squares) / len(squares) / middle**2 > 3.5, symbol
