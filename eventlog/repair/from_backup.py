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

from eventlog.format.durability import End
from eventlog.format.segment import segment_name
from eventlog.repair.rebuild_plan import Plan, Theirs
from eventlog.repair.resync import size_of
from eventlog.repair.segment_builder import Backup, Builder, Unhelpful
from eventlog.repair.survey import Damage
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home, list_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
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


class Outcome(NamedTuple):
    """What a backup could do."""

    restored: tuple[Restored, ...]
    unhelpful: tuple[str, ...]  # where it could not help, and why


def restore(
    disk: Disk, home: Home, backup: Backup, damages: Sequence[Damage], proven: End
) -> Outcome:
    """Puts back what the backup has of `damages`. The caller holds the lock. Raises OSError."""
    sizes = {segment: size_of(disk, home, segment) for segment in list_segments(disk, home)}
    plan = Plan(sizes)
    for damage in damages:
        plan.add(damage, backup.segments)
    restored: list[Restored] = []
    unhelpful: list[str] = []
    done: set[int] = set()
    for run in plan.runs():
        if run[0] in done:
            continue  # together with the one before
        builder = Builder(disk, home, backup, proven)
        try:
            not_ours = _build(builder, plan, run)
            kept_in = builder.install()
        except Unhelpful as why:
            unhelpful.append(f"{segment_name(run[0])}: {why}")
        else:
            restored += [_not_ours(entries, kept_in) for entries in not_ours]
            restored += [_restored(damage, kept_in) for damage in plan.damages_in(kept_in)]
            done.update(kept_in)
        finally:
            builder.clean_up()
    return Outcome(tuple(restored), tuple(unhelpful))


def _build(builder: Builder, plan: Plan, run: list[int]) -> list[Theirs]:
    """Builds a row. Gives the entries, by segment, that looked good and were not."""
    try:
        builder.build(plan.built_of(run))
        return []
    except Unhelpful as why:
        builder.clean_up()
        # The first line of the next segment was taken at its word; now its chain is told.
        with suppress(Unhelpful):
            pieces = plan.lengthened(run)
            builder.build(pieces)
            return [Theirs(s, s) for s in pieces if s not in plan.pieces]
        builder.clean_up()
        # Lines before the damage may be somebody's, who edited some and chained them anew: then
        # the first original line is the one that looks bad.
        with suppress(Unhelpful):
            pieces = plan.widened(run, builder.common_start(run[0]))
            builder.build(pieces)
            return [Theirs(s, end - 1) for s, end in pairwise(s for s in pieces if s <= run[0])]
        raise why


def _not_ours(entries: Theirs, kept_in: Mapping[int, str | None]) -> Restored:
    return Restored(
        segment=entries.seq_from,
        seq_from=entries.seq_from,
        seq_to=entries.seq_to,
        problem="is not what was written",
        accepted_at="",
        kept_in=kept_in[entries.seq_from],
    )


def _restored(damage: Damage, kept_in: Mapping[int, str | None]) -> Restored:
    gap = damage.gap
    return Restored(
        segment=gap.segment,
        seq_from=gap.seq_from,
        seq_to=gap.seq_to,
        problem=damage.problem,
        accepted_at=gap.accepted_at,
        kept_in=kept_in.get(gap.segment),
    )
