"""Repairs damaged segments from a backup.

Each damaged segment is rebuilt by a SegmentBuilder. Segments with a damage across their border are
repaired together or not at all; all others as far as the backup has their lines.

Invariant: a crash at any step leaves each segment as it was or whole, and a second run completes
the repair.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from eventlog.format.durability import LogEnd
from eventlog.format.segment import segment_name
from eventlog.repair.rebuild_plan import BackupLines, RebuildPlan
from eventlog.repair.segment_builder import BackupInsufficient, BackupSegments, SegmentBuilder
from eventlog.repair.survey import Damage
from eventlog.storage.disk import Disk, size_of
from eventlog.storage.home import Home, list_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredRange:
    """A range that has its original bytes again."""

    segment: int
    seq_from: int
    seq_to: int
    problem: str  # before the repair
    accepted_at: str  # empty unless it was an accepted gap, whose record has no effect any more
    kept_in: str | None  # the new name of the damaged file; None where the segment was missing

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog repair --json`."""
        return {
            "segment": segment_name(self.segment),
            "seq_from": self.seq_from,
            "seq_to": self.seq_to,
            "problem": self.problem,
            "accepted_at": self.accepted_at or None,
            "kept_in": self.kept_in,
        }


class BackupRepair(NamedTuple):
    """The result of a repair from a backup."""

    restored: tuple[RestoredRange, ...]
    insufficiencies: tuple[str, ...]  # segments that the backup could not repair, and why


def repair_from_backup(
    disk: Disk, home: Home, backup: BackupSegments, damages: Sequence[Damage], durable_end: LogEnd
) -> BackupRepair:
    """Repairs those of `damages` for which the backup has the lines; the caller holds the lock.

    Raises OSError.
    """
    sizes = {
        segment: size_of(disk, home.segment_path(segment)) for segment in list_segments(disk, home)
    }
    plan = RebuildPlan(sizes)
    for damage in damages:
        plan.add(damage, backup.segments)
    restored: list[RestoredRange] = []
    insufficiencies: list[str] = []
    done: set[int] = set()
    for run in plan.runs():
        if run[0] in done:
            continue  # built together with the run before
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
    """Builds the segments of a run. Returns the ranges that looked good but were altered."""
    try:
        builder.build(plan.parts_of_run(run))
        return []
    except BackupInsufficient as why:
        builder.clean_up()
        # The chain before the next segment was unknown; now its first line can be checked.
        with suppress(BackupInsufficient):
            parts = plan.with_following(run)
            builder.build(parts)
            return [BackupLines(s, s) for s in parts if s not in plan.parts]
        builder.clean_up()
        # Lines before the damage may have been edited and chained again: then the first original
        # line is the one that looks bad.
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
