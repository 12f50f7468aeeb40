"""The newest signals of a log with their outcomes, kept in memory. Pure.

It uses the fold that fills the signals table (projections.signals.fold), so both agree. Facts about
signals that came before the first applied entry are ignored.

Invariant: it holds at most SIGNALS_MAX signals, and at most HELD_MAX facts without a signal.
"""

from collections.abc import Sequence
from typing import NamedTuple

from eventlog import Entry
from projections.signals.fold import new_ids, prepare, resolve
from projections.signals.states import Fact, SignalState, held_facts, state_of_row
from projections.signals.transitions import OPEN

SIGNALS_MAX = 200  # more than the lines of a terminal
HELD_MAX = 1_000  # most are about signals before the first entry, which never arrive


class RecentSignal(NamedTuple):
    """A signal with its state."""

    seq: int
    symbol: str
    action: str
    entry_price: float
    target_price: float
    stop_price: float
    confidence: float  # percent
    strategy: str
    timestamp: str  # UTC, in stored form
    state: str = OPEN
    outcome: str | None = None  # once it is closed
    profit_loss_pct: float | None = None  # once a part of it is closed


class RecentSignals:
    """Collects the newest signals from entries that are applied in log order."""

    def __init__(self) -> None:
        self._signals: dict[str, RecentSignal] = {}  # by signal_id, in the order of the log
        self._states: dict[str, SignalState] = {}  # of the same signals
        self._held: list[Fact] = []  # whose signal may still arrive

    def apply(self, entries: Sequence[Entry], *, after: int) -> None:
        """Applies a batch; `after` is the seq of the entry before it."""
        prepared = prepare(entries, after=after)
        arrived = new_ids(prepared)
        held = [fact for fact in self._held if fact[3] in arrived]
        changes = resolve(prepared, self._states, held)
        for row in changes.signals:
            seq, signal_id, symbol, action, entry, target, stop, confidence, strategy = row[:9]
            self._signals[signal_id] = RecentSignal(
                seq, symbol, action, entry, target, stop, confidence, strategy, timestamp=row[11]
            )
            self._states[signal_id] = state_of_row(row)
        for signal_id, state in changes.states.items():
            self._states[signal_id] = state
            self._signals[signal_id] = self._signals[signal_id]._replace(
                state=state.state,
                outcome=state.values.outcome,
                profit_loss_pct=state.values.profit_loss_pct,
            )
        still_held = [fact for fact in self._held if fact[3] not in arrived]
        self._held = [*still_held, *held_facts(changes.held)][-HELD_MAX:]
        for signal_id in list(self._signals)[:-SIGNALS_MAX]:
            del self._signals[signal_id], self._states[signal_id]

    def newest(self) -> tuple[RecentSignal, ...]:
        """The last SIGNALS_MAX signals, newest first."""
        return tuple(reversed(self._signals.values()))
