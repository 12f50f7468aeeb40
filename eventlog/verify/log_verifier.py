"""Scans a log that may be damaged, and reports each defect as a finding with its position.

Where no lock record gives the durable end, the recovery rule decides about the end of the log: bad
bytes without evidence that they were durable are torn, and no finding.

Invariant: every byte up to the durable end is verified, except the gaps that readers skip.
"""

from dataclasses import dataclass

from eventlog.errors import UnsafePath
from eventlog.format.durability import LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import LINE_BYTES_MAX
from eventlog.format.segment import Position, segment_index, segment_name
from eventlog.read.lines import evidence_after
from eventlog.read.problems import beyond_end_problem
from eventlog.read.seek import find_line
from eventlog.storage.disk import Disk, opened
from eventlog.storage.durable_state import read_durable_end
from eventlog.storage.gap_file import is_unchanged, read_gaps
from eventlog.storage.home import Home
from eventlog.verify.inventory import FileProblem, Inventory, SegmentSpan
from eventlog.verify.line_verifier import Defect, LineVerifier
from eventlog.verify.ranges import RawLines, VerifiedRange

FINDINGS_MAX = 1000  # more are of no use, and a log of garbage must not fill the memory


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class VerifyFinding:
    """One defect and its position."""

    segment: str  # name of the file
    byte_offset: int  # where in it
    seq: int  # of the first entry that should be there; 0 where none should
    problem: str

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog verify --json`."""
        return {
            "segment": self.segment,
            "byte_offset": self.byte_offset,
            "seq": self.seq,
            "problem": self.problem,
        }


class WriterStarted(Exception):
    """A writer has started since the inventory was taken, so the scan must be repeated."""


class LogVerifier:
    """One scan. `verified`: ranges that are verified already, by their start."""

    def __init__(
        self, disk: Disk, home: Home, found: Inventory, verified: dict[Position, VerifiedRange]
    ) -> None:
        self._disk = disk
        self._home = home
        self._inventory = found
        self._verified_ranges = verified
        self._unusable_files = dict(found.unusable_files)
        self._accepted = read_gaps(disk, home)
        self.line_verifier = LineVerifier()
        self.torn_bytes = found.torn_bytes
        self.findings: list[VerifyFinding] = []
        self.findings_left_out = 0

    def verify_all(self) -> None:
        """Scans from the first byte to the durable end. Raises WriterStarted."""
        for file_problem in self._inventory.file_problems:
            self._report(file_problem)
        at = Position(0, 0)
        for span in self._inventory.spans:
            self._enter_segment(span, at)
            self._verify_segment(span)
            at = Position(span.named, span.limit)
        self._check_durable_end(at)
        for file_problem in self._unusable_files.values():
            self._report(file_problem)

    def _enter_segment(self, span: SegmentSpan, before: Position) -> None:
        """Checks that the segment continues the one before, which ends at `before`."""
        while (defect := self.line_verifier.enter_segment(span.first_seq)) is not None:
            gap = self._accepted_gap(before, defect) or self._accepted_gap(
                Position(defect.seq, 0), defect
            )
            if gap is not None and gap.seq_to < defect.seq:
                gap = None  # its bytes are not those of a missing entry
            file_problem = self._unusable_files.pop(defect.seq, None)
            if file_problem is not None:
                self._report(file_problem)
            else:
                self._add_defect(before if before.segment else Position(span.named, 0), defect, gap)
            if gap is None:
                return
            self.line_verifier.resume_after_gap(gap.tip)

    def _verify_segment(self, span: SegmentSpan) -> None:
        try:
            with opened(self._disk, self._home.segment_path(span.named)) as fd:
                self._verify_lines(span, fd)
        except (FileNotFoundError, UnsafePath):  # it was replaced since the inventory
            problem = "is gone: its segment was removed"
            defect = self.line_verifier.check_malformed(b"", problem)
            self._add_defect(Position(span.named, 0), defect)

    def _verify_lines(self, span: SegmentSpan, fd: int) -> None:
        lines = RawLines(self._disk, fd, span.limit)
        byte_offset = 0
        while byte_offset < span.limit:
            verified = self._verified_ranges.get(Position(span.named, byte_offset))
            if (
                verified is not None
                and self.line_verifier.is_in_sync
                and self.line_verifier.tip == verified.before
            ):
                self.line_verifier.skip_verified(verified.after)
                byte_offset = verified.byte_to
            else:
                byte_offset = self._verify_line(span, fd, lines, byte_offset)

    def _verify_line(self, span: SegmentSpan, fd: int, lines: RawLines, byte_offset: int) -> int:
        """Verifies the line that starts at `byte_offset`; returns where to continue."""
        at = Position(span.named, byte_offset)
        try:
            data, byte_to = lines.at(byte_offset)
        except OSError as error:
            self._add_defect(
                at, self.line_verifier.check_malformed(b"", f"cannot be read: {error.strerror}")
            )
            return span.limit
        if len(data) < byte_to - byte_offset:
            defect = self.line_verifier.check_malformed(
                data, f"is longer than {LINE_BYTES_MAX} bytes"
            )
        elif data.endswith(b"\n"):
            defect = self.line_verifier.check(data)
        else:
            defect = self.line_verifier.check_malformed(data, "is cut off")
            byte_to = span.limit
        if defect is None:
            return byte_to
        if self._is_torn(span, fd, byte_offset, defect):
            self.torn_bytes = span.limit - byte_offset
            return span.limit
        gap = self._accepted_gap(at, defect)
        self._add_defect(at, defect, gap)
        if gap is None:
            return byte_to
        self.line_verifier.resume_after_gap(gap.tip)
        return gap.byte_to

    def _is_torn(self, span: SegmentSpan, fd: int, byte_offset: int, defect: Defect) -> bool:
        """Whether the bytes from there on may never have been durable. Raises WriterStarted."""
        watermark_end = self._inventory.watermark_end
        if (
            self._inventory.is_end_known
            or defect.is_chained
            or span is not self._inventory.spans[-1]
            or span.named
            < self._inventory.names[-1]  # created once all bytes before it were durable
            or (watermark_end is not None and watermark_end.seq >= defect.seq)
            or len(self.findings) >= FINDINGS_MAX
        ):
            return False
        found = evidence_after(self._disk, self._home, fd, byte_offset, span.limit, defect.seq)
        if read_durable_end(self._disk, self._home) is not None:
            raise WriterStarted
        return not found

    def _check_durable_end(self, at: Position) -> None:
        """Checks that the log, which ends `at`, reaches its durable end."""
        tip = self.line_verifier.tip
        ends = [
            end
            for end in (self._inventory.lock_record_end, self._inventory.watermark_end)
            if end is not None
        ]
        durable_seq = max((end.seq for end in ends), default=0)
        if self.line_verifier.is_in_sync and tip.seq < durable_seq:
            seq = tip.seq + 1
            file_problem = self._unusable_files.pop(seq, None)
            problem = beyond_end_problem(durable_seq)
            if file_problem is not None:
                self._report(file_problem)
            else:
                self._add_defect(at if at.segment else Position(1, 0), Defect(seq, problem))
        for end in ends:
            if self._inventory.names and not self.findings:  # a finding would be the likely reason
                self._check_durable_entry(end)

    def _check_durable_entry(self, end: LogEnd) -> None:
        """Checks that the entry at a known durable end is still the same."""
        names = self._inventory.names
        segment = names[segment_index(names, end.seq)]
        with opened(self._disk, self._home.segment_path(segment)) as fd:
            line = find_line(self._disk, fd, end.seq)
        if line is None or line.tip.chain != end.chain:
            at = Position(segment, line.byte_from if line is not None else 0)
            self._add_defect(at, Defect(end.seq, "is not the one that was durable"))

    def _accepted_gap(self, at: Position, defect: Defect) -> AcceptedGap | None:
        """The accepted gap at that position, if its bytes are unchanged."""
        if defect.is_chained:
            return None  # readers do not halt at such a defect
        here = (gap for gap in self._accepted if gap.starts_at(*at, defect.seq))
        names = self._inventory.names
        unchanged = (gap for gap in here if is_unchanged(self._disk, self._home, gap, names))
        return next(unchanged, None)

    def _add_defect(
        self, at: Position, defect: Defect | None, gap: AcceptedGap | None = None
    ) -> None:
        if defect is None:
            return  # part of a damage that was reported before
        problem = f"entry {defect.seq} {defect.problem}"
        if gap is not None:
            problem += f" (accepted on {gap.accepted_at[:10]})"
        self._report(FileProblem(segment_name(at.segment), defect.seq, problem), at.byte_offset)

    def _report(self, file_problem: FileProblem, byte_offset: int = 0) -> None:
        if len(self.findings) < FINDINGS_MAX:
            finding = VerifyFinding(
                segment=file_problem.segment,
                byte_offset=byte_offset,
                seq=file_problem.seq,
                problem=file_problem.problem,
            )
            self.findings.append(finding)
        else:
            self.findings_left_out += 1
