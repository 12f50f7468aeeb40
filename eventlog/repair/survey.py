"""What is wrong with a log, place by place, and how it goes on behind each.

The reader decides what is damage, by the one rule that there is. Where it halts, the next good
line is looked for, and the reader is handed the record that leads it there; so whatever is found
here can be accepted, and whatever is accepted can be read.

A line after damage is good when it follows a chain that its surroundings still tell: the one in
the last bytes before it, one computed from a bad line whose body is whole, or that of the last
good line. Where none of these fits, because the line before it is gone, it is taken at its word if
it is well-formed, has its own sha256 right, and the line after it follows.

Invariant: no byte is changed, and every byte that the reader does not take is in a range.
"""

from dataclasses import dataclass

from eventlog.errors import LogCorrupt
from eventlog.format.durability import LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import stored_chain
from eventlog.format.scan import Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import LogReader, corrupt_error
from eventlog.repair.resync import ResyncPoint, size_of
from eventlog.storage.disk import Disk
from eventlog.storage.gap_file import is_unchanged, read_gaps
from eventlog.storage.home import Home, list_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One range of bad bytes or missing lines."""

    gap: AcceptedGap  # what `.accepted` says of it, or would
    problem: str  # continues "entry 42 ..."
    after: Position  # where the last good line before it ends; segment 0 before the first

    @property
    def is_accepted(self) -> bool:
        """Whether a person has accepted it already."""
        return self.gap.accepted_at != ""

    def to_json(self) -> dict[str, object]:
        """Where it is and what it is."""
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
    """A whole log, read from its first byte."""

    damages: tuple[Damage, ...]  # in the order of the log
    end: LogEnd  # where the log ends once the damages are accepted
    good_end: LogEnd  # the same, but where the log ends in bad bytes: before them
    torn_bytes: int  # unacknowledged, after `end`
    needs_new_segment: bool  # that of `end` is yet to be made: what stands before it is bad
    halt: LogCorrupt | None  # what no range can express; nothing behind it was looked at

    @property
    def unaccepted_damages(self) -> tuple[Damage, ...]:
        """Those that nobody has accepted."""
        return tuple(damage for damage in self.damages if not damage.is_accepted)


def survey(disk: Disk, home: Home, durable_end: LogEnd) -> Survey:
    """Reads the whole log. The caller holds the lock; `durable_end` is the end known to be durable.

    Raises LogCorrupt where a file stands among the segments that is none, and OSError.
    """
    records = read_gaps(disk, home)
    active_gaps: list[AcceptedGap] = []
    damages: list[Damage] = []
    halt: LogCorrupt | None = None
    halted_at: tuple[Position, Tip] | None = None
    reader = LogReader(disk, home, holds_lock=True, accepted_gaps=active_gaps)
    try:
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
    finally:
        reader.close()


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
        # Whatever is appended to a file that ends in bad bytes would be glued to them.
        end = LogEnd(tip.seq + 1, 0, tip.seq, tip.chain)
        assert halted_at is not None, "there is damage"
        good_end = LogEnd(*halted_at[0], halted_at[1].seq, halted_at[1].chain)
    elif position.segment and halt is None:
        torn_bytes = size_of(disk, home, position.segment) - position.byte_offset
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
    """The error where `lines`, just read, hold another entry than the one that was durable."""
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
    """The range that starts where the reader halted; None where no range leads on."""
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
