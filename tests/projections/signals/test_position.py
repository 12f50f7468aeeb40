"""Exit price and profit of a position that is closed in parts."""

import math
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from projections.signals.position import NO_PARTS, ClosedParts

Part = tuple[float, float]  # fraction, exit price

prices = st.floats(-1e9, 1e9)
entries = st.floats(1e-6, 1e9)
parts = st.tuples(st.floats(1e-6, 0.24), prices)


def closed(given_: list[Part]) -> ClosedParts:
    found = NO_PARTS
    for fraction, exit_price in given_:
        found = found.with_part(fraction, exit_price)
    return found


@given(st.lists(parts, min_size=1, max_size=4), prices, entries)
def test_the_order_of_the_parts_changes_nothing(
    some: list[Part], rest: float, entry: float
) -> None:
    wholes = [closed(list(order)).with_rest(rest) for order in permutations(some)]
    prices = {whole.exit_price() for whole in wholes}
    profits = {whole.profit_loss_pct("BUY", entry_price=entry) for whole in wholes}
    assert (len(prices), len(profits)) == (1, 1)


@given(st.lists(st.floats(1e-6, 0.24), min_size=1, max_size=4), entries)
def test_parts_at_one_price_are_that_price_exactly(fractions: list[float], price: float) -> None:
    some = closed([(fraction, price) for fraction in fractions])
    for found in (some, some.with_rest(price)):
        assert found.exit_price() == price
        assert found.profit_loss_pct("BUY", entry_price=price) == 0.0
        assert math.copysign(1, found.profit_loss_pct("SELL", entry_price=price)) == 1


@given(st.lists(parts, min_size=1, max_size=4), prices, entries)
def test_buy_and_sell_profits_are_opposite_and_zero_is_never_negative(
    some: list[Part], rest: float, entry: float
) -> None:
    whole = closed(some).with_rest(rest)
    buy, sell = (whole.profit_loss_pct(action, entry_price=entry) for action in ("BUY", "SELL"))
    assert buy == -sell
    for pct in (buy, sell):
        assert pct != 0 or math.copysign(1, pct) == 1


@given(st.lists(parts, min_size=1, max_size=4), prices)
def test_the_exit_price_lies_between_the_lowest_and_the_highest(
    some: list[Part], rest: float
) -> None:
    every = [price for _, price in some] + [rest]
    assume(any(every))
    assert min(every) <= closed(some).with_rest(rest).exit_price() <= max(every)


@pytest.mark.parametrize(
    ("fractions", "leaves_no_rest"),
    [
        ([0.1] * 9, False),
        ([0.1] * 10, True),  # 0.9999999999999999 as floats
        ([0.3333333333] * 3, True),
        ([0.333333333] * 3, False),  # exactly 1 - 1e-9
        ([0.999999999], False),
        ([0.9999999991], True),
        ([0.5, 0.6], True),
    ],
)
def test_a_rest_of_less_than_a_billionth_is_none(
    fractions: list[float], leaves_no_rest: bool
) -> None:
    assert closed([(fraction, 1.0) for fraction in fractions]).leaves_no_rest() == leaves_no_rest


def test_numbers_count_as_the_decimals_that_they_show() -> None:
    assert closed([(0.1, 0.3)]) == (Fraction(1, 10), Fraction(3, 100))
    assert closed([(1e-05, 1e16)]) == (Fraction(1, 10**5), Fraction(10**11))


def test_a_profit_beyond_every_double_is_infinite() -> None:
    some = closed([(0.5, 1e308)])
    assert some.profit_loss_pct("BUY", entry_price=5e-324) == math.inf
    assert some.profit_loss_pct("SELL", entry_price=5e-324) == -math.inf
    assert some.exit_price() == 1e308
