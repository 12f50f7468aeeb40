"""The fold: turns entries of the log into changes of the tables in schema.py. Pure.

It has two steps:

    prepare(entries)           handles each entry alone: rows, facts, malformed payloads
    resolve(prepared, states)  decides what depends on earlier entries: duplicates, transitions

- The live projection prepares a batch, reads the states of its `signal_ids` with SELECT_STATES,
  resolves it, and executes `statements` in the transaction that moves its checkpoint.
- A rebuild prepares in one process and resolves in another: a prepared batch is plain tuples, which
  marshal carries. It reads the states of `fact_ids` alone. A duplicate signal_id, which is rare,
  makes INSERT_SIGNAL fail on the UNIQUE column; then it deletes the rows of that batch by id and
  resolves the batch again with the states of all `signal_ids`.

Invariant: every entry of a known event becomes either its rows, or one row of `conflicts` with the
reason; no payload raises. The changes do not depend on how a log is divided into batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple, TypeAlias

import orjson

from eventlog import Entry
from projections.signals import schema
from projections.signals.payloads import FactValues, read_fact, read_id, read_signal
from projections.signals.transitions import (
    CLOSED,
    FACT_EVENTS,
    SIGNAL,
    is_allowed,
    outcome_of,
    profit_loss_pct_of,
)

# The reasons in `conflicts`; payloads.py has those of malformed payloads.
UNKNOWN_SIGNAL = "unknown signal"
SAME_CONTENT = "duplicate signal_id with the same content"
OTHER_CONTENT = "duplicate signal_id with other content"
ILLEGAL_TRANSITION = "illegal move {before} -> {event}"
OUT_OF_RANGE = "profit_loss_pct is not finite"
GAP = "entries {first} to {last} are damaged in the log"

Fact: TypeAlias = tuple[int, str, str, *FactValues]  # seq, event, recorded_at, values


class PreparedBatch(NamedTuple):
    """A batch after the first step; each list is in the order of the log."""

    signals: Sequence[schema.SignalRow]
    extras: Sequence[schema.ExtraRow]
    lifecycle: Sequence[schema.LifecycleRow]  # of the signals only
    facts: Sequence[Fact]
    conflicts: Sequence[schema.ConflictRow]


class SignalState(NamedTuple):
    """The part of a signal on which later entries depend."""

    id: int  # its seq
    event: str  # the last one that applied to it
    action: str
    entry_price: float
    target_price: float
    stop_price: float
    sha256: str


class TableChanges(NamedTuple):
    """Rows for the statements of schema.py. No two in one list change the same row."""

    signals: Sequence[schema.SignalRow]
    orders: Sequence[schema.OrderRow]
    outcomes: Sequence[schema.OutcomeRow]
    extras: Sequence[schema.ExtraRow]
    lifecycle: Sequence[schema.LifecycleRow]
    conflicts: Sequence[schema.ConflictRow]


def prepare(entries: Sequence[Entry], *, after: int) -> PreparedBatch:
    """The first step of the fold. `after` is the seq of the entry before the first.

    Entries ascend. A gap (damage that a person accepted) becomes one conflict at its first seq. A
    payload holds JSON values. Entries of unknown events are ignored.
    """
    signals: list[schema.SignalRow] = []
    extras: list[schema.ExtraRow] = []
    lifecycle: list[schema.LifecycleRow] = []
    facts: list[Fact] = []
    conflicts: list[schema.ConflictRow] = []
    if entries and entries[-1].seq - after != len(entries):
        conflicts.extend(_gaps(entries, after))
    last_recorded_at = created_at = ""
    for seq, _, recorded_at, event, payload, _ in entries:
        if event == SIGNAL:
            read = read_signal(payload)
            if isinstance(read, str):
                conflicts.append((seq, read_id(payload.get("signal_id")), read))
                continue
            values, extra = read
            if recorded_at != last_recorded_at:  # the entries of one durable write share it
                last_recorded_at, created_at = (
                    recorded_at,
                    f"{recorded_at[:10]} {recorded_at[11:19]}",
                )
            signals.append((seq, *values, created_at))
            lifecycle.append((seq, values[0], SIGNAL, recorded_at, None))
            if extra is not None:
                extras.append((seq, values[0], extra))
        elif event in FACT_EVENTS:
            parsed = read_fact(event, payload)
            if isinstance(parsed, str):
                conflicts.append((seq, read_id(payload.get("signal_id")), parsed))
            else:
                facts.append((seq, event, recorded_at, *parsed))
    return PreparedBatch(signals, extras, lifecycle, facts, conflicts)


def signal_ids(prepared: PreparedBatch) -> set[str]:
    """The signal_ids whose states `resolve` needs, where they exist."""
    return {row[1] for row in prepared.signals} | fact_ids(prepared)


def fact_ids(prepared: PreparedBatch) -> set[str]:
    """The signal_ids of the facts: enough for a caller that finds duplicate signals itself."""
    return {fact[3] for fact in prepared.facts}


def states_of(
    rows: Sequence[tuple[str, int, str, str, float, float, float, str]],
) -> dict[str, SignalState]:
    """The rows that SELECT_STATES returned, by signal_id."""
    return {row[0]: SignalState(*row[1:]) for row in rows}


def resolve(prepared: PreparedBatch, states: Mapping[str, SignalState]) -> TableChanges:
    """The second step: the changes of a batch, given the states of its signals before it.

    `states` holds every id of `signal_ids(prepared)` that exists, and may hold more.
    """
    new_signals = {row[1]: row for row in prepared.signals}
    if len(new_signals) != len(prepared.signals) or not new_signals.keys().isdisjoint(
        states.keys()
    ):
        prepared, new_signals = _without_duplicates(prepared, states)
    signals, extras, lifecycle, facts, conflicts = prepared
    if not facts:
        return TableChanges(signals, (), (), extras, lifecycle, conflicts)
    return _with_facts(prepared, new_signals, dict(states))


def statements(changes: TableChanges) -> Iterator[tuple[str, Sequence[tuple[object, ...]]]]:
    """Yields each statement with its rows, in the order in which they must be executed."""
    for statement, rows in (
        (schema.INSERT_SIGNAL, changes.signals),
        (schema.SET_ORDER, changes.orders),
        (schema.SET_OUTCOME, changes.outcomes),
        (schema.INSERT_EXTRA, changes.extras),
        (schema.INSERT_LIFECYCLE, changes.lifecycle),
        (schema.INSERT_CONFLICT, changes.conflicts),
    ):
        if rows:
            yield statement, rows


def ids_json(ids: set[str]) -> str:
    """The parameter of SELECT_STATES."""
    return orjson.dumps(list(ids)).decode()


def _without_duplicates(
    prepared: PreparedBatch, states: Mapping[str, SignalState]
) -> tuple[PreparedBatch, dict[str, schema.SignalRow]]:
    """Keeps the first signal of each signal_id; the others become conflicts."""
    new_signals: dict[str, schema.SignalRow] = {}
    conflicts = list(prepared.conflicts)
    dropped: set[int] = set()
    for row in prepared.signals:
        seq, signal_id, sha256 = row[0], row[1], row[12]
        state = states.get(signal_id)
        if state is None and signal_id not in new_signals:
            new_signals[signal_id] = row
            continue
        known_sha256 = new_signals[signal_id][12] if state is None else state.sha256
        # "Content" in the reason means the nine fields that the hash covers.
        conflicts.append(
            (seq, signal_id, SAME_CONTENT if known_sha256 == sha256 else OTHER_CONTENT)
        )
        dropped.add(seq)
    return PreparedBatch(
        list(new_signals.values()),
        [row for row in prepared.extras if row[0] not in dropped],
        [row for row in prepared.lifecycle if row[0] not in dropped],
        prepared.facts,
        conflicts,
    ), new_signals


def _with_facts(
    prepared: PreparedBatch,
    new_signals: Mapping[str, schema.SignalRow],
    states: dict[str, SignalState],
) -> TableChanges:
    orders: list[schema.OrderRow] = []
    outcomes: list[schema.OutcomeRow] = []
    lifecycle = list(prepared.lifecycle)
    conflicts = list(prepared.conflicts)
    for fact in prepared.facts:
        seq, event, recorded_at, signal_id, detail, order_id, *_ = fact
        state = states.get(signal_id) or _new_signal_state(new_signals.get(signal_id), seq)
        if state is None:
            conflicts.append((seq, signal_id, UNKNOWN_SIGNAL))
            continue
        if not is_allowed(state.event, event):
            reason = ILLEGAL_TRANSITION.format(before=state.event, event=event)
            conflicts.append((seq, signal_id, reason))
            continue
        if event == CLOSED:
            outcome = _outcome(state, fact)
            if outcome is None:
                conflicts.append((seq, signal_id, OUT_OF_RANGE))
                continue
            outcomes.append(outcome)
        elif order_id is not None:
            orders.append((order_id, state.id))
        lifecycle.append((seq, signal_id, event, recorded_at, detail))
        states[signal_id] = SignalState(state.id, event, *state[2:])
    lifecycle.sort()  # by seq: SQLite appends faster than it inserts
    return TableChanges(prepared.signals, orders, outcomes, prepared.extras, lifecycle, conflicts)


def _new_signal_state(row: schema.SignalRow | None, seq: int) -> SignalState | None:
    """The state of a signal of the same batch; None where it comes after `seq`."""
    if row is None or row[0] > seq:
        return None
    return SignalState(row[0], SIGNAL, row[3], row[4], row[5], row[6], row[12])


def _outcome(state: SignalState, fact: Fact) -> schema.OutcomeRow | None:
    """The outcome columns that `closed` sets; None where the profit is not a finite number."""
    *_, exit_price, outcome, pct = fact
    assert exit_price is not None, "read_fact rejects a `closed` without it"
    if outcome is None:
        outcome = outcome_of(
            state.action,
            target_price=state.target_price,
            stop_price=state.stop_price,
            exit_price=exit_price,
        )
    if pct is None:
        pct = profit_loss_pct_of(state.action, entry_price=state.entry_price, exit_price=exit_price)
    return (outcome, exit_price, pct, state.id) if isfinite(pct) else None


def _gaps(entries: Sequence[Entry], after: int) -> Iterator[schema.ConflictRow]:
    for entry in entries:
        if entry.seq <= after:
            raise ValueError(f"entry {entry.seq} comes after entry {after}")
        if entry.seq != after + 1:
            yield after + 1, None, GAP.format(first=after + 1, last=entry.seq - 1)
        after = entry.seq
