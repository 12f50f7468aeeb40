"""Verifies a whole log: re-hashes everything, and returns a read-only report.

There are two passes. The first verifies ranges of a few MiB on all cores. The second scans the log
in order, skips the verified ranges, and verifies all other lines one by one, so that each defect
is reported once.

Takes no lock. Entries that are appended meanwhile are beyond the durable end that was found at the
start. An unacknowledged tail is no damage; it is reported as `torn_bytes`. An accepted gap is
still a finding, and the lines after it are verified as readers read them.

Invariant: a report is `ok` only if every line up to the durable end continues the chain, every
signal has its own hash, and the log reaches as far as it is known to have been durable.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from eventlog.format.segment import Position
from eventlog.processes import TASKS_MAX, run_in_processes, usable_cores
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.home import Home, home_at
from eventlog.storage.segment_disk import SegmentDisk
from eventlog.verify.inventory import Inventory, inventory
from eventlog.verify.log_verifier import LogVerifier, VerifyFinding, WriterStarted
from eventlog.verify.ranges import VerifiedRange, split_ranges, verify_range

RANGE_BYTES = 1024 * 1024  # about 5 ms of work, so that all cores finish at about the same time
PARALLEL_BYTES_MIN = 8 * 1024 * 1024  # less is verified before a second process has started


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of verify."""

    entries: int  # good ones, up to the durable end
    segments: int
    last_seq: int
    chain: str  # of entry last_seq: the head of the log
    torn_bytes: int  # at the end, never acknowledged
    findings: tuple[VerifyFinding, ...]  # by segment and byte
    findings_left_out: int  # the number of further findings

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def findings_total(self) -> int:
        """The number of findings, with those that are left out."""
        return len(self.findings) + self.findings_left_out

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
) -> VerifyReport:
    """Re-hashes every line and every signal of the log at `home`, up to its durable end.

    `progress` is called with the bytes done and the bytes in total. `processes` is the most that
    run at once; None means one for each core. A program with several threads is not forked, so it
    uses one.

    Raises LogNotFound, ForeignHome, UnsafePath, EventLogError where the disk of closed segments is
    not mounted, and OSError where the log may not be read.
    """
    disk = SegmentDisk(disk or RealDisk())
    at = home_at(home)
    found = inventory(disk, at)
    verified = _verified_ranges(
        disk, at, found, progress, usable_cores() if processes is None else processes
    )
    log_verifier = LogVerifier(disk, at, found, verified)
    try:
        log_verifier.verify_all()
    except WriterStarted:
        # It has set the durable end, and may have cut the torn tail.
        return verify(home, disk=disk, progress=progress, processes=processes)
    return VerifyReport(
        entries=log_verifier.line_verifier.entries,
        segments=len(found.names),
        last_seq=log_verifier.line_verifier.tip.seq,
        chain=log_verifier.line_verifier.tip.chain,
        torn_bytes=log_verifier.torn_bytes,
        findings=tuple(sorted(log_verifier.findings)),
        findings_left_out=log_verifier.findings_left_out,
    )


def _verified_ranges(
    disk: Disk,
    home: Home,
    found: Inventory,
    progress: Callable[[int, int], object] | None,
    processes: int,
) -> dict[Position, VerifiedRange]:
    """The first pass: the ranges without a defect, by their start."""
    total = sum(span.limit for span in found.spans)
    tasks = split_ranges(found.spans, max(RANGE_BYTES, total // (TASKS_MAX - 1) + 1))
    ranges: list[VerifiedRange] = []
    done = 0

    def job(number: int) -> list[VerifiedRange]:
        examined = [verify_range(disk, home, line_range) for line_range in tasks[number]]
        return [verified for verified in examined if verified is not None]

    def on_result(number: int, result: list[VerifiedRange]) -> None:
        nonlocal done
        ranges.extend(result)
        done += sum(line_range.stop - line_range.start for line_range in tasks[number])
        if progress is not None:
            progress(done, total)

    run_in_processes(
        len(tasks), job, on_result, processes=processes if total >= PARALLEL_BYTES_MIN else 1
    )
    return {Position(verified.segment, verified.byte_from): verified for verified in ranges}
