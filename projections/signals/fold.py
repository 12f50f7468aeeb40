"""The fold: turns entries of the log into changes of the tables in schema.py. Pure.

It has two steps:

    prepare(entries)           handles each entry alone: rows, facts, malformed payloads
    resolve(prepared, states)  decides what depends on earlier entries: duplicates, transitions

- The live projection prepares a batch, reads the states of its `signal_ids` with SELECT_STATES and
  the held facts of its `new_ids` with SELECT_HELD, resolves it, and executes `statements` in the
  transaction that moves its checkpoint.
- A rebuild prepares in one process and resolves in another: a prepared batch is plain tuples, which
  marshal carries. It reads the states of `fact_ids` alone. A duplicate signal_id, which is rare,
  makes INSERT_SIGNAL fail on the UNIQUE column; then it deletes the rows of that batch by id and
  resolves the batch again with the states of all `signal_ids`.

A fact whose signal has not arrived yet is held. When the signal arrives, its held facts are applied
before the other facts of that batch, which is the order of the log.

Invariant: every entry of a known event becomes either its rows, or one row of `conflicts` with the
reason; no payload raises. The changes do not depend on how a log is divided into batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from eventlog import Entry
from projections.signals import schema
from projections.signals.payloads import read_fact, read_id, read_signal
from projections.signals.states import NO_VALUES, Fact, SignalState, apply_fact, state_of_row
from projections.signals.transitions import FACT_EVENTS, SIGNAL

# The reasons in `conflicts`; states.py and payloads.py have the others.
NO_SIGNAL_YET = "no such signal yet"
SAME_CONTENT = "duplicate signal_id with the same content"
OTHER_CONTENT = "duplicate signal_id with other content"
GAP = "entries {first} to {last} are damaged in the log"

NO_DETAIL = "{}"  # the payload of a held fact without other keys


class PreparedBatch(NamedTuple):
    """A batch after the first step; each list is in the order of the log."""

    signals: Sequence[schema.SignalRow]
    extras: Sequence[schema.ExtraRow]
    lifecycle: Sequence[schema.SignalLifecycleRow]
    facts: Sequence[Fact]
    conflicts: Sequence[schema.ConflictRow]


class TableChanges(NamedTuple):
    """Rows for the statements of schema.py. No two in one list change the same row."""

    signals: Sequence[schema.SignalRow]
    extras: Sequence[schema.ExtraRow]
    signal_lifecycle: Sequence[schema.SignalLifecycleRow]
    conflicts: Sequence[schema.ConflictRow]
    lifecycle: Sequence[schema.LifecycleRow] = ()  # of the facts
    values: Sequence[schema.ValuesRow] = ()
    held: Sequence[schema.HeldRow] = ()
    released: Sequence[tuple[int]] = ()  # seqs of facts that are no longer held
    states: Mapping[str, SignalState] = {}  # of the signals that facts of this batch are about


def prepare(entries: Sequence[Entry], *, after: int) -> PreparedBatch:
    """The first step of the fold. `after` is the seq of the entry before the first.

    Entries ascend. A gap (damage that a person accepted) becomes one conflict at its first seq. A
    payload holds JSON values. Entries of unknown events are ignored.
    """
    signals: list[schema.SignalRow] = []
    extras: list[schema.ExtraRow] = []
    lifecycle: list[schema.SignalLifecycleRow] = []
    facts: list[Fact] = []
    conflicts: list[schema.ConflictRow] = []
    if entries and entries[-1].seq - after != len(entries):
        conflicts.extend(_gaps(entries, after))
    last_recorded_at = created_at = ""
    for seq, _, recorded_at, event, payload, _, _ in entries:
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
            lifecycle.append((seq, values[0], recorded_at))
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
    return new_ids(prepared) | fact_ids(prepared)


def fact_ids(prepared: PreparedBatch) -> set[str]:
    """The signal_ids of the facts: enough for a caller that finds duplicate signals itself."""
    return {fact[3] for fact in prepared.facts}


def new_ids(prepared: PreparedBatch) -> set[str]:
    """The signal_ids of the signals: those whose held facts `resolve` needs."""
    return {row[1] for row in prepared.signals}


def resolve(
    prepared: PreparedBatch,
    states: Mapping[str, SignalState],
    held: Sequence[Fact] = (),
) -> TableChanges:
    """The second step: the changes of a batch, given what is stored about its signals before it.

    `states` holds every id of `signal_ids(prepared)` that exists, and `held` the held facts of
    `new_ids(prepared)` in the order of the log. Both may hold more.
    """
    new_signals = {row[1]: row for row in prepared.signals}
    if len(new_signals) != len(prepared.signals) or not new_signals.keys().isdisjoint(
        states.keys()
    ):
        prepared, new_signals = _without_duplicates(prepared, states)
    held = [fact for fact in held if fact[3] in new_signals]
    if not prepared.facts and not held:
        signals, extras, lifecycle, _, conflicts = prepared
        return TableChanges(signals, extras, lifecycle, conflicts)
    return _with_facts(prepared, new_signals, states, held)


def statements(changes: TableChanges) -> Iterator[tuple[str, Sequence[tuple[object, ...]]]]:
    """Yields each statement with its rows, in the order in which they must be executed."""
    for statement, rows in (
        (schema.DELETE_HELD, changes.released),
        (schema.DELETE_CONFLICT, changes.released),
        (schema.INSERT_SIGNAL, changes.signals),
        (schema.SET_VALUES, changes.values),
        (schema.INSERT_EXTRA, changes.extras),
        (schema.INSERT_SIGNAL_LIFECYCLE, changes.signal_lifecycle),
        (schema.INSERT_LIFECYCLE, changes.lifecycle),
        (schema.INSERT_CONFLICT, changes.conflicts),
        (schema.INSERT_HELD, changes.held),
    ):
        if rows:
            yield statement, rows


def ids_json(ids: set[str]) -> str:
    """The parameter of SELECT_STATES and SELECT_HELD."""
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
    states: Mapping[str, SignalState],
    held: Sequence[Fact],
) -> TableChanges:
    lifecycle: list[schema.LifecycleRow] = []
    conflicts = list(prepared.conflicts)
    still_held: list[schema.HeldRow] = []
    current: dict[str, SignalState] = {}
    for fact in (*held, *prepared.facts):
        seq, event, recorded_at, signal_id, detail = fact[:5]
        state = current.get(signal_id) or states.get(signal_id)
        if state is None:
            if signal_id not in new_signals:
                conflicts.append((seq, signal_id, NO_SIGNAL_YET))
                still_held.append((seq, signal_id, event, recorded_at, detail or NO_DETAIL))
                continue
            state = state_of_row(new_signals[signal_id])
        after = apply_fact(state, fact)
        if isinstance(after, str):
            conflicts.append((seq, signal_id, after))
            continue
        current[signal_id] = after
        known_seq = max(seq, after.id)
        lifecycle.append(
            (seq, signal_id, event, recorded_at, detail, known_seq, after.state, *after.values)
        )
    return TableChanges(
        prepared.signals,
        prepared.extras,
        prepared.lifecycle,
        conflicts,
        lifecycle,
        values=[
            (*state.values[:4], state.id)
            for signal_id, state in current.items()
            if state.values[:4]
            != (states[signal_id].values if signal_id in states else NO_VALUES)[:4]
        ],
        held=still_held,
        released=[(fact[0],) for fact in held],
        states=current,
    )


def _gaps(entries: Sequence[Entry], after: int) -> Iterator[schema.ConflictRow]:
    for entry in entries:
        if entry.seq <= after:
            raise ValueError(f"entry {entry.seq} comes after entry {after}")
        if entry.seq != after + 1:
            yield after + 1, None, GAP.format(first=after + 1, last=entry.seq - 1)
        after = entry.seq
