"""How a signal that does not pass is put aside, and when it is tried again. Pure.

Invariant: what is parked as failing has a time at which it is tried again; what is refused has
none.
"""

from projections.outbox import FAILING, Parked
from projections.parcels import Kept, Parcel, Park
from projections.timing import Timing


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
