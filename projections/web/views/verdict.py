"""The verdict on a home in words: a level, one sentence, and the reasons with their pages. Pure.

Invariant: the level is that of the worst reason, and `ok` only where there is none.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eventlog.plumbing import MIRROR, WAITING, count_text
from projections.delivery.outbox import DISABLED, STOPPED
from projections.delivery.outbox import NAME as ALPINE
from projections.monitoring.evidence_status import is_late
from projections.run_directory import FAILED
from projections.run_directory import STOPPED as NOT_RUNNING
from projections.signals.schema import SQLITE

OK, WARN, BAD = "ok", "warn", "bad"
LAG_S_MAX = 60.0  # as `eventlog project --unhealthy-after` has it by default

_ORDER = (OK, WARN, BAD)
_TEXTS = {
    OK: "Everything is durable, projected and delivered.",
    WARN: "The log is durable. Something needs a look.",
    BAD: "Something is wrong.",
}
_TEXT_UNDELIVERED = "Everything is durable and projected. Delivery is disabled."
_NOT_DELIVERING = {
    "waiting": (WARN, "Delivery waits: Alpine accepts nothing"),
    "refused": (BAD, "Alpine refuses the key or the address"),
    "rejecting": (BAD, "Alpine rejects every signal"),
    STOPPED: (WARN, "Nothing is being delivered: no process delivers"),
}

Figures = Mapping[str, object]


class Reason(NamedTuple):
    """A reason for a level other than ok."""

    text: str
    href: str
    level: str


def verdict(
    projections: Mapping[str, Figures],
    *,
    problem: str | None,
    findings: int | None,
    evidence: Figures | None = None,
) -> dict[str, object]:
    """The object `verdict` of /api/status. `findings` are those of the last verify, if any."""
    reasons = [*_reasons(projections, problem, findings), *_evidence_reasons(evidence)]
    level = max((reason.level for reason in reasons), key=_ORDER.index, default=OK)
    is_off = ALPINE not in projections or projections[ALPINE].get("state") == DISABLED
    text = _TEXT_UNDELIVERED if level == OK and is_off else _TEXTS[level]
    return {"level": level, "text": text, "reasons": [reason._asdict() for reason in reasons]}


def _reasons(
    projections: Mapping[str, Figures], problem: str | None, findings: int | None
) -> Iterator[Reason]:
    if problem is not None:
        yield Reason(problem, "/log", BAD)
    if findings:
        places = count_text(findings, "place")
        yield Reason(f"The last verify found damage in {places}", "/#checks", BAD)
    for name, figures in projections.items():
        yield from _projection_reasons(name, figures)
    yield from _delivery_reasons(projections.get(ALPINE, {}))
    yield from _mirror_reasons(projections.get(MIRROR, {}))


def _projection_reasons(name: str, figures: Figures) -> Iterator[Reason]:
    href = "/delivery" if name == ALPINE else "/#checks"
    label = {SQLITE: "The table", ALPINE: "Delivery"}.get(name, f"The projection {name}")
    daemon, lag_s = figures.get("daemon"), figures.get("lag_seconds")
    state = daemon.get("state") if isinstance(daemon, Mapping) else None
    if figures.get("problem") is not None:
        yield Reason(f"{label}: {figures['problem']}", href, BAD)
    elif state == FAILED and isinstance(daemon, Mapping):
        yield Reason(f"{label} has failed: {daemon.get('reason')}", href, BAD)
    elif isinstance(lag_s, int | float) and lag_s > LAG_S_MAX and figures.get("state") is None:
        yield Reason(f"{label} is {_entries(figures.get('lag_entries'))} behind", href, BAD)
    elif state == NOT_RUNNING and name != ALPINE:
        yield Reason(f"No process keeps {_lower(label)} up to date", href, WARN)


def _delivery_reasons(figures: Figures) -> Iterator[Reason]:
    state, parked = figures.get("state"), figures.get("parked")
    if isinstance(state, str) and state in _NOT_DELIVERING:
        level, text = _NOT_DELIVERING[state]
        yield Reason(text, "/delivery", level)
    if isinstance(parked, int) and parked:
        verb, them = ("is", "it") if parked == 1 else ("are", "them")
        text = f"{count_text(parked, 'signal')} {verb} parked: Alpine does not take {them}"
        yield Reason(text, "/delivery", WARN)


def _mirror_reasons(figures: Figures) -> Iterator[Reason]:
    lost = figures.get("lost_acked")
    if figures.get("state") == WAITING:
        error = figures.get("last_error")
        text = f"The mirror waits: {error}" if error else "The mirror waits for the stream"
        yield Reason(text, "/#checks", WARN)
    if isinstance(lost, int) and lost:
        text = f"The stream lost {count_text(lost, 'line')} that it had acknowledged"
        yield Reason(text, "/#checks", WARN)


def _evidence_reasons(figures: Figures | None) -> Iterator[Reason]:
    """What keeps entries from being signed; nothing in a home without evidence."""
    if figures is None:
        return
    if figures["problem"] is not None:
        yield Reason(f"Evidence: {figures['problem']}", "/evidence", BAD)
    elif figures["is_restored"]:
        yield Reason("This home was restored, and signs nothing yet", "/evidence", WARN)
    elif is_late(figures):
        entries = _entries(figures["lag_entries"])
        yield Reason(f"No checkpoint covers the last {entries}", "/evidence", WARN)


def _entries(value: object) -> str:
    return count_text(value, "entry") if isinstance(value, int) else "some entries"


def _lower(label: str) -> str:
    return label[0].lower() + label[1:]
