"""The state of one signal, and how a fact changes it. Pure.

The facts in force are a stack: a fact goes on top, `voided` takes the top off. Each of them holds
the values that the signal had after it, so going back needs no other data. The rows of `lifecycle`
give the same stack again.

Invariant: a fact either applies, or is a conflict whose reason says why; no fact raises.
"""

from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple, TypeAlias

from projections.errors import ProjectionError
from projections.signals import schema
from projections.signals.payloads import FactValues, read_detail
from projections.signals.position import NO_PARTS, ClosedParts
from projections.signals.transitions import (
    CLOSED,
    EXECUTED,
    OPEN,
    REDUCED,
    VOIDED,
    is_allowed,
    outcome_of,
    profit_loss_pct_of,
)

# The reasons in `conflicts`; fold.py and payloads.py have others.
ILLEGAL_TRANSITION = "illegal move {state} -> {event}"
OUT_OF_RANGE = "profit_loss_pct is not finite"
NO_REST = "the parts would be the whole position: send closed for the rest"
SAME_PART = "part {part} was already recorded by entry {seq}"
NOTHING_TO_VOID = "no applied fact of this signal is left to void"
OTHER_FACT = "voids entry {voids}, but the last applied fact of this signal is entry {seq}"

Fact: TypeAlias = tuple[int, str, str, *FactValues]  # seq, event, recorded_at, values


class Values(NamedTuple):
    """The columns that facts set, and the seqs of the `executed` and `closed` that are in force."""

    order_id: str | None = None
    outcome: str | None = None
    exit_price: float | None = None
    profit_loss_pct: float | None = None
    executed_seq: int | None = None
    closed_seq: int | None = None


NO_VALUES = Values()


class AppliedFact(NamedTuple):
    """A fact in force, and what is known of the signal after it."""

    seq: int
    event: str
    values: Values
    part: int | None = None  # of `reduced`
    parts: ClosedParts = NO_PARTS


class SignalState(NamedTuple):
    """The part of a signal on which later entries depend."""

    id: int  # its seq
    action: str
    entry_price: float
    sha256: str
    applied: tuple[AppliedFact, ...] = ()  # the facts in force, in the order of application

    @property
    def state(self) -> str:
        """`open`, or the event of the last fact in force."""
        return self.applied[-1].event if self.applied else OPEN

    @property
    def values(self) -> Values:
        """The values after the last fact in force."""
        return self.applied[-1].values if self.applied else NO_VALUES


def state_of_row(row: schema.SignalRow) -> SignalState:
    """The state of a new signal."""
    return SignalState(row[0], row[3], row[4], row[12])


def states_of(rows: Iterable[schema.StateRow]) -> dict[str, SignalState]:
    """The rows that SELECT_STATES returned, by signal_id.

    Raises ProjectionError where another program has changed the detail of a fact.
    """
    states: dict[str, SignalState] = {}
    facts: list[schema.StateRow] = []
    for row in rows:
        states[row[0]] = SignalState(*row[1:5])
        if row[5] is not None:
            facts.append(row)
    facts.sort(key=_fact_seq)
    for row in facts:
        signal_id, seq, event, detail = row[0], _fact_seq(row), row[6], row[7]
        state = states[signal_id]
        if event == VOIDED:
            applied = state.applied[:-1]
        else:
            fact = AppliedFact(seq, event, Values(*row[8:]))
            if event == REDUCED:
                fact = _with_part(fact, state, _read_stored(seq, event, signal_id, detail or ""))
            applied = (*state.applied, fact)
        states[signal_id] = state._replace(applied=applied)
    return states


def held_facts(rows: Iterable[schema.HeldRow]) -> list[Fact]:
    """The facts in rows that SELECT_HELD returned, in the order of the log.

    Raises ProjectionError where another program has changed one.
    """
    return [
        (seq, event, recorded_at, *_read_stored(seq, event, signal_id, payload))
        for seq, signal_id, event, recorded_at, payload in sorted(rows)
    ]


def apply_fact(state: SignalState, fact: Fact) -> SignalState | str:
    """The state after the fact; or the reason why it does not fit."""
    seq, event = fact[:2]
    applied = state.applied
    if event == VOIDED:
        voids = fact[-1]
        if not applied:
            return NOTHING_TO_VOID
        if voids != applied[-1].seq:
            return OTHER_FACT.format(voids=voids, seq=applied[-1].seq)
        return state._replace(applied=applied[:-1])
    if not is_allowed(state.state, event):
        return ILLEGAL_TRANSITION.format(state=state.state, event=event)
    if event == REDUCED:
        added: AppliedFact | str = _reduced(state, fact)
    elif event == CLOSED:
        added = _closed(state, fact)
    elif event == EXECUTED:
        values = state.values._replace(order_id=fact[5], executed_seq=seq)
        added = AppliedFact(seq, event, values)
    else:
        added = AppliedFact(seq, event, state.values)
    if isinstance(added, str):
        return added
    return state._replace(applied=(*applied, added))


def _fact_seq(row: schema.StateRow) -> int:
    return row[5] or 0


def _with_part(fact: AppliedFact, state: SignalState, detail: FactValues) -> AppliedFact:
    """A stored `reduced` with its part."""
    _, _, _, exit_price, _, _, part, fraction, _ = detail
    assert exit_price is not None, "read_fact requires it"
    assert fraction is not None, "read_fact requires it"
    return fact._replace(part=part, parts=_parts_of(state).with_part(fraction, exit_price))


def _read_stored(seq: int, event: str, signal_id: str, detail: str) -> FactValues:
    read = read_detail(event, signal_id, detail)
    if isinstance(read, str):
        raise ProjectionError(
            f"the table does not hold entry {seq} as the log has it: {read}",
            do="another program has changed the database: run `eventlog rebuild-database`",
        )
    return read


def _parts_of(state: SignalState) -> ClosedParts:
    return state.applied[-1].parts if state.applied else NO_PARTS


def _reduced(state: SignalState, fact: Fact) -> AppliedFact | str:
    seq, event, _, _, _, _, exit_price, _, _, part, fraction, _ = fact
    assert exit_price is not None, "read_fact requires it"
    assert fraction is not None, "read_fact requires it"
    for earlier in state.applied:
        if earlier.part == part:
            return SAME_PART.format(part=part, seq=earlier.seq)
    parts = _parts_of(state).with_part(fraction, exit_price)
    if parts.leaves_no_rest():
        return NO_REST
    pct = parts.profit_loss_pct(state.action, entry_price=state.entry_price)
    if not isfinite(pct):
        return OUT_OF_RANGE
    values = state.values._replace(exit_price=parts.exit_price(), profit_loss_pct=pct)
    return AppliedFact(seq, event, values, part, parts)


def _closed(state: SignalState, fact: Fact) -> AppliedFact | str:
    seq, event, _, _, _, _, exit_price, outcome, pct, *_ = fact
    assert exit_price is not None, "read_fact requires it"
    parts = _parts_of(state)
    if parts.fraction:
        parts = parts.with_rest(exit_price)
        exit_price = parts.exit_price()
        if pct is None:
            pct = parts.profit_loss_pct(state.action, entry_price=state.entry_price)
    elif pct is None:
        pct = profit_loss_pct_of(state.action, entry_price=state.entry_price, exit_price=exit_price)
    if not isfinite(pct):
        return OUT_OF_RANGE
    values = state.values._replace(
        outcome=outcome or outcome_of(pct),
        exit_price=exit_price,
        profit_loss_pct=pct,
        closed_seq=seq,
    )
    return AppliedFact(seq, event, values)
