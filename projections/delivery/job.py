"""What the courier carries, and how it ends: plain data.

Invariant: a parcel knows one signal, by its seq, from the log to Alpine's answer.
"""

from dataclasses import dataclass
from enum import StrEnum

from projections.alpine.retry import Timing
from projections.delivery.outbox import FAILING, Parked


class Errand(StrEnum):
    """Why a signal is sent that is not new."""

    REPLAY = "replay"  # it was done, and Alpine does not have it
    RETRY = "retry"  # it is parked, and a person wants it tried again
    DUE = "due"  # it is parked as failing, and its time has come


@dataclass(slots=True, kw_only=True, eq=False)
class Parcel:
    """One signal on its way. Moments are ticks of the clock in fault.py."""

    seq: int
    signal_id: str
    body: bytes
    errand: Errand | None = None  # None: it is new
    attempts: int = 0
    failed_at: int | None = None  # when it first failed
    round_failed_at: int | None = None  # the same since its last retries began
    have_others_passed: bool = False  # since it first failed
    have_others_passed_in_round: bool = False
    down_rounds: int = 0
    was_overtaken: bool = False  # in an earlier run a later signal passed, and this one did not

    @property
    def is_parked(self) -> bool:
        """Whether it is parked for as long as it has not passed."""
        return self.errand in (Errand.RETRY, Errand.DUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Alpine has it."""

    is_duplicate: bool = False  # and had it before


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """It is put aside: invalid (REFUSED) or never passing (FAILING)."""

    kind: str
    status: int | None
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """It was parked, and stays so: this try told nothing about it."""

    kind: str
    status: int | None
    body: str


Outcome = Delivered | Park | Kept


def parked_row(
    parcel: Parcel, outcome: Park | Kept, old: Parked | None, *, now_s: float, timing: Timing
) -> Parked:
    """What is kept of it. `old`: what was kept of it before.

    The interval doubles with each try that tells something about the signal.
    """
    kind, status, body = outcome.kind, outcome.status, outcome.body
    if isinstance(outcome, Kept) and old is not None:
        kind, status, body = old.kind, old.status, old.body
    next_at = None
    if kind == FAILING:
        interval_s = timing.failing_s_min
        if old is not None and old.next_at is not None:
            growth = 1 if isinstance(outcome, Kept) else 2
            interval_s = max(interval_s, growth * (old.next_at - old.last_at))
        next_at = now_s + min(interval_s, timing.failing_s_max)
    return Parked(
        seq=parcel.seq,
        signal_id=parcel.signal_id,
        kind=kind,
        status=status,
        body=body,
        attempts=parcel.attempts + (old.attempts if old is not None else 0),
        first_at=old.first_at if old is not None else now_s,
        last_at=now_s,
        next_at=next_at,
    )
