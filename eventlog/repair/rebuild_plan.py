"""The rebuild plan: which segments to rebuild, from bytes of the log and lines of a backup.

Lines that were lost with whole segments are rebuilt under the segment names of the backup.

Invariant: a plan keeps every byte of the log that is in no damaged range.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from eventlog.repair.survey import Damage


class OwnBytes(NamedTuple):
    """Bytes of the segment itself."""

    byte_from: int
    byte_to: int


class BackupLines(NamedTuple):
    """Entries of the backup."""

    seq_from: int
    seq_to: int


SegmentParts = list[OwnBytes | BackupLines]  # of one segment, in order


class RebuildPlan:
    """The parts of each segment to rebuild. `sizes`: bytes of each segment of the log."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = sizes
        self._affected: list[tuple[Damage, set[int]]] = []  # the segments of each damage
        self.parts: dict[int, SegmentParts] = {}

    def add(self, damage: Damage, backup_segments: Sequence[int]) -> None:
        """Plans the repair of one damage. Damages are added in the order of the log."""
        gap = damage.gap
        exists = gap.segment in self._sizes
        target = gap.segment if exists else damage.after.segment
        to_end = not exists or gap.byte_to == self._sizes[gap.segment]
        starts = [
            s for s in backup_segments if to_end and s > target and gap.seq_from <= s <= gap.seq_to
        ]
        backup_lines = BackupLines(gap.seq_from, min(starts, default=gap.seq_to + 1) - 1)
        affected_segments = set(starts)
        if exists:
            parts = self._parts_of(target)
            rest = parts.pop()
            assert isinstance(rest, OwnBytes), "damages are added in the order of the log"
            parts += [
                OwnBytes(rest.byte_from, gap.byte_from),
                backup_lines,
                OwnBytes(gap.byte_to, rest.byte_to),
            ]
            affected_segments.add(target)
        elif backup_lines.seq_from <= backup_lines.seq_to:
            segment = target or gap.seq_from
            self._parts_of(segment).append(backup_lines)
            affected_segments.add(segment)
        for start, end in pairwise([*starts, gap.seq_to + 1]):
            self.parts[start] = [BackupLines(start, end - 1)]
        self._affected.append((damage, affected_segments))

    def runs(self) -> list[list[int]]:
        """The segments to build, in runs; good lines of the log between runs give the chain."""
        runs: list[list[int]] = []
        before = 0
        for segment in sorted({*self._sizes, *self.parts}):
            if segment in self.parts:
                is_adjacent = before in self.parts
                if is_adjacent and not (
                    _are_own_bytes(self.parts[before][-1], self.parts[segment][0])
                ):
                    runs[-1].append(segment)
                else:
                    runs.append([segment])
            before = segment
        return runs

    def damages_fixed_by(self, built: Iterable[int]) -> list[Damage]:
        """The damages that are repaired once these segments are built."""
        return [damage for damage, segments in self._affected if segments <= set(built)]

    def parts_of_run(self, run: Sequence[int]) -> dict[int, SegmentParts]:
        """The parts of the segments of a run."""
        return {segment: self.parts[segment] for segment in run}

    def with_following(self, run: Sequence[int]) -> dict[int, SegmentParts]:
        """The same with the run or segment after it, which is checked while it is built."""
        following = min((s for s in self._sizes if s > run[-1]), default=0)
        found = self.parts_of_run(run)
        if following in self.parts:
            next_run = next(other for other in self.runs() if other[0] == following)
            found.update(self.parts_of_run(next_run))
        elif following:
            found[following] = [OwnBytes(0, self._sizes[following])]
        return found

    def from_common_start(self, run: Sequence[int], start: int) -> dict[int, SegmentParts]:
        """The same, with all entries from segment `start` up to the damage from the backup."""
        found: dict[int, SegmentParts] = {}
        before = [s for s in self._sizes if start <= s < run[0]]
        for segment, following in pairwise([*sorted(before), run[0]]):
            found[segment] = [BackupLines(segment, following - 1)]
        found.update(self.parts_of_run(run))
        index = next(i for i, part in enumerate(found[run[0]]) if isinstance(part, BackupLines))
        first = found[run[0]][index]
        assert isinstance(first, BackupLines), "each planned segment lacks some lines"
        found[run[0]] = [BackupLines(run[0], first.seq_to), *found[run[0]][index + 1 :]]
        return found

    def _parts_of(self, segment: int) -> SegmentParts:
        if segment not in self.parts:
            self.parts[segment] = (
                [OwnBytes(0, self._sizes[segment])] if segment in self._sizes else []
            )
        return self.parts[segment]


def _are_own_bytes(*parts: OwnBytes | BackupLines) -> bool:
    return all(isinstance(part, OwnBytes) and part.byte_from < part.byte_to for part in parts)
