"""The record of the last verify, `data/verified.json`: {at, ok, last_seq, chain, findings}.

`verify` itself changes nothing; the command writes the record, where `data/` is there and may be
written.

Invariant: a record counts only while the log has the entry (last_seq, chain) at which it was made.
"""

import logging
import os
from pathlib import Path
from typing import TypedDict

from eventlog.errors import EventLogError, UnsafePath
from eventlog.read.inspect import read_entries
from eventlog.storage.record import read_record, write_record
from eventlog.verify.verify import VerifyReport

logger = logging.getLogger(__name__)

FILE_NAME = "verified.json"


class VerifyRecord(TypedDict):
    """The result of the last verify."""

    at: str  # when it ended, as `recorded_at`
    ok: bool
    last_seq: int
    chain: str
    findings: int


def write_verify_record(home: str | os.PathLike[str], report: VerifyReport, *, at: str) -> None:
    """Writes the record of a verify. A failure to write it is only logged."""
    record = VerifyRecord(
        at=at,
        ok=report.ok,
        last_seq=report.last_seq,
        chain=report.chain,
        findings=report.findings_total,
    )
    try:
        write_record(Path(home) / "data", FILE_NAME, record)
    except (OSError, UnsafePath) as error:
        logger.info("verify_record_not_written error=%s", error)


def last_verify(home: str | os.PathLike[str]) -> VerifyRecord | None:
    """The record of the last verify; None where there is none, or the log lacks its entry."""
    found = read_record(Path(home) / "data", FILE_NAME)
    match found:
        case {
            "at": str(at),
            "ok": bool(ok),
            "last_seq": int(last_seq),
            "chain": str(chain),
            "findings": int(findings),
        } if last_seq >= 0:
            pass
        case _:
            return None
    try:
        later = read_entries(os.fspath(home), after=max(0, last_seq - 1), first_only=True)
        entry = next(later, None)
    except (EventLogError, OSError):
        return None
    if last_seq and (entry is None or (entry.seq, entry.chain) != (last_seq, chain)):
        return None
    return VerifyRecord(at=at, ok=ok, last_seq=last_seq, chain=chain, findings=findings)
