"""The record of the last successful restore drill, from which `status` shows its age.

Invariant: a record is written only after a successful drill; losing it costs another drill.
"""

import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import make_private_dir, read_record, write_record

logger = logging.getLogger(__name__)

_FILE_NAME = "backup-proven.json"


def write_drill_record(home: Path, *, seq: int, chain: str, at: str, dest: str) -> None:
    """Writes the record of a successful drill. A failure to write it is only logged."""
    data_dir = home / "data"
    record = {"proven_seq": seq, "chain": chain, "proven_at": at, "dest": dest}
    try:
        with suppress(FileExistsError):
            make_private_dir(data_dir)  # not the home, which may have been moved
        write_record(data_dir, _FILE_NAME, record)
    except (OSError, UnsafePath) as error:
        logger.warning("drill_record_not_written path=%s error=%s", data_dir / _FILE_NAME, error)


def last_drill(home: Path) -> dict[str, object] | None:
    """The `backup` object of `eventlog status --json`; None without a readable record."""
    record = read_record(home / "data", _FILE_NAME)
    if record is None:
        return None
    seq, at, dest = (record.get(key) for key in ("proven_seq", "proven_at", "dest"))
    if type(seq) is not int or not isinstance(at, str) or not isinstance(dest, str):
        return None
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return {
        "proven_seq": seq,
        "proven_at": at,
        "age_seconds": round(max(0.0, age_s), 3),
        "dest": dest,
    }
