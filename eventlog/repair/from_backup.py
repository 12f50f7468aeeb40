"""Puts original bytes back from a backup.

Each damaged segment is built anew, as `builder` says. Segments whose damage runs over from one
into the next are put back together or not at all; of others as many as the backup has.

Invariant: a crash at any step leaves each segment as it was or whole, and running again finishes.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from eventlog.format.durability import LogEnd
from eventlog.format.segment import segment_name
from eventlog.repair.rebuild_plan import BackupLines, RebuildPlan
from eventlog.repair.resync import size_of
from eventlog.repair.segment_builder import BackupInsufficient, BackupSegments, SegmentBuilder
from eventlog.repair.survey import Damage
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home, list_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredRange:
    """A range that holds its original bytes again."""

    segment: int
    seq_from: int
    seq_to: int
    problem: str  # that there was
    accepted_at: str  # empty where nobody had accepted it; else its record says nothing any more
    kept_in: str | None  # the name of the damaged file now; None where the segment was missing

    def to_json(self) -> dict[str, object]:
        """What was restored, and where what stood there is kept."""
        return {
            "segment": segment_name(self.segment),
            "seq_from": self.seq_from,
            "seq_to": self.seq_to,
            "problem": self.problem,
            "accepted_at": self.accepted_at or None,
            "kept_in": self.kept_in,
        }


class BackupRepair(NamedTuple):
    """What a backup could do."""

    restored: tuple[RestoredRange, ...]
    insufficiencies: tuple[str, ...]  # where it could not help, and why


def repair_from_backup(
    disk: Disk, home: Home, backup: BackupSegments, damages: Sequence[Damage], durable_end: LogEnd
) -> BackupRepair:
    """Puts back what the backup has of `damages`. The caller holds the lock. Raises OSError."""
    sizes = {segment: size_of(disk, home, segment) for segment in list_segments(disk, home)}
    plan = RebuildPlan(sizes)
    for damage in damages:
        plan.add(damage, backup.segments)
    restored: list[RestoredRange] = []
    insufficiencies: list[str] = []
    done: set[int] = set()
    for run in plan.runs():
        if run[0] in done:
            continue  # together with the one before
        builder = SegmentBuilder(disk, home, backup, durable_end)
        try:
            altered = _build(builder, plan, run)
            kept_in = builder.install()
        except BackupInsufficient as why:
            insufficiencies.append(f"{segment_name(run[0])}: {why}")
        else:
            restored += [_altered_range(entries, kept_in) for entries in altered]
            restored += [
                _restored_range(damage, kept_in) for damage in plan.damages_fixed_by(kept_in)
            ]
            done.update(kept_in)
        finally:
            builder.clean_up()
    return BackupRepair(tuple(restored), tuple(insufficiencies))


def _build(builder: SegmentBuilder, plan: RebuildPlan, run: list[int]) -> list[BackupLines]:
    """Builds a row. Gives the entries, by segment, that looked good and were not."""
    try:
        builder.build(plan.parts_of_run(run))
        return []
    except BackupInsufficient as why:
        builder.clean_up()
        # The first line of the next segment was taken at its word; now its chain is told.
        with suppress(BackupInsufficient):
            parts = plan.with_following(run)
            builder.build(parts)
            return [BackupLines(s, s) for s in parts if s not in plan.parts]
        builder.clean_up()
        # Lines before the damage may be somebody's, who edited some and chained them anew: then
        # the first original line is the one that looks bad.
        with suppress(BackupInsufficient):
            parts = plan.from_common_start(run, builder.common_start(run[0]))
            builder.build(parts)
            return [BackupLines(s, end - 1) for s, end in pairwise(s for s in parts if s <= run[0])]
        raise why


def _altered_range(entries: BackupLines, kept_in: Mapping[int, str | None]) -> RestoredRange:
    return RestoredRange(
        segment=entries.seq_from,
        seq_from=entries.seq_from,
        seq_to=entries.seq_to,
        problem="is not what was written",
        accepted_at="",
        kept_in=kept_in[entries.seq_from],
    )


def _restored_range(damage: Damage, kept_in: Mapping[int, str | None]) -> RestoredRange:
    gap = damage.gap
    return RestoredRange(
        segment=gap.segment,
        seq_from=gap.seq_from,
        seq_to=gap.seq_to,
        problem=damage.problem,
        accepted_at=gap.accepted_at,
        kept_in=kept_in.get(gap.segment),
    )
