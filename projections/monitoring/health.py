"""Decides whether a daemon is healthy. A condition is reported once it has persisted.

    unhealthy   this process does not keep its projections up to date: for too long a projection
                lags behind the end of the log or is not open, its file watch is dead, or the log
                cannot be read; or, at once, every projection has failed or the daemon stops
    degraded    a projection has failed, reported at once, or Alpine has accepted nothing for too
                long. A restart would not help, and would also interrupt the other projections, so
                the HTTP status stays 200
    ok          none of these; the daemon may wait for the first entry

Durations are measured by the monotonic clock of this process: neither a changed system clock nor
entries recorded by a clock in the future hide a projection that hangs.

Invariant: no reason contains text of a payload, of a key, or of an answer of Alpine; only a plug-in
projection that fails is quoted, in the words of its own error.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from eventlog.plumbing import WAITING as MIRROR_WAITING
from eventlog.plumbing import count_text, duration_text
from projections.monitoring.snapshot import ProjectionSnapshot, Snapshot
from projections.runtime.home_log import WAITING_TEXT

OK, DEGRADED, UNHEALTHY = "ok", "degraded", "unhealthy"

LOG_ENDS_MAX = 1_000  # ends of the log remembered per projection; beyond it every second is dropped

_NOT_DELIVERING = {
    "waiting": "Alpine accepts nothing: no answer, 429 or 5xx",
    "refused": "Alpine refuses the key or the address",
    "rejecting": "Alpine rejects every signal",
}
_IDLE = {*_NOT_DELIVERING, "disabled"}  # states in which a lag of delivery has an outside cause


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthResult:
    """One of OK, DEGRADED and UNHEALTHY, with its reasons."""

    status: str
    reasons: tuple[str, ...]


class _Condition(NamedTuple):
    """Something that is wrong now."""

    text: str  # identifies the condition, so it stays the same while the condition persists
    since_s: float | None = None  # None: since the first snapshot that has it
    is_local: bool = True  # a fault of this process or its disk, not of Alpine
    detail: str = ""  # may differ from one snapshot to the next


class _SeenEnd(NamedTuple):
    seen_s: float
    last_seq: int


class Health:
    """Evaluates one snapshot after the other, and remembers when each condition began.

    A condition is reported after `unhealthy_after_s`.
    """

    def __init__(self, unhealthy_after_s: float) -> None:
        self._after_s = unhealthy_after_s
        self._since: dict[str, float] = {}
        # By projection: the ends of the log that its checkpoint has not reached yet.
        self._log_ends: dict[str, deque[_SeenEnd]] = {}

    def evaluate(self, snapshot: Snapshot, *, now_s: float) -> HealthResult:
        """The health at `now_s`, which is a time of a monotonic clock."""
        if snapshot.is_waiting:
            return HealthResult(status=OK, reasons=(WAITING_TEXT,))
        immediate = [*_none_runs(snapshot), *_stopping(snapshot)]
        local: list[str] = []
        external = list(_failures(snapshot))
        conditions = list(self._conditions(snapshot, now_s))
        self._since = {c.text: self._since.get(c.text, now_s) for c in conditions}
        for text, since_s, is_local, detail in conditions:
            lasted_s = now_s - (self._since[text] if since_s is None else since_s)
            if lasted_s >= self._after_s:
                reasons = local if is_local else external
                reasons.append(f"{text}{detail}, for {duration_text(lasted_s)}")
        status = UNHEALTHY if immediate or local else DEGRADED if external else OK
        return HealthResult(status=status, reasons=(*immediate, *local, *external))

    def _conditions(self, snapshot: Snapshot, now_s: float) -> Iterator[_Condition]:
        if snapshot.log is None:
            yield _Condition("the log cannot be read", detail=f" ({snapshot.problem})")
        for projection in snapshot.projections:
            if projection.failure is not None:
                self._log_ends.pop(projection.name, None)
                continue
            state = projection.delivery.state if projection.delivery is not None else ""
            if state in _NOT_DELIVERING:
                yield _Condition(f"alpine is {state} ({_NOT_DELIVERING[state]})", is_local=False)
            if projection.mirror is not None and projection.mirror.state == MIRROR_WAITING:
                # Its lag has an outside cause, which a restart would not remove.
                yield _Condition("mirror is waiting (NATS accepts nothing)", is_local=False)
                self._log_ends.pop(projection.name, None)
                continue
            if projection.is_watched is False:
                yield _Condition(f"{projection.name} gets no file events: its watch is dead")
            if projection.checkpoint is None:
                yield _Condition(f"{projection.name} is not open", detail=_stall_detail(projection))
            elif state in _IDLE:
                self._log_ends.pop(projection.name, None)
            elif snapshot.log is not None:
                yield from self._lag_conditions(
                    projection, projection.checkpoint, snapshot.log.last_kept, now_s
                )

    def _lag_conditions(
        self, projection: ProjectionSnapshot, checkpoint: int, last_seq: int, now_s: float
    ) -> Iterator[_Condition]:
        log_ends = self._log_ends.setdefault(projection.name, deque())
        while log_ends and log_ends[0].last_seq <= checkpoint:
            log_ends.popleft()
        if checkpoint < last_seq and (not log_ends or log_ends[-1].last_seq < last_seq):
            log_ends.append(_SeenEnd(now_s, last_seq))
        if len(log_ends) > LOG_ENDS_MAX:
            self._log_ends[projection.name] = deque(list(log_ends)[::2])
        if log_ends:
            entries = count_text(last_seq - checkpoint, "entry")
            behind = f" by {entries}{_stall_detail(projection)}"
            text = f"{projection.name} is behind the end of the log"
            yield _Condition(text, since_s=log_ends[0].seen_s, detail=behind)


def _none_runs(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.projections and all(p.failure is not None for p in snapshot.projections):
        yield "no projection runs"


def _stopping(snapshot: Snapshot) -> Iterator[str]:
    if any(projection.is_stopping for projection in snapshot.projections):
        yield "the daemon is stopping"


def _failures(snapshot: Snapshot) -> Iterator[str]:
    """One reason for each projection that has failed; reported at once."""
    for projection in snapshot.projections:
        if projection.failure is not None:
            yield f"{projection.name} has failed ({failure_reason(projection)})"


def failure_reason(projection: ProjectionSnapshot) -> str | None:
    """Why the projection has failed.

    A foreign error of delivery may quote an answer of Alpine, so only its class is given.
    """
    failure = projection.failure
    if failure is None:
        return None
    return failure.kind if failure.is_foreign and projection.is_external else failure.reason


def _stall_detail(projection: ProjectionSnapshot) -> str:
    # The reason that delivery stalls quotes Alpine, whose answer may repeat a payload.
    return (
        "" if projection.stalled is None or projection.is_external else f" ({projection.stalled})"
    )
