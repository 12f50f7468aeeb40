"""The inventory of a log to verify: its segments in the order of their contents, and their limits.

Segments are in the order of their names, unless a file is misnamed: then its first line has
another seq than its name, and continues the last line of another segment. A misnamed file is
reported once, and its lines are verified where they belong.

Invariant: where the durable end is known, no byte of a span is beyond it.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from eventlog.errors import LogCorrupt, UnsafePath
from eventlog.format.durability import LogEnd
from eventlog.format.line import CHAIN_START, LINE_BYTES_MAX, BadLine, next_chain
from eventlog.format.scan import Tip, tip_of
from eventlog.format.segment import COMPRESSED_SUFFIX, segment_name, segment_seqs
from eventlog.read.seek import last_line
from eventlog.storage.device_sync import sync_for_reading, sync_names
from eventlog.storage.disk import Disk, opened
from eventlog.storage.durable_state import read_durable_end, read_durable_state
from eventlog.storage.home import Home, log_not_found
from eventlog.storage.segment_disk import compression_problem, refuse_unmounted


class FileProblem(NamedTuple):
    """A problem of a whole file."""

    segment: str  # the file's name
    seq: int  # of the entry that should be there
    problem: str


class SegmentFile(NamedTuple):
    """A segment as it was found."""

    named: int  # the first seq, by its name
    size: int
    first_line: bytes  # empty where there is none
    last_line: bytes  # the last complete one


class SegmentSpan(NamedTuple):
    """A segment to be verified."""

    named: int
    first_seq: int  # of its first entry
    limit: int  # bytes that are known to be durable
    last_tip: Tip | None  # by the last line of the file


class Inventory(NamedTuple):
    """The segments to verify, and the ends to check."""

    spans: tuple[SegmentSpan, ...]  # in order
    names: tuple[int, ...]  # of all segments, including those without a span
    file_problems: tuple[FileProblem, ...]
    unusable_files: dict[
        int, FileProblem
    ]  # by the seq in the name: files with no lines of their own
    is_end_known: bool  # a valid lock record gives the durable end
    lock_record_end: LogEnd | None  # the durable end, if the log is not empty
    watermark_end: LogEnd | None  # the durable end when the watermark was written
    torn_bytes: int  # beyond the end of the lock record


class _DirSnapshot(NamedTuple):
    """The files, what is proven durable, and the reader's limit before and after they were read."""

    watermark_end: LogEnd
    before: LogEnd | None
    after: LogEnd | None
    files: list[SegmentFile]
    file_problems: list[FileProblem]
    unusable_files: dict[int, FileProblem]


def inventory(disk: Disk, home: Home) -> Inventory:
    """Reads the names, sizes, first and last lines of all segments.

    Raises LogNotFound, and EventLogError where the disk of closed segments is not mounted: its
    segments are not missing.
    """
    refuse_unmounted(disk, home.log_dir)
    snapshot = _read_snapshot(disk, home)
    if snapshot.before is None and snapshot.after is not None:
        snapshot = _read_snapshot(disk, home)  # a writer started, and gives the durable end
    end = snapshot.before
    ordered, misplaced, duplicates = order_by_content(snapshot.files)
    file_problems = [*snapshot.file_problems, *misplaced]
    unusable_files = {**snapshot.unusable_files, **duplicates}
    torn_bytes = 0
    spans = []
    for first_seq, file in ordered:
        limit = file.size if end is None else _durable_bytes(first_seq, file.size, end)
        if end is None or first_seq <= end.segment:
            spans.append(SegmentSpan(file.named, first_seq, limit, _tip_or_none(file.last_line)))
        # With another record by now, bytes beyond the end may have become durable.
        if end is not None and end == snapshot.after:
            torn_bytes += file.size - limit
            # The one exception is a segment that a writer has just created.
            if end.segment < first_seq != end.seq + 1:
                file_problems.append(_beyond_durable_end(first_seq, file, end))
    found = Inventory(
        spans=tuple(spans),
        names=tuple(sorted({*snapshot.unusable_files, *(file.named for file in snapshot.files)})),
        file_problems=tuple(file_problems),
        unusable_files=unusable_files,
        is_end_known=end is not None,
        lock_record_end=end if end is not None and end.seq else None,
        watermark_end=snapshot.watermark_end if snapshot.watermark_end.seq else None,
        torn_bytes=torn_bytes,
    )
    if not (found.names or found.file_problems or found.lock_record_end or found.watermark_end):
        raise log_not_found(home)
    return found


def order_by_content(
    files: Sequence[SegmentFile],
) -> tuple[list[tuple[int, SegmentFile]], list[FileProblem], dict[int, FileProblem]]:
    """Orders the files by their contents.

    Returns the files with their first seqs, the problems of misnamed files, and the duplicates of
    other files by the seq in their names.
    """
    misnamed = _misnamed_files(files)
    order = {file.named: file for file in files if file.named not in misnamed}
    file_problems = []
    duplicates = {}
    for file in files:
        if file.named not in misnamed:
            continue
        first_seq = misnamed[file.named]
        name = segment_name(file.named)
        if first_seq in order:
            problem = f"the segment repeats {segment_name(order[first_seq].named)}"
            duplicates[file.named] = FileProblem(name, file.named, problem)
        else:
            problem = f"entry {first_seq} is in a segment that is named for {file.named}"
            file_problems.append(FileProblem(name, first_seq, problem))
            order[first_seq] = file
    return sorted(order.items()), file_problems, duplicates


def _misnamed_files(files: Sequence[SegmentFile]) -> dict[int, int]:
    """The first seqs of misnamed files, by the seq in their names."""
    chains = {0: CHAIN_START}
    for file in files:
        tip = _tip_or_none(file.last_line)
        if tip is not None:
            chains.setdefault(tip.seq, tip.chain)
    misnamed = {}
    for file in files:
        tip = _tip_or_none(file.first_line)
        if tip is None or tip.seq == file.named or tip.seq - 1 not in chains:
            continue
        # Only the chain distinguishes a misnamed file from a line with a damaged seq.
        if next_chain(chains[tip.seq - 1], file.first_line) == tip.chain:
            misnamed[file.named] = tip.seq
    return misnamed


def _read_snapshot(disk: Disk, home: Home) -> _DirSnapshot:
    state = read_durable_state(disk, home)
    before = state.limit
    try:
        names = sorted(disk.names(home.log_dir))
    except (FileNotFoundError, NotADirectoryError):
        raise log_not_found(home) from None
    if before is None:
        sync_names(disk, home)
    segments: list[int] = []
    file_problems = []
    for name in names:
        try:
            segments += segment_seqs([name])
        except LogCorrupt as error:
            file_problems.append(FileProblem(name, error.seq, error.problem))
    files = []
    unusable_files = {}
    for segment in segments:
        path = home.segment_path(segment)
        try:
            with opened(disk, path) as fd:
                files.append(_file(disk, fd, segment))
                problem = compression_problem(disk, path)
                if problem is not None:
                    name = segment_name(segment) + COMPRESSED_SUFFIX
                    file_problems.append(FileProblem(name, segment, problem))
                if before is None:
                    sync_for_reading(disk, fd)  # data in the page cache alone may be rolled back
        except FileNotFoundError:
            continue  # it was removed just now, and will be reported as missing
        except UnsafePath as error:
            unusable_files[segment] = FileProblem(segment_name(segment), segment, error.what)
    # An end that is no limit was durable all the same: a log that ends before it lost entries.
    watermark_end = state.watermark.end if before and state.watermark else state.end
    after = read_durable_end(disk, home)
    return _DirSnapshot(watermark_end, before, after, files, file_problems, unusable_files)


def _file(disk: Disk, fd: int, segment: int) -> SegmentFile:
    size = disk.size(fd)
    first = last = b""
    with suppress(OSError):  # the scan meets a bad sector again, and reports it
        first = disk.pread(fd, min(size, LINE_BYTES_MAX), 0)
        last = last_line(disk, fd, size)
    return SegmentFile(segment, size, first[: first.find(b"\n") + 1], last)


def _durable_bytes(first_seq: int, size: int, end: LogEnd) -> int:
    if first_seq == end.segment:
        return min(size, end.byte_offset)
    return size if first_seq < end.segment else 0


def _beyond_durable_end(first_seq: int, file: SegmentFile, end: LogEnd) -> FileProblem:
    problem = f"entry {first_seq} starts a segment, but the log ends with entry {end.seq}"
    return FileProblem(segment_name(file.named), first_seq, problem)


def _tip_or_none(line: bytes) -> Tip | None:
    try:
        return tip_of(line)
    except BadLine:
        return None
