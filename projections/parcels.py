"""What the courier carries, and how it ends: plain data.

Invariant: a parcel knows one signal, by its seq, from the log to Alpine's answer.
"""

from dataclasses import dataclass
from enum import StrEnum


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
