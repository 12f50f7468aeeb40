"""Surveys a damaged log: each damaged range, and where the log continues after it.

The reader decides what is damage. Where it halts, the survey finds the next valid line (see
`resync`) and passes the reader the record of the gap before it. So every range that is found here
can be accepted, and an accepted range can be read past.

Invariant: no byte is changed, and every byte that the reader rejects is in a range.
"""

from contextlib import closing
from dataclasses import dataclass

from eventlog.errors import LogCorrupt
from eventlog.format.durability import LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import stored_chain
from eventlog.format.scan import Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.lines import corrupt_error
from eventlog.read.reader import LogReader
from eventlog.repair.resync import ResyncPoint
from eventlog.storage.disk import Disk, size_of
from eventlog.storage.gap_file import is_unchanged, read_gaps
from eventlog.storage.home import Home, list_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One range of bad bytes or missing lines."""

    gap: AcceptedGap  # its record in `.accepted`, or the one to add
    problem: str  # continues "entry 42 ..."
    after: Position  # the end of the last good line before it; segment 0 before the first

    @property
    def is_accepted(self) -> bool:
        """Whether an operator has accepted it already."""
        return self.gap.accepted_at != ""

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog repair --json`."""
        gap = self.gap
        return {
            "segment": segment_name(gap.segment),
            "byte_from": gap.byte_from,
            "byte_to": gap.byte_to,
            "seq_from": gap.seq_from,
            "seq_to": gap.seq_to,
            "problem": self.problem,
            "accepted_at": gap.accepted_at or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The result of reading a whole log."""

    damages: tuple[Damage, ...]  # in the order of the log
    end: LogEnd  # of the log once the damages are accepted
    good_end: LogEnd  # the same, but before bad bytes at the end of the log
    torn_bytes: int  # unacknowledged, after `end`
    needs_new_segment: (
        bool  # the segment of `end` must be created: the one before ends in bad bytes
    )
    halt: LogCorrupt | None  # a damage that is no range; nothing after it was read

    @property
    def unaccepted_damages(self) -> tuple[Damage, ...]:
        """The damages that are not accepted."""
        return tuple(damage for damage in self.damages if not damage.is_accepted)


def survey(disk: Disk, home: Home, durable_end: LogEnd) -> Survey:
    """Reads the whole log. The caller holds the lock; `durable_end` is the end known to be durable.

    Raises LogCorrupt where a foreign file is among the segments, and OSError.
    """
    records = read_gaps(disk, home)
    active_gaps: list[AcceptedGap] = []
    damages: list[Damage] = []
    halt: LogCorrupt | None = None
    halted_at: tuple[Position, Tip] | None = None
    with closing(LogReader(disk, home, holds_lock=True, accepted_gaps=active_gaps)) as reader:
        while True:
            try:
                lines = reader.read()
            except LogCorrupt as error:
                at = (reader.position, reader.tip)
                damage = _damage_at_halt(disk, home, reader, error, durable_end, records)
                if at == halted_at or damage is None:
                    halt = error
                    break
                halted_at = at
                damages.append(damage)
                active_gaps[:] = [damage.gap]
                continue
            if not lines:
                break
            halt = halt or _durable_entry_error(lines, reader, durable_end)
        return _survey(disk, home, reader, damages, halted_at, halt)


def _survey(
    disk: Disk,
    home: Home,
    reader: LogReader,
    damages: list[Damage],
    halted_at: tuple[Position, Tip] | None,
    halt: LogCorrupt | None,
) -> Survey:
    tip, position = reader.tip, reader.position
    good_end = end = LogEnd(*position, tip.seq, tip.chain)
    ends_bad = bool(damages) and damages[-1].gap.tip == tip
    needs_new_segment = ends_bad and position.segment != tip.seq + 1
    torn_bytes = 0
    if needs_new_segment:
        # A line that is appended to a file with bad bytes at its end would become part of them.
        end = LogEnd(tip.seq + 1, 0, tip.seq, tip.chain)
        assert halted_at is not None, "there is damage"
        good_end = LogEnd(*halted_at[0], halted_at[1].seq, halted_at[1].chain)
    elif position.segment and halt is None:
        size = size_of(disk, home.segment_path(position.segment))
        torn_bytes = size - position.byte_offset
    return Survey(
        damages=tuple(damages),
        end=end,
        good_end=good_end,
        torn_bytes=torn_bytes,
        needs_new_segment=needs_new_segment,
        halt=halt,
    )


def _durable_entry_error(
    lines: list[bytes], reader: LogReader, durable_end: LogEnd
) -> LogCorrupt | None:
    """The error where `lines` have another entry at the durable end; None where they do not."""
    index = durable_end.seq - (reader.tip.seq - len(lines) + 1)
    if not 0 <= index < len(lines) or stored_chain(lines[index]) == durable_end.chain:
        return None
    segment, byte_offset = reader.position
    byte_offset -= sum(map(len, lines[index:]))
    return corrupt_error("is not the one that was durable", segment, byte_offset, durable_end.seq)


def _damage_at_halt(
    disk: Disk,
    home: Home,
    reader: LogReader,
    error: LogCorrupt,
    durable_end: LogEnd,
    records: list[AcceptedGap],
) -> Damage | None:
    """The range that starts where the reader halted; None where it cannot be read past."""
    tip, position = reader.tip, reader.position
    seq = tip.seq + 1
    problem = error.problem.removeprefix(f"entry {seq} ")
    segments = list_segments(disk, home)
    resync_point = ResyncPoint(disk, home, tip, position, segments, durable_end)
    start = resync_point.start()
    for record in records:
        if record.starts_at(*start, seq) and is_unchanged(disk, home, record, segments):
            return Damage(gap=record, problem=problem, after=position)
    gap = resync_point.gap()
    makes_progress = gap.byte_to > gap.byte_from or gap.seq_to >= gap.seq_from
    return Damage(gap=gap, problem=problem, after=position) if makes_progress else None
