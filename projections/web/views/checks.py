"""The checks on the overview: last verify, last restore drill, head, daemons, evidence.

Invariant: a check is `ok` only by a record or a figure that shows it.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from eventlog.plumbing import count_text, last_verify
from projections.monitoring.evidence_status import is_late
from projections.run_directory import FAILED, RUNNING
from projections.signals.schema import SQLITE

DRILL_AGE_S_MAX = 35 * 86_400.0  # a drill a month, and some days

Json = dict[str, object]
OK, WARN, BAD, NONE = "ok", "warn", "bad", "none"


def checks(
    home: Path,
    log: Mapping[str, object],
    projections: Mapping[str, Mapping[str, object]],
    drill: Mapping[str, object] | None,
    evidence: Mapping[str, object] | None,
) -> tuple[list[Json], int | None]:
    """The list `checks` of /api/status, and the number of findings of the last verify."""
    verified, findings = _verify_check(home)
    return [
        verified,
        _drill_check(drill),
        _head_check(log, projections.get(SQLITE, {})),
        _daemons_check(projections),
        *([] if evidence is None else [_evidence_check(log, evidence)]),
    ], findings


def _check(name: str, state: str, text: str, at: object = None) -> Json:
    return {"name": name, "state": state, "text": text, "at": at}


def _verify_check(home: Path) -> tuple[Json, int | None]:
    found = last_verify(home)
    if found is None:
        return _check("verify", NONE, "No verify of this log has been recorded"), None
    if found["ok"]:
        text = f"Every line and every signal up to entry {found['last_seq']:,} was verified"
        return _check("verify", OK, text, found["at"]), 0
    count = found["findings"]
    text = f"Damage was found in {count_text(count, 'place')}"
    return _check("verify", BAD, text, found["at"]), count


def _drill_check(drill: Mapping[str, object] | None) -> Json:
    name = "restore drill"
    if drill is None:
        return _check(name, NONE, "No backup has been proven by a restore")
    age_s = drill["age_seconds"]
    assert isinstance(age_s, float)
    text = f"A backup was restored and verified up to entry {drill['proven_seq']:,}"
    return _check(name, WARN if age_s > DRILL_AGE_S_MAX else OK, text, drill["proven_at"])


def _head_check(log: Mapping[str, object], table: Mapping[str, object]) -> Json:
    seq, at = log.get("last_seq"), log.get("last_recorded_at")
    problem, checkpoint = table.get("problem"), table.get("checkpoint")
    if problem is not None:
        return _check("head", BAD, f"The table: {problem}", at)
    if not isinstance(checkpoint, int) or not isinstance(seq, int):
        return _check("head", NONE, "The table has no checkpoint", at)
    return _check(
        "head", OK, f"Log and table have the same chain at entry {checkpoint:,} of {seq:,}", at
    )


def _daemons_check(projections: Mapping[str, Mapping[str, object]]) -> Json:
    states: dict[str, object] = {}
    for name, figures in projections.items():
        daemon = figures.get("daemon")
        states[name] = daemon.get("state") if isinstance(daemon, Mapping) else None
    failed = [name for name, state in states.items() if state == FAILED]
    idle = [name for name, state in states.items() if state != RUNNING]
    if failed:
        return _check("daemons", BAD, f"Failed: {', '.join(failed)}")
    if idle:
        return _check("daemons", WARN, f"Not running: {', '.join(idle)}")
    return _check("daemons", OK, f"Running: {', '.join(states)}")


def _evidence_check(log: Mapping[str, object], evidence: Mapping[str, object]) -> Json:
    name, size, last_seq = "evidence", evidence["size"], log.get("last_seq")
    problem, age_s = evidence.get("problem"), evidence["checkpoint_age_seconds"]
    if problem is not None:
        return _check(name, BAD, "What was signed is not what the log has, or cannot be read")
    if not isinstance(size, int) or not isinstance(age_s, float) or not isinstance(last_seq, int):
        return _check(name, NONE, "There is a key, and nothing was signed yet")
    at = datetime.fromtimestamp(time.time() - age_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if evidence["is_restored"]:
        return _check(name, WARN, "This home was restored, and signs nothing yet", at)
    text = f"A checkpoint covers {size:,} of {last_seq:,} entries"
    return _check(name, WARN if is_late(evidence) else OK, text, at)
