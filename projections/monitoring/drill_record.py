"""When a backup was last proven, noted in the home so that `status` can tell its age.

Invariant: the note says no more than a proof did; losing it costs another proof.
"""

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from projections.sqlite.file import create_private_file

logger = logging.getLogger(__name__)

_FILE_NAME = "backup-proven.json"
_KEYS = ("proven_seq", "proven_at", "dest")


def write_drill_record(home: Path, *, seq: int, chain: str, at: str, dest: str) -> None:
    """Notes a proof. Where that cannot be done it is said, and nothing else is wrong."""
    path = home / "data" / _FILE_NAME
    new = path.with_name(f".{_FILE_NAME}.new")
    record = {"proven_seq": seq, "chain": chain, "proven_at": at, "dest": dest}
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        create_private_file(new)
        new.write_text(json.dumps(record) + "\n")
        new.replace(path)
    except OSError as error:
        logger.warning("drill_record_not_written path=%s error=%s", path, error)


def last_drill(home: Path) -> dict[str, object] | None:
    """The `backup` object of `eventlog status --json`; None where nothing is noted."""
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
