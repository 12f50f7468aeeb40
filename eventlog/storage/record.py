"""Records in `data/`: small JSON files that note when something was last done.

Other accounts may be allowed to write to `data/`, so what is read there may be of any kind, size
and content.

Invariant: a reader sees a whole record or none; a failed write leaves the earlier one in place.
"""

import json
import os
import stat
from collections.abc import Mapping

from eventlog.errors import UnsafePath
from eventlog.storage.directory import Directory

RECORD_BYTES_MAX = 32 << 10  # a path of 4,096 bytes, each of them escaped, and the other fields


def write_record(data_dir: str | os.PathLike[str], name: str, record: Mapping[str, object]) -> None:
    """Replaces a record, durably. Raises OSError, UnsafePath."""
    with Directory.open(data_dir, follow=True) as data, data.replacing(name) as fd:
        if os.fstat(data.fd).st_mode & stat.S_IRWXG:
            os.fchmod(fd, 0o640)  # as the databases: a group may use the directory
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(json.dumps(record).encode() + b"\n")
        data.disk.fdatasync(fd)


def read_record(data_dir: str | os.PathLike[str], name: str) -> Mapping[str, object] | None:
    """The record of that name; None where there is no readable one."""
    try:
        with Directory.open(data_dir, follow=True) as data:
            found = json.loads(data.read(name, RECORD_BYTES_MAX))
    except (OSError, UnsafePath, RecursionError, ValueError):
        return None
    return found if isinstance(found, dict) else None
