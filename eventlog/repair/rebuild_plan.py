"""Which segments are to be built anew, and of what: our own bytes, and lines of a backup.

Lines that were lost with whole segments come back in segments of the names that the backup has.

Invariant: a plan keeps every byte of ours that is in no range of damage.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from eventlog.repair.survey import Damage


class Ours(NamedTuple):
    """Bytes of our own segment."""

    byte_from: int
    byte_to: int


class Theirs(NamedTuple):
    """Lines of the backup."""

    seq_from: int
    seq_to: int


Pieces = list[Ours | Theirs]  # what a segment is built of


class Plan:
    """What the segments with damage are to be built of. `sizes`: bytes of each of our segments."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = sizes
        self._touched: list[tuple[Damage, set[int]]] = []  # segments that a damage is in
        self.pieces: dict[int, Pieces] = {}

    def add(self, damage: Damage, backup_segments: Sequence[int]) -> None:
        """Plans for one damage. They come in the order of the log."""
        gap = damage.gap
        exists = gap.segment in self._sizes
        host = gap.segment if exists else damage.after.segment
        to_end = not exists or gap.byte_to == self._sizes[gap.segment]
        starts = [
            s for s in backup_segments if to_end and s > host and gap.seq_from <= s <= gap.seq_to
        ]
        here = Theirs(gap.seq_from, min(starts, default=gap.seq_to + 1) - 1)
        touched = set(starts)
        if exists:
            pieces = self._pieces_of(host)
            rest = pieces.pop()
            assert isinstance(rest, Ours), "damages come in the order of the log"
            pieces += [Ours(rest.byte_from, gap.byte_from), here, Ours(gap.byte_to, rest.byte_to)]
            touched.add(host)
        elif here.seq_from <= here.seq_to:
            segment = host or gap.seq_from
            self._pieces_of(segment).append(here)
            touched.add(segment)
        for start, end in pairwise([*starts, gap.seq_to + 1]):
            self.pieces[start] = [Theirs(start, end - 1)]
        self._touched.append((damage, touched))

    def runs(self) -> list[list[int]]:
        """The segments to build, in rows between which good lines of ours tell the chain."""
        runs: list[list[int]] = []
        before = 0
        for segment in sorted({*self._sizes, *self.pieces}):
            if segment in self.pieces:
                is_tied = before in self.pieces
                if is_tied and not (_is_ours(self.pieces[before][-1], self.pieces[segment][0])):
                    runs[-1].append(segment)
                else:
                    runs.append([segment])
            before = segment
        return runs

    def damages_in(self, built: Iterable[int]) -> list[Damage]:
        """The damages that are gone once these segments were built."""
        return [damage for damage, segments in self._touched if segments <= set(built)]

    def built_of(self, run: Sequence[int]) -> dict[int, Pieces]:
        """What the segments of a row are built of."""
        return {segment: self.pieces[segment] for segment in run}

    def lengthened(self, run: Sequence[int]) -> dict[int, Pieces]:
        """The same with the row or the segment after it, to be checked as it is built."""
        following = min((s for s in self._sizes if s > run[-1]), default=0)
        found = self.built_of(run)
        if following in self.pieces:
            next_run = next(other for other in self.runs() if other[0] == following)
            found.update(self.built_of(next_run))
        elif following:
            found[following] = [Ours(0, self._sizes[following])]
        return found

    def widened(self, run: Sequence[int], start: int) -> dict[int, Pieces]:
        """The same, with all before the first damage from the backup too, from `start` on."""
        found: dict[int, Pieces] = {}
        before = [s for s in self._sizes if start <= s < run[0]]
        for segment, following in pairwise([*sorted(before), run[0]]):
            found[segment] = [Theirs(segment, following - 1)]
        found.update(self.built_of(run))
        index = next(i for i, piece in enumerate(found[run[0]]) if isinstance(piece, Theirs))
        first = found[run[0]][index]
        assert isinstance(first, Theirs), "a segment is in the plan for what it lacks"
        found[run[0]] = [Theirs(run[0], first.seq_to), *found[run[0]][index + 1 :]]
        return found

    def _pieces_of(self, segment: int) -> Pieces:
        if segment not in self.pieces:
            self.pieces[segment] = [Ours(0, self._sizes[segment])] if segment in self._sizes else []
        return self.pieces[segment]


def _is_ours(*pieces: Ours | Theirs) -> bool:
    return all(isinstance(piece, Ours) and piece.byte_from < piece.byte_to for piece in pieces)
