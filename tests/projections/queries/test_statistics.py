"""The statistics of signals, each against a value that was computed elsewhere or by hand."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.queries.statistics import (
    Sample,
    band_name,
    band_of,
    figures,
    wilson_interval,
)
from projections.signals.transitions import WIN


def sample_of(*signals: tuple[str, float], confidence: float = 85.5) -> Sample:
    sample = Sample()
    outcomes, returns = zip(*signals, strict=True) if signals else ((), ())
    held = [timedelta(hours=1)] * len(signals)
    sample.extend(outcomes, returns, [confidence] * len(signals), held)
    return sample


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_the_wilson_interval_equals_published_values(
    wins: int, count: int, low: float, high: float
) -> None:
    assert wilson_interval(wins, count) == pytest.approx((low, high), abs=5.1e-3)


@given(st.integers(1, 10_000), st.data())
def test_the_wilson_interval_holds_the_rate_and_is_symmetric(count: int, data: Any) -> None:
    wins = data.draw(st.integers(0, count))
    low, high = wilson_interval(wins, count)
    assert low is not None
    assert high is not None
    assert 0 <= low <= 100 * wins / count <= high <= 100
    mirrored = wilson_interval(count - wins, count)
    assert mirrored == pytest.approx((100 - high, 100 - low))


def test_holding_times_beyond_a_timedelta_have_a_mean() -> None:
    sample = Sample()
    held = [timedelta(days=2_900_000, microseconds=1)] * 400
    for _ in range(2):
        sample.extend([WIN] * 400, [1.0] * 400, [85.5] * 400, held)
    assert figures(800, sample)["mean_holding_s"] == 2_900_000 * 86_400 + 1e-6


def test_figures_of_no_outcome_are_none() -> None:
    found = figures(3, Sample())
    assert (found["total_signals"], found["open"]) == (3, 3)
    assert {key for key, value in found.items() if value is None} == {
        *("win_rate", "win_rate_low", "win_rate_high", "average_return", "median_return"),
        *("profit_factor", "best", "worst", "mean_holding_s"),
    }


def test_the_worthless_option_counts_with_its_whole_loss() -> None:
    nine_and_one = [*[("win", 20.0)] * 9, ("loss", -100.0)]
    found = figures(10, sample_of(*nine_and_one))
    assert (found["average_return"], found["median_return"]) == (8.0, 20.0)
    assert (found["profit_factor"], found["worst"]) == (1.8, -100.0)


def test_breakevens_and_expired_are_in_the_returns_and_not_in_the_win_rate() -> None:
    found = figures(
        9, sample_of(("win", 4.0), ("loss", -1.0), ("breakeven", 0.0), ("expired", 1.0))
    )
    counts = ("open", "wins", "losses", "breakevens", "expired")
    assert [found[key] for key in counts] == [5, 1, 1, 1, 1]
    assert (found["win_rate"], found["average_return"]) == (50.0, 1.0)
    assert (found["median_return"], found["profit_factor"]) == (0.5, 5.0)
    assert found["calibration"] == [
        {"from": 80, "to": 90, "count": 2, "mean_confidence": 85.5, "win_rate": 50.0}
    ]


@pytest.mark.parametrize(
    ("returns", "factor"), [((1.0, 2.0), None), ((-1.0, -3.0), 0.0), ((0.0,), None), ((), None)]
)
def test_a_profit_factor_needs_a_loss(returns: Sequence[float], factor: float | None) -> None:
    sample = sample_of(*(("expired", value) for value in returns))
    assert figures(len(returns), sample)["profit_factor"] == factor


@pytest.mark.parametrize(
    ("confidence", "name"),
    [
        *(
            (0.0, "0-10"),
            (9.999999999999998, "0-10"),
            (10.0, "10-20"),
            (69.99999999999999, "60-70"),
        ),
        *((70.0, "70-80"), (90.0, "90-100"), (99.9, "90-100"), (100.0, "90-100")),
    ],
)
def test_a_band_includes_its_lower_edge_and_the_last_one_its_upper(
    confidence: float, name: str
) -> None:
    assert band_name(band_of(confidence)) == name


def test_returns_at_the_limit_of_a_double_give_no_error() -> None:
    found = figures(3, sample_of(("win", 1.7e308), ("win", 1.7e308), ("loss", -5e-324)))
    assert found["average_return"] == pytest.approx(1.7e308 / 3 * 2)
    assert found["profit_factor"] is None
    assert (found["best"], found["worst"]) == (1.7e308, -5e-324)


@given(st.lists(st.tuples(st.sampled_from(["win", "loss", "expired"]), st.floats(-99, 99))))
def test_the_order_of_signals_changes_nothing(signals: list[tuple[str, float]]) -> None:
    one, other = sample_of(*signals), sample_of(*reversed(signals))
    assert figures(len(signals), one) == figures(len(signals), other)
