"""The figures of what was signed: its size, and the ages of checkpoint, cosignature and stamp.

Invariant: no signature is verified, and of the log at most one entry is read.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import count_text
from projections.evidence.kept.kept_listing import KeptListing, kept_listing
from projections.monitoring.lag import lag

UNSIGNED_S_MAX = 86_400.0  # then an entry has waited too long for a checkpoint: a day
_EVIDENCE_KEYS = (
    *("size", "checkpoint_age_seconds", "cosignature_age_seconds", "stamp_age_seconds"),
    *("is_restored", "lag_entries", "lag_seconds"),
)


def evidence_status(home: Path) -> dict[str, object] | None:
    """The figures of what was signed; None in a home without `evidence/`.

    `lag_entries` and `lag_seconds` are of the entries that no checkpoint covers. Signatures are not
    verified, and of the log only the first of these entries is read.
    """
    try:
        with kept_listing(home) as kept:
            if kept is None:
                return None
            figures = _kept_figures(kept)
    except (OSError, UnsafePath) as error:
        problem = f"evidence/ cannot be read: {error}"
        return {**dict.fromkeys(_EVIDENCE_KEYS), "problem": problem}
    found = lag(home, kept.size)
    if found["lag_entries"] is None:
        signed = count_text(kept.size, "entry")
        found["problem"] = f"{signed} were signed, and the log ends before that"
    return {"size": kept.size or None, **figures, **found}


def _kept_figures(kept: KeptListing) -> dict[str, object]:
    now_s = datetime.now(UTC).timestamp()
    newest = next(kept.newest(), None)
    times_s = {
        "checkpoint": None if newest is None else newest.written_s,
        "cosignature": kept.last_cosigned_s(),
        "stamp": kept.last_stamp_s(),
    }
    ages = {
        f"{name}_age_seconds": None if time_s is None else round(max(0.0, now_s - time_s), 3)
        for name, time_s in times_s.items()
    }
    return {**ages, "is_restored": kept.is_restored}


def is_late(evidence: Mapping[str, object]) -> bool:
    """Whether an entry has waited too long for a checkpoint."""
    lag_s = evidence["lag_seconds"]
    return isinstance(lag_s, float) and lag_s > UNSIGNED_S_MAX
