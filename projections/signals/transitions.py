"""The lifecycle of a signal: allowed transitions, outcome and profit. Pure.

    signal -> executed | skipped | expired | cancelled | closed
    executed -> closed

The state of a signal is the last event that applied to it; the signal itself is the first. The
table below is the only definition of the allowed transitions. The projections apply it, and record
a fact that it does not allow in `conflicts`.

Invariant: no fact applies twice to one signal, and no event follows `closed`.
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
FACT_EVENTS = TRANSITIONS[SIGNAL]  # each fact may directly follow the signal
ACTIVE_EVENTS = frozenset(
    event for event, following in TRANSITIONS.items() if following
)  # after which a signal can still change

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
    """The outcome of a trade closed at `exit_price` whose `closed` fact gives none.

    BUY wins at the target or above and loses at the stop or below; SELL is mirrored. Where target
    and stop are the wrong way round and both conditions hold, it is a win.
    """
    is_win, is_loss = exit_price >= target_price, exit_price <= stop_price
    if action == SELL:
        is_win, is_loss = exit_price <= target_price, exit_price >= stop_price
    return WIN if is_win else LOSS if is_loss else NEITHER


def profit_loss_pct_of(action: str, *, entry_price: float, exit_price: float) -> float:
    """Profit in percent of the entry price; negative is a loss. Never -0.0.

    It is infinite where it exceeds the range of a double; the caller rejects that.
    """
    pct = (exit_price - entry_price) / entry_price * 100
    # Subtracting from 0.0 negates exactly, but leaves 0.0 as it is; a minus sign gives -0.0.
    return 0.0 - pct if action == SELL else pct
