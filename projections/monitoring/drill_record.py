"""The record of the last successful restore drill, from which `status` shows its age.

Invariant: a record is written only after a successful drill; losing it costs another drill.
"""

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from eventlog.plumbing import rename_durably
from projections.sqlite.file import create_private_file

logger = logging.getLogger(__name__)

_FILE_NAME = "backup-proven.json"
_KEYS = ("proven_seq", "proven_at", "dest")


def write_drill_record(home: Path, *, seq: int, chain: str, at: str, dest: str) -> None:
    """Writes the record of a successful drill. A failure to write it is only logged."""
    path = home / "data" / _FILE_NAME
    new = path.with_name(f".{_FILE_NAME}.new")
    record = {"proven_seq": seq, "chain": chain, "proven_at": at, "dest": dest}
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        create_private_file(new)
        new.write_text(json.dumps(record) + "\n")
        rename_durably(new, path)
    except OSError as error:
        logger.warning("drill_record_not_written path=%s error=%s", path, error)


def last_drill(home: Path) -> dict[str, object] | None:
    """The `backup` object of `eventlog status --json`; None without a readable record."""
    try:
        record = json.loads((home / "data" / _FILE_NAME).read_bytes())
        seq, at, dest = (record[key] for key in _KEYS)
        age_s = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {
        "proven_seq": seq,
        "proven_at": at,
        "age_seconds": round(max(0.0, age_s), 3),
        "dest": dest,
    }
