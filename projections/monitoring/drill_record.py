"""The record of the last successful restore drill, from which `status` shows its age.

Invariant: a record is written only after a successful drill; losing it costs another drill.
"""

import json
import logging
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import Directory, make_private_dir

logger = logging.getLogger(__name__)

_FILE_NAME = "backup-proven.json"
_BYTES_MAX = 32 << 10  # a path of 4,096 bytes, each of them escaped, and the other fields


def write_drill_record(home: Path, *, seq: int, chain: str, at: str, dest: str) -> None:
    """Writes the record of a successful drill. A failure to write it is only logged."""
    data_dir = home / "data"
    record = {"proven_seq": seq, "chain": chain, "proven_at": at, "dest": dest}
    try:
        with suppress(FileExistsError):
            make_private_dir(data_dir)  # not the home, which may have been moved
        with Directory.open(data_dir, follow=True) as data, data.replacing(_FILE_NAME) as fd:
            if os.fstat(data.fd).st_mode & stat.S_IRWXG:
                os.fchmod(fd, 0o640)  # as the databases: a group may use the directory
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(json.dumps(record).encode() + b"\n")
            data.disk.fdatasync(fd)
    except (OSError, UnsafePath) as error:
        logger.warning("drill_record_not_written path=%s error=%s", data_dir / _FILE_NAME, error)


def last_drill(home: Path) -> dict[str, object] | None:
    """The `backup` object of `eventlog status --json`; None without a readable record.

    Another account may write to `data/`, so what is there may be of any kind, size and content.
    """
    try:
        with Directory.open(home / "data", follow=True) as data:
            record = json.loads(data.read(_FILE_NAME, _BYTES_MAX))
        seq, at, dest = record["proven_seq"], record["proven_at"], record["dest"]
        if type(seq) is not int or not isinstance(dest, str):
            return None
        age_s = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except (OSError, UnsafePath, RecursionError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return {
        "proven_seq": seq,
        "proven_at": at,
        "age_seconds": round(max(0.0, age_s), 3),
        "dest": dest,
    }
