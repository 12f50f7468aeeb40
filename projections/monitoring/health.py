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

from projections.monitoring.snapshot import Vital, Vitals

OK, DEGRADED, UNHEALTHY = "ok", "degraded", "unhealthy"

MARKS_MAX = 1_000  # ends of the log that are remembered; beyond, every second one is forgotten

_NOT_DELIVERING = {
    "waiting": "Alpine takes nothing: no answer, 429 or 5xx",
    "refused": "Alpine refuses the key or the address",
    "rejecting": "Alpine rejects every signal",
}
_IDLE = {*_NOT_DELIVERING, "disabled"}  # states in which a lag of delivery is no fault of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One of OK, DEGRADED and UNHEALTHY, and why."""

    status: str
    reasons: tuple[str, ...]


class _Trouble(NamedTuple):
    """What is not as it should be."""

    what: str  # the same words for as long as it is the same trouble
    since_s: float | None = None  # None: since it is seen
    is_ours: bool = True
    detail: str = ""  # may differ from one look to the next


class _Mark(NamedTuple):
    at_s: float
    last_seq: int


class Health:
    """Remembers since when each trouble is there; it counts after `after_s`. Give it each look."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since: dict[str, float] = {}
        self._marks: dict[str, deque[_Mark]] = {}  # ends of the log that were not reached, by name

    def judge(self, vitals: Vitals, *, now_s: float) -> Verdict:
        """What is to be said now; `now_s` is of a clock that never goes back."""
        now = list(_at_once(vitals))
        ours: list[str] = []
        others: list[str] = []
        troubles = list(self._troubles(vitals, now_s))
        self._since = {t.what: self._since.get(t.what, now_s) for t in troubles}
        for trouble in troubles:
            since_s = self._since[trouble.what] if trouble.since_s is None else trouble.since_s
            lasted_s = now_s - since_s
            if lasted_s >= self._after_s:
                text = f"{trouble.what}{trouble.detail}, for {lasted_s:.0f} s"
                (ours if trouble.is_ours else others).append(text)
        status = UNHEALTHY if now or ours else DEGRADED if others else OK
        return Verdict(status=status, reasons=(*now, *ours, *others))

    def _troubles(self, vitals: Vitals, now_s: float) -> Iterator[_Trouble]:
        if vitals.log is None:
            yield _Trouble("the log cannot be read", detail=f" ({vitals.problem})")
        for vital in vitals.projections:
            state = vital.delivery.state if vital.delivery is not None else ""
            if state in _NOT_DELIVERING:
                yield _Trouble(f"alpine is {state} ({_NOT_DELIVERING[state]})", is_ours=False)
            if vital.is_watched is False:
                yield _Trouble(f"{vital.name} is not told of new entries: the file watch is dead")
            if vital.checkpoint is None:
                yield _Trouble(f"{vital.name} is not open", detail=_stalled(vital))
            elif state in _IDLE:
                self._marks.pop(vital.name, None)
            elif vitals.log is not None:
                yield from self._behind(vital, vital.checkpoint, vitals.log.last_seq, now_s)

    def _behind(
        self, vital: Vital, checkpoint: int, last_seq: int, now_s: float
    ) -> Iterator[_Trouble]:
        marks = self._marks.setdefault(vital.name, deque())
        while marks and marks[0].last_seq <= checkpoint:
            marks.popleft()
        if checkpoint < last_seq and (not marks or marks[-1].last_seq < last_seq):
            marks.append(_Mark(now_s, last_seq))
        if len(marks) > MARKS_MAX:
            self._marks[vital.name] = deque(list(marks)[::2])
        if marks:
            behind = f" by {last_seq - checkpoint} entries{_stalled(vital)}"
            what = f"{vital.name} is behind the end of the log"
            yield _Trouble(what, since_s=marks[0].at_s, detail=behind)


def _at_once(vitals: Vitals) -> Iterator[str]:
    """What need not last to be told."""
    for vital in vitals.projections:
        if vital.has_failed:
            yield f"{vital.name} has stopped: the daemon ends, and its last message says why"
    if any(vital.is_stopping for vital in vitals.projections):
        yield "the daemon is stopping"


def _stalled(vital: Vital) -> str:
    # What stalls delivery is told in the words of the other side, which may repeat a payload.
    return "" if vital.stalled is None or vital.waits_for_others else f" ({vital.stalled})"
