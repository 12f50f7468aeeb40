"""Damages to a log that was closed: the watermark covers all of it.

Invariant: bytes that are cut, moved, doubled or gone stop every reader, and no writer cuts more.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

from tools.crash.check import Subject
from tools.crash.expected_log import Violation
from tools.crash.explorer import Failure
from tools.crash.flips import SETTINGS, Counts, Sweep, closed_log, segments_in, without
from tools.crash.inodes import SECTOR_BYTES, File
from tools.crash.states import GARBAGE, State

CUT_EVERY_BYTES = 7  # a prime, so that cuts are at every place of a line
HOLE_EVERY_BYTES = 64


def sweep_damages(subject: Subject) -> Counts:
    """Applies each kind of damage at every place. Raises Failure."""
    log = closed_log(subject)
    counts = Counts()
    for dedupe_entries in (SETTINGS.dedupe_entries, 0):
        settings = SETTINGS._replace(dedupe_entries=dedupe_entries)
        sweep = Sweep(log, subject._replace(settings=settings), counts)
        for what, state in _damages(log):
            counts.flips += 1
            try:
                sweep.check_damage(state)
            except Violation as error:
                raise Failure(f"{error} ({what})", counts.flips, state) from error
    return counts


def _damages(log: State) -> Iterator[tuple[str, State]]:
    files = list(segments_in(log))
    for path, ino, file in files:
        name = path.rsplit("/", 1)[1]
        for data in _damaged(file.device):
            yield f"{name} is damaged", {**log, ino: File(data, data)}
        yield f"{name} is gone", without(log, name)
    for (_, one, first), (_, other, second) in combinations(files, 2):
        yield "two segments are swapped", {**log, one: second, other: first}
        yield "a segment is there twice", {**log, other: first}
        yield "a segment is there twice", {**log, one: second}


def _damaged(data: bytes) -> Iterator[bytes]:
    """A segment cut, with a hole, or with a line gone, moved or (except the last) doubled."""
    for byte_offset in range(0, len(data), CUT_EVERY_BYTES):
        yield data[:byte_offset]
    for start in range(0, len(data), HOLE_EVERY_BYTES):
        for length in (HOLE_EVERY_BYTES, SECTOR_BYTES):
            hole = data[start : start + length]
            for fill in (b"\0", GARBAGE):
                yield b"%b%b%b" % (data[:start], fill * len(hole), data[start + length :])
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        yield data.replace(line, b"")
        if number < len(lines) - 1:  # after the last one it would be a torn tail, which may be cut
            yield data.replace(line, line + line)
    for line, after in pairwise(lines):
        yield data.replace(line + after, after + line)
