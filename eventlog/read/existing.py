"""Requires that a home holds a log, for callers that need one.

Invariant: a log whose segments are gone is damaged, not missing.
"""

from contextlib import closing, suppress

from eventlog.errors import LogCorrupt, LogNotFound
from eventlog.read.reader import LogReader
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home, list_segments, log_not_found


def require_segments(disk: Disk, home: Home) -> list[int]:
    """First seqs of all segments, in order, at least one.

    Raises LogNotFound where there is no log, LogCorrupt where its segments are gone.
    """
    segments = list_segments(disk, home)
    if not segments:
        with closing(LogReader(disk, home)) as reader:
            reader.read()  # raises LogCorrupt where there was a log
        segments = list_segments(disk, home)  # a writer may have created one meanwhile
    if not segments:
        raise log_not_found(home)
    return segments


def require_log(disk: Disk, home: Home) -> None:
    """Raises LogNotFound where there is no log to append to. A damaged one is there."""
    with suppress(LogCorrupt, OSError):  # the first append meets the same, and reports it
        try:
            require_segments(disk, home)
        except LogNotFound as error:
            do = "name the right home, or allow it to be created: no --no-create, create=True"
            raise LogNotFound(
                f"{error.what}, and none was created", where=error.where, do=do
            ) from None
