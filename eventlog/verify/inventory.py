"""What there is to verify: the segments in the order of their contents, and how far each counts.

Segments stand in the order of their names, unless a file is in the wrong place: then its first
line says another seq than its name, and continues the last line of some other segment. Such a file
is told of once, and its lines are verified where they belong.

Invariant: where the durable end is known, no byte of a place lies beyond it.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from eventlog.errors import LogCorrupt, UnsafePath
from eventlog.format.durability import End, Watermark, Word
from eventlog.format.line import CHAIN_START, LINE_BYTES_MAX, BadLine, chained
from eventlog.format.scan import Tip, tip_of
from eventlog.format.segment import COMPRESSED_SUFFIX, segment_name, segments_of
from eventlog.read.seek import last_line
from eventlog.storage.disk import Disk, sync_for_reading
from eventlog.storage.durable_state import read_watermark, read_word
from eventlog.storage.home import Home, no_log
from eventlog.storage.segment_disk import packaging_problem, refuse_unmounted


class Fault(NamedTuple):
    """What is wrong with a file as a whole."""

    segment: str  # the file's name
    seq: int  # of the entry that should be there
    problem: str


class File(NamedTuple):
    """A segment as it was found."""

    named: int  # the first seq that its name says
    size: int
    first_line: bytes  # empty where there is none
    last_line: bytes  # the last whole one


class Place(NamedTuple):
    """A segment to be verified."""

    named: int
    first_seq: int  # of the entry that it starts with
    limit: int  # bytes; what is beyond them is not known to be durable
    last_tip: Tip | None  # what the last line of the file says


class Inventory(NamedTuple):
    """What there is to verify."""

    places: tuple[Place, ...]  # in order
    names: tuple[int, ...]  # of all segments, also of those that are no places
    faults: tuple[Fault, ...]
    absent: dict[int, Fault]  # by the seq in the name: files that hold nothing of their own
    is_bounded: bool  # a word of this boot says how far the log is durable
    word_end: End | None  # how far the log is durable, if a word of this boot says so
    marked_end: End | None  # how far it was durable when the watermark was written
    torn_bytes: int  # beyond the word's end


class _Look(NamedTuple):
    """Names and files, the watermark, and the word before and after they were looked at."""

    watermark: Watermark | None
    before: Word | None
    after: Word | None
    files: list[File]
    faults: list[Fault]
    absent: dict[int, Fault]


def inventory(disk: Disk, home: Home) -> Inventory:
    """Looks at names, sizes, first and last lines.

    Raises LogNotFound, and EventLogError where the disk of closed segments is not mounted: what
    stands there is not missing.
    """
    refuse_unmounted(disk, home.log_dir)
    look = _look(disk, home)
    if look.before is None and look.after is not None:
        look = _look(disk, home)  # a writer came, and says from now on what is durable
    word = look.before
    watermark = look.watermark
    ordered, misplaced, copies = arranged(look.files)
    faults = [*look.faults, *misplaced]
    absent = {**look.absent, **copies}
    torn_bytes = 0
    places = []
    for first_seq, file in ordered:
        limit = file.size if word is None else _limit(first_seq, file.size, word.end)
        if word is None or first_seq <= word.end.segment:
            places.append(Place(file.named, first_seq, limit, _tip_or_none(file.last_line)))
        if word is not None and word == look.after:  # otherwise what was beyond may be durable now
            torn_bytes += file.size - limit
            # The one exception is the segment that a writer has just made.
            if word.end.segment < first_seq != word.end.seq + 1:
                faults.append(_beyond(first_seq, file, word.end))
    found = Inventory(
        places=tuple(places),
        names=tuple(sorted({*look.absent, *(file.named for file in look.files)})),
        faults=tuple(faults),
        absent=absent,
        is_bounded=word is not None,
        word_end=word.end if word is not None and word.end.seq else None,
        marked_end=watermark.end if watermark is not None and watermark.end.seq else None,
        torn_bytes=torn_bytes,
    )
    if not (found.names or found.faults or found.word_end or found.marked_end):
        raise no_log(home)
    return found


def arranged(
    files: Sequence[File],
) -> tuple[list[tuple[int, File]], list[Fault], dict[int, Fault]]:
    """The files in the order of their contents, each with the seq that it starts with; what is in
    the wrong place; and, by the seq in their names, those that repeat what another file holds.
    """
    moved = _moved(files)
    order = {file.named: file for file in files if file.named not in moved}
    faults = []
    copies = {}
    for file in files:
        if file.named not in moved:
            continue
        first_seq = moved[file.named]
        name = segment_name(file.named)
        if first_seq in order:
            problem = f"the segment repeats {segment_name(order[first_seq].named)}"
            copies[file.named] = Fault(name, file.named, problem)
        else:
            problem = f"entry {first_seq} stands in a segment that is named for {file.named}"
            faults.append(Fault(name, first_seq, problem))
            order[first_seq] = file
    return sorted(order.items()), faults, copies


def _moved(files: Sequence[File]) -> dict[int, int]:
    """With which seq files start, by the other seq that their names say."""
    chains = {0: CHAIN_START}
    for file in files:
        tip = _tip_or_none(file.last_line)
        if tip is not None:
            chains.setdefault(tip.seq, tip.chain)
    moved = {}
    for file in files:
        tip = _tip_or_none(file.first_line)
        if tip is None or tip.seq == file.named or tip.seq - 1 not in chains:
            continue
        # Only the chain tells a file in the wrong place from a line whose seq is damaged.
        if chained(chains[tip.seq - 1], file.first_line) == tip.chain:
            moved[file.named] = tip.seq
    return moved


def _look(disk: Disk, home: Home) -> _Look:
    watermark = read_watermark(disk, home)  # first: it must not be ahead of the word
    before = read_word(disk, home)
    try:
        names = sorted(disk.names(home.log_dir))
    except (FileNotFoundError, NotADirectoryError):
        raise no_log(home) from None
    segments: list[int] = []
    faults = []
    for name in names:
        try:
            segments += segments_of([name])
        except LogCorrupt as error:
            faults.append(Fault(name, error.seq, error.problem))
    files = []
    absent = {}
    for segment in segments:
        try:
            fd = disk.open(home.segment_path(segment), writable=False)
        except FileNotFoundError:
            continue  # taken away this very moment: it will show as missing
        except UnsafePath as error:
            absent[segment] = Fault(segment_name(segment), segment, error.what)
            continue
        try:
            files.append(_file(disk, fd, segment))
            problem = packaging_problem(disk, home.segment_path(segment))
            if problem is not None:
                name = segment_name(segment) + COMPRESSED_SUFFIX
                faults.append(Fault(name, segment, problem))
            if before is None and segment == segments[-1]:
                sync_for_reading(disk, fd)  # what only the cache holds may still be rolled back
        finally:
            disk.close(fd)
    return _Look(watermark, before, read_word(disk, home), files, faults, absent)


def _file(disk: Disk, fd: int, segment: int) -> File:
    size = disk.size(fd)
    first = last = b""
    with suppress(OSError):  # a bad sector will be met again, and told
        first = disk.pread(fd, min(size, LINE_BYTES_MAX), 0)
        last = last_line(disk, fd, size)
    return File(segment, size, first[: first.find(b"\n") + 1], last)


def _limit(first_seq: int, size: int, end: End) -> int:
    if first_seq == end.segment:
        return min(size, end.byte_offset)
    return size if first_seq < end.segment else 0


def _beyond(first_seq: int, file: File, end: End) -> Fault:
    problem = f"entry {first_seq} starts a segment, but the log ends with entry {end.seq}"
    return Fault(segment_name(file.named), first_seq, problem)


def _tip_or_none(line: bytes) -> Tip | None:
    try:
        return tip_of(line)
    except BadLine:
        return None
