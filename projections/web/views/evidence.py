"""What was signed of the log: checkpoints with their cosignatures and stamps, and single proofs.

Invariant: as of a time, nothing is shown that was signed, cosigned or stamped later; and nothing is
signed, built or stored here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from eventlog import UnsafePath
from projections.evidence.kept.kept_listing import (
    SEARCH_MAX,
    KeptCheckpoint,
    KeptListing,
    kept_listing,
)
from projections.monitoring.evidence_status import evidence_status
from projections.queries.as_of import parse_as_of
from projections.serving.app import QueryParams
from projections.web.answers import Redactor, Refusal
from projections.web.views.moment import Moment, Moments

ROWS_MAX = 100
FIGURES = ("size", "lag_entries", "lag_seconds", "is_restored", "problem")

Json = dict[str, object]


def read_evidence(home: Path, moments: Moments, redactor: Redactor, query: QueryParams) -> Json:
    """The object of /api/evidence."""
    moment = moments.of(query)
    end_s = _end_s(moment, query)
    with _readable(home) as kept:
        found = () if kept is None else tuple(_shown(kept, moment, end_s))
        # A vkey has no time: it is shown where there is something that it signed.
        vkey = kept.vkey() if kept is not None and (found or moment.is_live) else None
        count = 0 if kept is None else kept.count
    figures = evidence_figures(evidence_status(home), redactor) if moment.is_live else None
    if kept is not None and not moment.is_live:
        size = found[0].size if found else 0
        known: Json = {"size": size or None, "lag_entries": moment.seq - size}
        figures = dict.fromkeys(FIGURES) | known
    return {
        "as_of": moment.to_json(),
        "evidence": figures,
        "vkey": vkey,
        "newest": found[0].text if found and moment.is_live else None,
        "rows": [_row(each, end_s) for each in found],
        "left_out": count - len(found) if moment.is_live else None,
    }


def evidence_figures(found: Mapping[str, object] | None, redactor: Redactor) -> Json | None:
    """The figures of `eventlog status`, of which a page shows the ages by its own clock."""
    if found is None:
        return None
    problem = found.get("problem")
    shown = {key: found.get(key) for key in FIGURES}
    return shown | {"problem": redactor.text(problem) if isinstance(problem, str) else None}


def read_proof(home: Path, moments: Moments, query: QueryParams, seq: int) -> bytes:
    """The proof file of an entry. Raises Refusal where no checkpoint covers it."""
    moment = moments.of(query)
    size = signed_size(home)
    if not 1 <= seq <= moment.seq:
        raise Refusal(
            HTTPStatus.NOT_FOUND,
            f"there is no entry {seq}, or there was none yet",
            do="open it from the page Log",
        )
    if not moment.is_live:  # the checkpoint may have been signed, and cosigned, later
        raise Refusal(HTTPStatus.CONFLICT, "a proof is made as of now", do="go back to now")
    if size is None or size < seq:
        raise Refusal(
            HTTPStatus.CONFLICT,
            f"no checkpoint covers entry {seq} yet",
            do="run `eventlog evidence checkpoint`, or wait for the next one",
        )
    try:
        from projections.evidence.proofs.proving import prove_by_stored_tree
    except ModuleNotFoundError as error:
        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"proofs need a package that is not installed here: {error.name}",
            do="install the extra `evidence`, and start the console again",
        ) from None
    return prove_by_stored_tree(home, seq, size)


def signed_size(home: Path) -> int | None:
    """The number of entries that the newest checkpoint covers; None where nothing was signed.

    Raises Refusal where `evidence/` cannot be read.
    """
    with _readable(home) as kept:
        return (kept.size or None) if kept is not None else None


@contextmanager
def _readable(home: Path) -> Iterator[KeptListing | None]:
    try:
        with kept_listing(home) as kept:
            yield kept
    except (OSError, UnsafePath):
        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "evidence/ cannot be read",
            do="run the console under the account that signs, and see `eventlog doctor`",
        ) from None


def _shown(kept: KeptListing, moment: Moment, end_s: float | None) -> Iterator[KeptCheckpoint]:
    """The checkpoints that had been signed at a moment, newest first."""
    if end_s is None:
        return islice(kept.newest(), ROWS_MAX)
    # A restored file may have the time of its copy, and then none of them would be shown.
    searched = islice(kept.newest(moment.seq), SEARCH_MAX)
    return islice((each for each in searched if each.written_s <= end_s), ROWS_MAX)


def _end_s(moment: Moment, query: QueryParams) -> float | None:
    """The end of what is shown, in seconds since 1970; None for now."""
    if moment.is_live:
        return None
    text = query.get("as_of")
    end = parse_as_of(text) if text else moment.recorded_at
    return 0.0 if end is None else datetime.fromisoformat(end).timestamp()


def _row(kept: KeptCheckpoint, end_s: float | None) -> Json:
    return {
        "size": kept.size,
        "written_at": _text(kept.written_s),
        "cosignatures": [
            {"name": seen.name, "at": _text(seen.time_s)}
            for seen in kept.cosignatures
            if end_s is None or seen.time_s <= end_s
        ],
        "stamps": [_text(time_s) for time_s in kept.stamps_s if end_s is None or time_s <= end_s],
    }


def _text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
