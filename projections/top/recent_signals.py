"""The newest signals of a log with their outcomes, kept in memory. Pure.

It uses the fold that fills the signals table (projections.signals.fold), so both agree. Facts about
signals that came before the first applied entry are ignored.

Invariant: it holds at most SIGNALS_MAX signals.
"""

from collections.abc import Sequence
from typing import NamedTuple

from eventlog import Entry
from projections.signals.fold import SignalState, prepare, resolve
from projections.signals.transitions import CLOSED, SIGNAL

SIGNALS_MAX = 200  # more than the lines of a terminal


class RecentSignal(NamedTuple):
    """A signal with its last event."""

    seq: int
    symbol: str
    action: str
    entry_price: float
    target_price: float
    stop_price: float
    confidence: float  # percent
    strategy: str
    timestamp: str  # UTC, in stored form
    event: str = SIGNAL  # the last event that applied
    outcome: str | None = None  # once it is closed
    profit_loss_pct: float | None = None


class RecentSignals:
    """Collects the newest signals from entries that are applied in log order."""

    def __init__(self) -> None:
        self._signals: dict[str, RecentSignal] = {}  # by signal_id, in the order of the log
        self._states: dict[str, SignalState] = {}  # of the same signals

    def apply(self, entries: Sequence[Entry], *, after: int) -> None:
        """Applies a batch; `after` is the seq of the entry before it."""
        changes = resolve(prepare(entries, after=after), self._states)
        for row in changes.signals:
            seq, signal_id, symbol, action, entry, target, stop, confidence, strategy = row[:9]
            self._signals[signal_id] = RecentSignal(
                seq, symbol, action, entry, target, stop, confidence, strategy, timestamp=row[11]
            )
            self._states[signal_id] = SignalState(seq, SIGNAL, action, entry, target, stop, row[12])
        ends = {id_: (outcome, pct) for outcome, _, pct, id_ in changes.outcomes}
        for _, signal_id, event, *_ in changes.lifecycle:
            state, shown = self._states[signal_id], self._signals[signal_id]
            outcome, pct = ends[state.id] if event == CLOSED else (None, None)
            self._states[signal_id] = state._replace(event=event)
            self._signals[signal_id] = shown._replace(
                event=event, outcome=outcome, profit_loss_pct=pct
            )
        for signal_id in list(self._signals)[:-SIGNALS_MAX]:
            del self._signals[signal_id], self._states[signal_id]

    def newest(self) -> tuple[RecentSignal, ...]:
        """The last SIGNALS_MAX signals, newest first."""
        return tuple(reversed(self._signals.values()))
