"""The table of transitions, and outcome and profit of a trade."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.signals.transitions import (
    ACTIVE_EVENTS,
    FACT_EVENTS,
    TRANSITIONS,
    is_allowed,
    outcome_of,
    profit_loss_pct_of,
)

EVENTS = sorted(TRANSITIONS)
prices = st.floats(min_value=1e-6, max_value=1e9)


def test_exactly_these_transitions_are_allowed() -> None:
    allowed = {
        (before, event) for before in EVENTS for event in EVENTS if is_allowed(before, event)
    }
    assert allowed == {
        ("signal", "executed"),
        ("signal", "skipped"),
        ("signal", "expired"),
        ("signal", "cancelled"),
        ("signal", "closed"),
        ("executed", "closed"),
    }
    assert {"executed", "skipped", "expired", "cancelled", "closed"} == FACT_EVENTS
    assert {"signal", "executed"} == ACTIVE_EVENTS


@given(st.lists(st.sampled_from(EVENTS), max_size=8))
def test_no_fact_applies_twice_and_every_lifecycle_ends(events: list[str]) -> None:
    before, applied = "signal", []
    for event in events:
        if is_allowed(before, event):
            before = event
            applied.append(event)
    assert len(applied) == len(set(applied)) <= 2
    assert "signal" not in applied


@pytest.mark.parametrize(
    ("exit_price", "buy", "sell"),
    [
        (111.0, "win", "loss"),
        (110.0, "win", "loss"),
        (109.9, "expired", "expired"),
        (100.0, "expired", "expired"),
        (90.1, "expired", "expired"),
        (90.0, "loss", "win"),
        (89.0, "loss", "win"),
    ],
)
def test_a_trade_wins_at_its_target_and_loses_at_its_stop_and_sell_is_mirrored(
    exit_price: float, buy: str, sell: str
) -> None:
    assert outcome_of("BUY", target_price=110.0, stop_price=90.0, exit_price=exit_price) == buy
    assert outcome_of("SELL", target_price=90.0, stop_price=110.0, exit_price=exit_price) == sell


def test_a_trade_that_reaches_target_and_stop_at_once_is_a_win() -> None:
    for action in ("BUY", "SELL"):
        assert outcome_of(action, target_price=1.0, stop_price=1.0, exit_price=1.0) == "win"


def test_profit_is_in_percent_of_the_entry_price_and_negated_for_sell() -> None:
    assert profit_loss_pct_of("BUY", entry_price=200.0, exit_price=210.0) == 5.0
    assert profit_loss_pct_of("SELL", entry_price=200.0, exit_price=210.0) == -5.0


@given(entry=prices, exit_price=prices)
def test_buy_and_sell_profits_are_opposite_and_zero_is_never_negative(
    entry: float, exit_price: float
) -> None:
    buy = profit_loss_pct_of("BUY", entry_price=entry, exit_price=exit_price)
    sell = profit_loss_pct_of("SELL", entry_price=entry, exit_price=exit_price)
    assert buy == -sell == (exit_price - entry) / entry * 100
    assert math.copysign(1, buy) == 1 or buy < 0
    assert math.copysign(1, sell) == 1 or sell < 0
