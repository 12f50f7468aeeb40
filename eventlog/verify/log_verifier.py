"""The walk through a log that may be damaged: each flaw becomes a finding, with its place.

Where the word does not say how far the log is durable, the recovery rule decides about its end:
bad bytes without evidence that they were durable are torn, and no finding.

Invariant: nothing is left unjudged up to the durable end, but what readers pass over.
"""

from dataclasses import dataclass

from eventlog.errors import UnsafePath
from eventlog.format.durability import End
from eventlog.format.gap import Accepted
from eventlog.format.line import LINE_BYTES_MAX
from eventlog.format.segment import Position, segment_holding, segment_name
from eventlog.read.reader import evidence_after
from eventlog.read.seek import find_line
from eventlog.storage.disk import Disk
from eventlog.storage.durable_state import read_word
from eventlog.storage.gap_file import is_unchanged, read_accepted
from eventlog.storage.home import Home
from eventlog.verify.inventory import Fault, Inventory, Place
from eventlog.verify.line_verifier import Flaw, Judge
from eventlog.verify.ranges import Lines, Well

FINDINGS_MAX = 1000  # nobody reads more, and a log of garbage must not fill the memory


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing that is wrong."""

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


class WriterCame(Exception):
    """A writer says by now what is durable; what was seen without its word counts no more."""


class Walk:
    """One walk. `well`: lines that were found good already, by where they start."""

    def __init__(
        self, disk: Disk, home: Home, found: Inventory, well: dict[Position, Well]
    ) -> None:
        self._disk = disk
        self._home = home
        self._found = found
        self._well = well
        self._absent = dict(found.absent)
        self._accepted = read_accepted(disk, home)
        self.judge = Judge()
        self.torn_bytes = found.torn_bytes
        self.findings: list[Finding] = []
        self.findings_left_out = 0

    def through(self) -> None:
        """Walks from the first byte to the durable end. Raises WriterCame."""
        for fault in self._found.faults:
            self._tell(fault)
        at = Position(0, 0)
        for place in self._found.places:
            self._enter(place, at)
            self._walk(place)
            at = Position(place.named, place.limit)
        self._check_reach(at)
        for fault in self._absent.values():
            self._tell(fault)

    def _enter(self, place: Place, before: Position) -> None:
        """The step into a place, from the end of the one before."""
        while (flaw := self.judge.enter(place.first_seq)) is not None:
            gap = self._gap(before, flaw) or self._gap(Position(flaw.seq, 0), flaw)
            if gap is not None and gap.seq_to < flaw.seq:
                gap = None  # bytes in nobody's place: they stand for no entry that is missing
            fault = self._absent.pop(flaw.seq, None)
            if fault is not None:
                self._tell(fault)
            else:
                self._add(before if before.segment else Position(place.named, 0), flaw, gap)
            if gap is None:
                return
            self.judge.resume(gap.tip)

    def _walk(self, place: Place) -> None:
        try:
            fd = self._disk.open(self._home.segment_path(place.named), writable=False)
        except (FileNotFoundError, UnsafePath):  # it was another one a moment ago
            at = Position(place.named, 0)
            self._add(at, self.judge.take_broken(b"", "is gone: its segment was taken away"))
            return
        try:
            lines = Lines(self._disk, fd, place.limit)
            byte_offset = 0
            while byte_offset < place.limit:
                well = self._well.get(Position(place.named, byte_offset))
                if well is not None and self.judge.is_sure and self.judge.tip == well.before:
                    self.judge.skip(well.after)
                    byte_offset = well.byte_to
                else:
                    byte_offset = self._step(place, fd, lines, byte_offset)
        finally:
            self._disk.close(fd)

    def _step(self, place: Place, fd: int, lines: Lines, byte_offset: int) -> int:
        """Judges the line that starts there; returns where to go on."""
        at = Position(place.named, byte_offset)
        try:
            data, byte_to = lines.at(byte_offset)
        except OSError as error:
            self._add(at, self.judge.take_broken(b"", f"cannot be read: {error.strerror}"))
            return place.limit
        if len(data) < byte_to - byte_offset:
            flaw = self.judge.take_broken(data, f"is longer than {LINE_BYTES_MAX} bytes")
        elif data.endswith(b"\n"):
            flaw = self.judge.take(data)
        else:
            flaw = self.judge.take_broken(data, "is cut off")
            byte_to = place.limit
        if flaw is None:
            return byte_to
        if self._is_torn(place, fd, byte_offset, flaw):
            self.torn_bytes = place.limit - byte_offset
            return place.limit
        gap = self._gap(at, flaw)
        self._add(at, flaw, gap)
        if gap is None:
            return byte_to
        self.judge.resume(gap.tip)
        return gap.byte_to

    def _is_torn(self, place: Place, fd: int, byte_offset: int, flaw: Flaw) -> bool:
        """Whether what starts there need not have been durable. Raises WriterCame."""
        marked = self._found.marked_end
        if (
            self._found.is_bounded
            or flaw.is_chained
            or place is not self._found.places[-1]
            or place.named < self._found.names[-1]  # made when all before it was durable
            or (marked is not None and marked.seq >= flaw.seq)
            or len(self.findings) >= FINDINGS_MAX
        ):
            return False
        found = evidence_after(self._disk, fd, byte_offset, place.limit, flaw.seq)
        if read_word(self._disk, self._home) is not None:
            raise WriterCame
        return not found

    def _check_reach(self, at: Position) -> None:
        """Whether the log, which ends `at`, holds what is known to have been durable."""
        tip = self.judge.tip
        ends = [end for end in (self._found.word_end, self._found.marked_end) if end is not None]
        durable_seq = max((end.seq for end in ends), default=0)
        if self.judge.is_sure and tip.seq < durable_seq:
            seq = tip.seq + 1
            fault = self._absent.pop(seq, None)
            problem = f"is gone: the log was durable up to entry {durable_seq}"
            if fault is not None:
                self._tell(fault)
            else:
                self._add(at if at.segment else Position(1, 0), Flaw(seq, problem))
        for end in ends:
            if self._found.names and not self.findings:  # which would be the likely reason
                self._check_end(end)

    def _check_end(self, end: End) -> None:
        """Whether the entry that was last, once, is still the one that it was."""
        names = self._found.names
        segment = names[segment_holding(names, end.seq)]
        fd = self._disk.open(self._home.segment_path(segment), writable=False)
        try:
            line = find_line(self._disk, fd, end.seq)
        finally:
            self._disk.close(fd)
        if line is None or line.tip.chain != end.chain:
            at = Position(segment, line.byte_from if line is not None else 0)
            self._add(at, Flaw(end.seq, "is not the one that was durable"))

    def _gap(self, at: Position, flaw: Flaw) -> Accepted | None:
        """What a person accepted there, if that is still what stands there."""
        if flaw.is_chained:
            return None  # readers do not halt there
        here = (gap for gap in self._accepted if gap.starts_at(*at, flaw.seq))
        stands = (g for g in here if is_unchanged(self._disk, self._home, g, self._found.names))
        return next(stands, None)

    def _add(self, at: Position, flaw: Flaw | None, gap: Accepted | None = None) -> None:
        if flaw is None:
            return  # more of a damage that was told before
        problem = f"entry {flaw.seq} {flaw.problem}"
        if gap is not None:
            problem += f" (accepted on {gap.accepted_at[:10]})"
        self._tell(Fault(segment_name(at.segment), flaw.seq, problem), at.byte_offset)

    def _tell(self, fault: Fault, byte_offset: int = 0) -> None:
        if len(self.findings) < FINDINGS_MAX:
            finding = Finding(
                segment=fault.segment,
                byte_offset=byte_offset,
                seq=fault.seq,
                problem=fault.problem,
            )
            self.findings.append(finding)
        else:
            self.findings_left_out += 1
