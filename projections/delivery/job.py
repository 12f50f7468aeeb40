"""What the courier carries, and how it ends: plain data.

Invariant: a parcel knows one signal, by its seq, from the log to Alpine's answer.
"""

from dataclasses import dataclass
from enum import StrEnum

from projections.alpine.retry import DeliveryTiming
from projections.delivery.outbox import FAILING, ParkedSignal


class ResendReason(StrEnum):
    """Why a signal is sent that is not new."""

    REPLAY = "replay"  # it was done, and Alpine does not have it
    RETRY = "retry"  # it is parked, and a person wants it tried again
    DUE = "due"  # it is parked as failing, and its time has come


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One signal on its way. Moments are ticks of the clock in fault.py."""

    seq: int
    signal_id: str
    body: bytes
    resend: ResendReason | None = None  # None: it is new
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
        return self.resend in (ResendReason.RETRY, ResendReason.DUE)


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
class KeepParked:
    """It was parked, and stays so: this try told nothing about it."""

    kind: str
    status: int | None
    body: str


Outcome = Delivered | Park | KeepParked


def parked_row(
    job: Job,
    outcome: Park | KeepParked,
    previous: ParkedSignal | None,
    *,
    now_s: float,
    timing: DeliveryTiming,
) -> ParkedSignal:
    """What is kept of it. `previous`: what was kept of it before.

    The interval doubles with each try that tells something about the signal.
    """
    kind, status, body = outcome.kind, outcome.status, outcome.body
    if isinstance(outcome, KeepParked) and previous is not None:
        kind, status, body = previous.kind, previous.status, previous.body
    next_at = None
    if kind == FAILING:
        interval_s = timing.failing_s_min
        if previous is not None and previous.next_at is not None:
            growth = 1 if isinstance(outcome, KeepParked) else 2
            interval_s = max(interval_s, growth * (previous.next_at - previous.last_at))
        next_at = now_s + min(interval_s, timing.failing_s_max)
    return ParkedSignal(
        seq=job.seq,
        signal_id=job.signal_id,
        kind=kind,
        status=status,
        body=body,
        attempts=job.attempts + (previous.attempts if previous is not None else 0),
        first_at=previous.first_at if previous is not None else now_s,
        last_at=now_s,
        next_at=next_at,
    )
