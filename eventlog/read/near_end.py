"""A reader that starts near the end of a log, to find the end without reading all of it.

Invariant: the entry that the watermark names is where the watermark says, or LogCorrupt is raised.
"""

from eventlog.errors import LogCorrupt, LogDiverged
from eventlog.format.segment import Position
from eventlog.read.lines import corrupt_error
from eventlog.read.reader import LogReader
from eventlog.storage.disk import Disk
from eventlog.storage.durable_state import read_watermark
from eventlog.storage.home import Home, list_segments


def reader_near_end(disk: Disk, home: Home, *, holds_lock: bool = False) -> LogReader:
    """A reader that starts at the watermark or, without one, right before the last segment.

    In a whole log it scans only the entries after the watermark. Raises LogCorrupt.
    """
    watermark = read_watermark(disk, home)
    if watermark is not None and watermark.end.seq > 0:
        end = watermark.end
        hint = Position(end.segment, end.byte_offset)
        try:
            reader = LogReader(disk, home, after=end.seq, hint=hint, holds_lock=holds_lock)
        except (LogCorrupt, LogDiverged):
            pass  # the entry is missing: a scan of the last segment finds the end of the log
        else:
            # An entry found before its place would make the bytes after it look torn. If the place
            # is the start of a segment, the entry is the last one of the segment before.
            if reader.tip.chain == end.chain and (reader.position >= hint or hint.byte_offset == 0):
                return reader
            reader.close()
            raise corrupt_error("is not the one that was durable", *hint, end.seq)
    segments = list_segments(disk, home)
    # One entry earlier, so that the chain of the line before the segment is verified too.
    after = max(0, segments[-1] - 2) if segments else 0
    try:
        return LogReader(disk, home, after=after, holds_lock=holds_lock)
    except LogCorrupt:  # a reader from the start names the damage precisely
        return LogReader(disk, home, holds_lock=holds_lock)
