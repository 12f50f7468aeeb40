"""A delivery job and its outcome: plain data.

Invariant: a job is about one signal, named by its seq, from the log to Alpine's answer.
"""

from dataclasses import dataclass
from enum import StrEnum

from projections.alpine.retry import DeliveryTiming
from projections.delivery.outbox import FAILING
from projections.delivery.outbox_rows import ParkedSignal


class ResendReason(StrEnum):
    """Why a signal is sent again."""

    REPLAY = "replay"  # an operator asked for it: it was done, but Alpine may lack it
    RETRY = "retry"  # it is parked, and an operator asked for another try
    DUE = "due"  # it is parked as failing, and its next retry is due


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One signal to deliver. Times are ticks of the clock in poison.py."""

    seq: int
    signal_id: str
    body: bytes
    resend: ResendReason | None = None  # None: a new signal
    attempts: int = 0
    failed_at: int | None = None  # when it first failed
    round_failed_at: int | None = None  # the same within its latest round of retries
    have_others_passed: bool = False  # since `failed_at`
    have_others_passed_in_round: bool = False  # since `round_failed_at`
    down_rounds: int = 0  # rounds without an answer while others passed
    was_overtaken: bool = False  # in an earlier run a later signal passed and this one did not

    @property
    def is_parked(self) -> bool:
        """Whether the signal is parked, and stays so until it is delivered."""
        return self.resend in (ResendReason.RETRY, ResendReason.DUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Alpine has the signal."""

    is_duplicate: bool = False  # Alpine had it before


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """The signal is parked: invalid (REFUSED), or a poison message (FAILING)."""

    kind: str
    status: int | None
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepParked:
    """The signal stays parked: the answer says nothing about the signal itself."""

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
    """The row to store for a parked signal. `previous`: its row before this try.

    The retry interval doubles with each answer that concerns the signal itself.
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
