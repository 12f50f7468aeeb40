"""Checks what was signed of a log: the key, the age of the checkpoint, the tree.

Invariant: nothing is changed or created; no key is read, and no signature verified.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import count_text, duration_text, fence_state, replica_state
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, DoctorFinding
from projections.evidence.kept.kept_listing import KEY_NAME, KeptListing, kept_listing
from projections.evidence.tree.level_files import stored_state
from projections.monitoring.evidence_status import evidence_status, is_late

CHECK = "evidence"


def check_evidence(home: Path) -> Iterator[DoctorFinding]:
    """Reports about `evidence/`; nothing in a home without it."""
    try:
        with kept_listing(home) as kept:
            if kept is None:
                return
            yield from _key_findings(kept, can_sign=_can_sign(home))
            yield from _state_findings(home, kept)
    except UnsafePath as error:
        yield _finding(PROBLEM, error.what, error.do)


def _can_sign(home: Path) -> bool:
    """Whether this home is the one that signs: neither a replica nor fenced."""
    return replica_state(home) is None and fence_state(home) is None


def _key_findings(kept: KeptListing, *, can_sign: bool) -> Iterator[DoctorFinding]:
    mode = kept.key_mode()
    if mode is not None and mode & 0o077:
        do = "run chmod 600 on it; where another account has read it, sign nothing more with it"
        yield _finding(PROBLEM, f"other accounts may use {KEY_NAME}, whose mode is {mode:04o}", do)
    if mode is None and can_sign and not kept.is_restored:
        do = "bring evidence/key over, or run `eventlog evidence key ORIGIN` where there never was"
        yield _finding(WARNING, "there is no key, so nothing can be signed", f"{do} one")
    if not kept.has_vkey:
        do = "bring evidence/vkey over: without it, nothing can be proved"
        yield _finding(WARNING, "there is no vkey", do)
    if find_spec("cryptography") is None:
        do = "run `pip install 'signal-eventlog[evidence]'`"
        yield _finding(WARNING, "the extra `evidence` is not installed, which signs and proves", do)


def _state_findings(home: Path, kept: KeptListing) -> Iterator[DoctorFinding]:
    found = evidence_status(home)
    if found is None:  # removed meanwhile
        return
    size, entries, age_s = (found.get(key) for key in ("size", "lag_entries", "lag_seconds"))
    if kept.is_restored:
        do = "run `eventlog evidence resume` with the newest checkpoint that anyone holds"
        yield _finding(WARNING, "this home was restored from a backup, and signs nothing yet", do)
    if found.get("problem") is not None:
        do = "run `eventlog verify`, and compare the log with a backup: nothing is signed meanwhile"
        yield _finding(PROBLEM, str(found["problem"]), do)
    if isinstance(entries, int) and isinstance(age_s, float) and is_late(found):
        unsigned = f"no checkpoint covers the last {count_text(entries, 'entry')}"
        if _can_sign(home):
            do = "run `eventlog evidence checkpoint`, or enable eventlog-checkpoint@.timer"
            yield _finding(WARNING, f"{unsigned}, the oldest since {duration_text(age_s)}", do)
        else:
            yield _finding(NOTE, unsigned, "bring the newest checkpoints of the primary over")
    if isinstance(size, int):
        yield DoctorFinding(check=CHECK, level=OK, found=f"{count_text(size, 'entry')} are signed")
        state = stored_state(home)
        if state is None or state.seq < size:
            do = "run `eventlog project tree --once`; the next checkpoint or proof does the same"
            yield _finding(NOTE, "the tree does not cover all that was signed", do)


def _finding(level: str, found: str, do: str) -> DoctorFinding:
    return DoctorFinding(check=CHECK, level=level, found=found, do=do)
