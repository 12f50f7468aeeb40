"""Re-hash everything: a read-only report on a whole log, whatever its bytes are.

Two passes. The first asks of pieces of a few MiB, on all cores, whether all is well with them. The
second walks the log in order, steps over the pieces that are well, and judges all else line by
line, here: so what is wrong is told once, by one judge who knows what came before.

No lock is taken. What writers append meanwhile lies beyond the durable end that was found at the
start. An unacknowledged tail is no damage; it is told as `torn_bytes`. Damage that a person
accepted is still a finding, and what follows it is judged as readers read it.

Invariant: a report is `ok` only if every line up to the durable end continues the chain, every
signal has its own hash, and the log reaches as far as it is known to have been durable.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from eventlog.format.segment import Position
from eventlog.processes import TASKS_MAX, cores, run
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.home import Home, home_at
from eventlog.storage.segment_disk import Shelf
from eventlog.verify.inventory import Inventory, inventory
from eventlog.verify.log_verifier import Finding, Walk, WriterCame
from eventlog.verify.ranges import Well, cut, examine

PIECE_BYTES = 1024 * 1024  # about 5 ms of work: so all cores end at about the same time
PARALLEL_BYTES_MIN = 8 * 1024 * 1024  # less is done before a second process would be of use


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What verify found."""

    entries: int  # good ones, up to the durable end
    segments: int
    last_seq: int
    chain: str  # of entry last_seq: the head of the log
    torn_bytes: int  # at the end, and never acknowledged
    findings: tuple[Finding, ...]  # by segment and byte
    findings_left_out: int  # how many more there are

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog verify --json`."""
        return {
            "ok": self.ok,
            "entries": self.entries,
            "segments": self.segments,
            "last_seq": self.last_seq,
            "chain": self.chain,
            "torn_bytes": self.torn_bytes,
            "findings": [finding.to_json() for finding in self.findings],
            "findings_left_out": self.findings_left_out,
        }


def verify(
    home: str | os.PathLike[str],
    *,
    disk: Disk | None = None,
    progress: Callable[[int, int], object] | None = None,
    processes: int | None = None,
) -> Report:
    """Re-hashes every line and every signal of the log at `home`, up to its durable end.

    `progress` is called with the bytes done and the bytes in all. `processes`: at most so many
    work at once; None is one for each core. A program of several threads is not forked, so there
    it is always one.

    Raises LogNotFound, ForeignHome, UnsafePath, EventLogError where the disk of closed segments is
    not mounted, and OSError where the log may not be read.
    """
    disk = Shelf(disk or RealDisk())
    at = home_at(home)
    found = inventory(disk, at)
    well = _well(disk, at, found, progress, cores() if processes is None else processes)
    walk = Walk(disk, at, found, well)
    try:
        walk.through()
    except WriterCame:
        # It says what is durable, and may have cut what looked torn.
        return verify(home, disk=disk, progress=progress, processes=processes)
    return Report(
        entries=walk.judge.entries,
        segments=len(found.names),
        last_seq=walk.judge.tip.seq,
        chain=walk.judge.tip.chain,
        torn_bytes=walk.torn_bytes,
        findings=tuple(sorted(walk.findings)),
        findings_left_out=walk.findings_left_out,
    )


def _well(
    disk: Disk,
    home: Home,
    found: Inventory,
    progress: Callable[[int, int], object] | None,
    processes: int,
) -> dict[Position, Well]:
    """The first pass: the pieces with which all is well, by where they start."""
    total = sum(place.limit for place in found.places)
    groups = cut(found.places, max(PIECE_BYTES, total // (TASKS_MAX - 1) + 1))
    pieces: list[Well] = []
    done = 0

    def job(number: int) -> list[Well]:
        examined = [examine(disk, home, piece) for piece in groups[number]]
        return [well for well in examined if well is not None]

    def answered(number: int, answer: list[Well]) -> None:
        nonlocal done
        pieces.extend(answer)
        done += sum(piece.stop - piece.start for piece in groups[number])
        if progress is not None:
            progress(done, total)

    run(len(groups), job, answered, processes=processes if total >= PARALLEL_BYTES_MIN else 1)
    return {Position(well.segment, well.byte_from): well for well in pieces}
