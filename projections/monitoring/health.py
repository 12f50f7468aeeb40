"""Whether a daemon is well, judged over time: a trouble counts once it has lasted.

    unhealthy   this process does not keep its projections up: one is behind the log's end, or not
                open, for too long; one has stopped; it is not told of changes; it is stopping; the
                log cannot be read
    degraded    Alpine takes nothing, for too long. Starting this process again would not help, and
                would only take the table away for a moment, so it is no reason to do so
    ok          none of these

Durations are of this process's own steady clock: neither a clock that was set nor entries that come
from a clock in the future hide that a projection hangs.

Invariant: no reason holds a word of a payload, of a key, or of what Alpine answered.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from projections.monitoring.snapshot import ProjectionSnapshot, Snapshot

OK, DEGRADED, UNHEALTHY = "ok", "degraded", "unhealthy"

LOG_ENDS_MAX = 1_000  # ends of the log that are remembered; beyond, every second one is forgotten

_NOT_DELIVERING = {
    "waiting": "Alpine takes nothing: no answer, 429 or 5xx",
    "refused": "Alpine refuses the key or the address",
    "rejecting": "Alpine rejects every signal",
}
_IDLE = {*_NOT_DELIVERING, "disabled"}  # states in which a lag of delivery is no fault of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthResult:
    """One of OK, DEGRADED and UNHEALTHY, and why."""

    status: str
    reasons: tuple[str, ...]


class _Condition(NamedTuple):
    """What is not as it should be."""

    text: str  # the same words for as long as it is the same trouble
    since_s: float | None = None  # None: since it is seen
    is_local: bool = True
    detail: str = ""  # may differ from one look to the next


class _LogEnd(NamedTuple):
    at_s: float
    last_seq: int


class Health:
    """Remembers since when each trouble is there; it counts after `unhealthy_after_s`. Give it each look."""

    def __init__(self, unhealthy_after_s: float) -> None:
        self._after_s = unhealthy_after_s
        self._since: dict[str, float] = {}
        self._log_ends: dict[
            str, deque[_LogEnd]
        ] = {}  # ends of the log that were not reached, by name

    def evaluate(self, snapshot: Snapshot, *, now_s: float) -> HealthResult:
        """What is to be said now; `now_s` is of a clock that never goes back."""
        now = list(_immediate_reasons(snapshot))
        ours: list[str] = []
        others: list[str] = []
        conditions = list(self._conditions(snapshot, now_s))
        self._since = {t.text: self._since.get(t.text, now_s) for t in conditions}
        for condition in conditions:
            since_s = (
                self._since[condition.text] if condition.since_s is None else condition.since_s
            )
            lasted_s = now_s - since_s
            if lasted_s >= self._after_s:
                text = f"{condition.text}{condition.detail}, for {lasted_s:.0f} s"
                (ours if condition.is_local else others).append(text)
        status = UNHEALTHY if now or ours else DEGRADED if others else OK
        return HealthResult(status=status, reasons=(*now, *ours, *others))

    def _conditions(self, snapshot: Snapshot, now_s: float) -> Iterator[_Condition]:
        if snapshot.log is None:
            yield _Condition("the log cannot be read", detail=f" ({snapshot.problem})")
        for projection in snapshot.projections:
            state = projection.delivery.state if projection.delivery is not None else ""
            if state in _NOT_DELIVERING:
                yield _Condition(f"alpine is {state} ({_NOT_DELIVERING[state]})", is_local=False)
            if projection.is_watched is False:
                yield _Condition(
                    f"{projection.name} is not told of new entries: the file watch is dead"
                )
            if projection.checkpoint is None:
                yield _Condition(f"{projection.name} is not open", detail=_stall_detail(projection))
            elif state in _IDLE:
                self._log_ends.pop(projection.name, None)
            elif snapshot.log is not None:
                yield from self._lag_conditions(
                    projection, projection.checkpoint, snapshot.log.last_seq, now_s
                )

    def _lag_conditions(
        self, projection: ProjectionSnapshot, checkpoint: int, last_seq: int, now_s: float
    ) -> Iterator[_Condition]:
        log_ends = self._log_ends.setdefault(projection.name, deque())
        while log_ends and log_ends[0].last_seq <= checkpoint:
            log_ends.popleft()
        if checkpoint < last_seq and (not log_ends or log_ends[-1].last_seq < last_seq):
            log_ends.append(_LogEnd(now_s, last_seq))
        if len(log_ends) > LOG_ENDS_MAX:
            self._log_ends[projection.name] = deque(list(log_ends)[::2])
        if log_ends:
            behind = f" by {last_seq - checkpoint} entries{_stall_detail(projection)}"
            text = f"{projection.name} is behind the end of the log"
            yield _Condition(text, since_s=log_ends[0].at_s, detail=behind)


def _immediate_reasons(snapshot: Snapshot) -> Iterator[str]:
    """What need not last to be told."""
    for projection in snapshot.projections:
        if projection.has_failed:
            yield f"{projection.name} has stopped: the daemon ends, and its last message says why"
    if any(projection.is_stopping for projection in snapshot.projections):
        yield "the daemon is stopping"


def _stall_detail(projection: ProjectionSnapshot) -> str:
    # What stalls delivery is told in the words of the other side, which may repeat a payload.
    return (
        "" if projection.stalled is None or projection.is_external else f" ({projection.stalled})"
    )
