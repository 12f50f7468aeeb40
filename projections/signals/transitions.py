"""What may happen to a signal, and what its end is worth. Pure.

    signal -> executed | skipped | expired | cancelled | closed
    executed -> closed

A signal stands where its last fact that applied has put it; the signal itself is the first. The
table below is the only place that says where it may go from there: the projections decide by it
and write what does not fit into `conflicts`.

Invariant: no fact applies twice to one signal, and nothing follows `closed`.
"""

from collections.abc import Mapping
from types import MappingProxyType

SIGNAL = "signal"
EXECUTED = "executed"
SKIPPED = "skipped"
EXPIRED = "expired"
CANCELLED = "cancelled"
CLOSED = "closed"

TRANSITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        SIGNAL: frozenset({EXECUTED, SKIPPED, EXPIRED, CANCELLED, CLOSED}),
        EXECUTED: frozenset({CLOSED}),
        SKIPPED: frozenset(),
        EXPIRED: frozenset(),
        CANCELLED: frozenset(),
        CLOSED: frozenset(),
    }
)
FACT_EVENTS = TRANSITIONS[SIGNAL]  # every fact can be the first
ACTIVE_EVENTS = frozenset(
    event for event, following in TRANSITIONS.items() if following
)  # where a signal can still move

BUY = "BUY"
SELL = "SELL"
ACTIONS = (BUY, SELL)

WIN = "win"
LOSS = "loss"
NEITHER = "expired"  # the trade ended between stop and target
OUTCOMES = (WIN, LOSS, NEITHER)


def is_allowed(before: str, event: str) -> bool:
    """Whether `event` may follow `before`, the last event that applied to the signal."""
    return event in TRANSITIONS[before]


def outcome_of(action: str, *, target_price: float, stop_price: float, exit_price: float) -> str:
    """How a trade ended that was closed at `exit_price` without a word on its outcome.

    BUY wins at the target or above and loses at the stop or below; SELL is mirrored. Where the
    prices of a signal stand the wrong way round and both hold, it is a win: the target is asked
    for first.
    """
    is_win, is_loss = exit_price >= target_price, exit_price <= stop_price
    if action == SELL:
        is_win, is_loss = exit_price <= target_price, exit_price >= stop_price
    return WIN if is_win else LOSS if is_loss else NEITHER


def profit_loss_pct_of(action: str, *, entry_price: float, exit_price: float) -> float:
    """Profit in percent of the entry price; negative is a loss. Never -0.0.

    It is infinite where the quotient leaves the range of a double; the caller refuses that.
    """
    pct = (exit_price - entry_price) / entry_price * 100
    # Taking from 0.0 negates exactly and leaves 0.0 where a minus sign would make -0.0 of it.
    return 0.0 - pct if action == SELL else pct
