"""The table of transitions, and outcome and profit of a trade."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from projections.signals.transitions import (
    ACTIVE_STATES,
    FACT_EVENTS,
    TRANSITIONS,
    VOIDED,
    is_allowed,
    outcome_of,
    profit_loss_pct_of,
)
from tests.harness.model import LEGAL

STATES = sorted(TRANSITIONS)
prices = st.floats(min_value=1e-6, max_value=1e9)


def test_exactly_these_transitions_are_allowed() -> None:
    allowed = {
        (state, event)
        for state in STATES
        for event in FACT_EVENTS - {VOIDED}
        if is_allowed(state, event)
    }
    assert allowed == LEGAL
    assert {
        *("executed", "skipped", "expired", "cancelled", "reduced", "closed", "voided"),
    } == FACT_EVENTS
    assert {"open", "executed", "reduced"} == ACTIVE_STATES


@given(st.lists(st.sampled_from(sorted(FACT_EVENTS - {VOIDED})), max_size=8))
def test_nothing_follows_closed_or_skipped_and_an_order_ends_before_the_next(
    events: list[str],
) -> None:
    state, applied = "open", []
    for event in events:
        if is_allowed(state, event):
            state = event
            applied.append(event)
    assert not {"closed", "skipped"} & set(applied[:-1])
    for before, event in pairwise(applied):
        assert event != "executed" or before in ("cancelled", "expired")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_sign_of_the_profit_is_the_outcome(pct: float) -> None:
    assert outcome_of(pct) == {1: "win", 0: "breakeven", -1: "loss"}[(pct > 0) - (pct < 0)]


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
