"""Which segments a log has, for those who cannot do without.

Invariant: a log that is known to have been durable is never told as none.
"""

from contextlib import closing

from eventlog.disk import Disk
from eventlog.home import Home, no_log
from eventlog.reader import LogReader, list_segments


def present_segments(disk: Disk, home: Home) -> list[int]:
    """First seqs of all segments, in order, at least one.

    Raises LogNotFound where there is no log, LogCorrupt where its segments are gone.
    """
    segments = list_segments(disk, home)
    if not segments:
        with closing(LogReader(disk, home)) as reader:
            reader.read()  # it knows whether there was one
        segments = list_segments(disk, home)  # a writer may have come meanwhile
    if not segments:
        raise no_log(home)
    return segments
