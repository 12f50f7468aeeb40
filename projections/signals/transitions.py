"""The lifecycle of a signal: its states, the allowed transitions, outcome and profit. Pure.

    open                -> executed | skipped | expired | cancelled | reduced | closed
    executed            -> reduced | closed | cancelled | expired
    cancelled, expired  -> executed       a fill that crossed the cancel or the end of the order
    reduced             -> reduced | closed

The state of a signal is `open` until a fact applies, and then the event of the last applied fact
that is not voided. `voided` returns it to its state before that fact; it is not in the table below,
because it depends on that fact alone. The table is the only definition of the other transitions.
The projections apply it, and record a fact that it does not allow in `conflicts`.

Invariant: without a `voided`, no event follows `closed` or `skipped`.
"""

from collections.abc import Mapping
from types import MappingProxyType

SIGNAL = "signal"
EXECUTED = "executed"
SKIPPED = "skipped"
EXPIRED = "expired"
CANCELLED = "cancelled"
REDUCED = "reduced"
CLOSED = "closed"
VOIDED = "voided"

OPEN = "open"  # the state of a signal without an applied fact; the other states are events

TRANSITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        OPEN: frozenset({EXECUTED, SKIPPED, EXPIRED, CANCELLED, REDUCED, CLOSED}),
        EXECUTED: frozenset({REDUCED, CLOSED, CANCELLED, EXPIRED}),
        SKIPPED: frozenset(),
        EXPIRED: frozenset({EXECUTED}),
        CANCELLED: frozenset({EXECUTED}),
        REDUCED: frozenset({REDUCED, CLOSED}),
        CLOSED: frozenset(),
    }
)
FACT_EVENTS = TRANSITIONS[OPEN] | {VOIDED}  # each other fact may directly follow the signal
ACTIVE_STATES = frozenset({OPEN, EXECUTED, REDUCED})  # undecided, or a position or order is open

BUY = "BUY"
SELL = "SELL"
ACTIONS = (BUY, SELL)

WIN = "win"
LOSS = "loss"
BREAKEVEN = "breakeven"
OUTCOMES = (WIN, LOSS, BREAKEVEN, EXPIRED)


def is_allowed(state: str, event: str) -> bool:
    """Whether `event`, any fact but `voided`, may apply to a signal in this state."""
    return event in TRANSITIONS[state]


def outcome_of(profit_loss_pct: float) -> str:
    """The outcome of a trade whose `closed` fact gives none."""
    return WIN if profit_loss_pct > 0 else LOSS if profit_loss_pct < 0 else BREAKEVEN


def profit_loss_pct_of(action: str, *, entry_price: float, exit_price: float) -> float:
    """Profit in percent of the entry price; negative is a loss. Never -0.0.

    It is infinite where it exceeds the range of a double; the caller rejects that.
    """
    pct = (exit_price - entry_price) / entry_price * 100
    # Subtracting from 0.0 negates exactly, but leaves 0.0 as it is; a minus sign gives -0.0.
    return 0.0 - pct if action == SELL else pct
