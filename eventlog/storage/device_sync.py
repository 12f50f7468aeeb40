"""Syncs files and names that may be in the page cache only, before anything relies on them.

Other programs copy homes without a sync, and a writer may have died before its own. Where no valid
lock record says what is durable, a writer syncs everything before its first acknowledgement, and a
reader syncs names and each segment before it returns a line of them.

Invariant: an error of the device is raised; a medium that cannot be written counts as synced.
"""

import errno
import os
from collections.abc import Collection
from contextlib import suppress

from eventlog.format.segment import CLOSED_NAME
from eventlog.storage.disk import Disk, opened
from eventlog.storage.home import Home
from eventlog.storage.segment_disk import stored_segments

_READ_ONLY_ERRNOS = frozenset({errno.EINVAL, errno.EROFS})  # nothing there can be unsynced

# A directory above the home may belong to another account, or its file system may not sync
# directories.
_SYNC_REFUSED_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP}
)


def sync_names(disk: Disk, home: Home) -> None:
    """Syncs the directories of the log and those above, also where links lead. Raises OSError."""
    closed = f"{home.log_dir}/{CLOSED_NAME}"
    for path in (closed, home.log_dir, home.root):
        if disk.is_dir(path):
            try:
                disk.fsync_dir(path)
            except OSError as error:
                if error.errno not in _READ_ONLY_ERRNOS:
                    raise
    _sync_above(disk, home.root)
    for path in (closed, home.log_dir, home.root):
        real = os.path.realpath(path)
        if real != path and disk.is_dir(path):
            _sync_above(disk, real)


def _sync_above(disk: Disk, path: str) -> None:
    """Syncs the directories above `path`, up to the first that this account may not sync."""
    while path != (parent := os.path.dirname(path)):
        path = parent
        try:
            disk.fsync_dir(path)
        except OSError as error:
            if error.errno not in _SYNC_REFUSED_ERRNOS:
                raise
            break


def sync_segments(
    disk: Disk, home: Home, *, first_segment: int = 0, synced: Collection[str] = ()
) -> set[str]:
    """Syncs the files of all segments from `first_segment` on, and drops them from the page cache.

    After a failed sync the cache holds pages that the device lacks, and the next sync succeeds
    without writing them. Only a read from the device shows what is durable. Files in `synced` are
    left out, except the last segment. Returns the paths of all. Raises OSError, LogCorrupt.
    """
    stored = [found for found in stored_segments(disk, home.log_dir) if found[0] >= first_segment]
    last_segment = max((segment for segment, _ in stored), default=0)
    for segment, path in stored:
        if segment == last_segment or path not in synced:
            sync_file(disk, path)
    return {path for _, path in stored}


def sync_earlier_segments(disk: Disk, home: Home, segment: int) -> None:
    """Syncs the files of all segments before `segment`; the page cache keeps them. Raises OSError.

    For a reader that reads none of them: what it returns is worth nothing without them.
    """
    for first_seq, path in stored_segments(disk, home.log_dir):
        if first_seq < segment:
            with suppress(FileNotFoundError), opened(disk, path, writable=False) as fd:
                _sync(disk, fd)


def sync_file(disk: Disk, path: str) -> None:
    """Syncs a file, if there is one, and drops it from the page cache. Raises OSError."""
    with suppress(FileNotFoundError), opened(disk, path, writable=False) as fd:
        sync_for_reading(disk, fd)


def sync_for_reading(disk: Disk, fd: int) -> None:
    """Makes durable what is about to be read, and drops it from the page cache. Raises OSError.

    After a sync that failed, in this or another process, the cache holds pages that the device
    lacks, and this sync returns 0. A read-only medium has nothing to sync.
    """
    try:
        _sync(disk, fd)
    finally:
        disk.drop_cache(fd)


def _sync(disk: Disk, fd: int) -> None:
    try:
        disk.fdatasync(fd)
    except OSError as error:
        if error.errno not in _READ_ONLY_ERRNOS:
            raise
