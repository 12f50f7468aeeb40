"""The leaf hashes of a log, in the order of seq, from its lines.

Where damage was accepted, the hashes that were kept of the lost lines take their place.

Invariant: the nth hash is that of line n, or nothing is returned for it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eventlog import Entry
from eventlog.plumbing import decode, raw_lines
from projections.errors import ProjectionError
from projections.evidence.formats.merkle import leaf_hash
from projections.evidence.tree.lost_leaves import read_lost


class LeafBatch(NamedTuple):
    """Consecutive leaves, and the lines of the log that are among them."""

    leaves: list[bytes]
    lines: list[bytes]


def leaf_batches(home: Path, *, after: int, until: int | None = None) -> Iterator[LeafBatch]:
    """The leaves behind `after`, up to the end of the log or up to `until`.

    Raises LogCorrupt at damage, after the leaves before it, and ProjectionError where lines were
    lost of which nothing was kept.
    """
    seq = after
    limit = None if until is None else until - after
    for lines in raw_lines(str(home), after=after, limit=limit):
        if decode(lines[-1]).seq - seq == len(lines):
            batch = LeafBatch([leaf_hash(line[:-1]) for line in lines], lines)
        else:
            found = [(decode(line).seq, line) for line in lines]
            kept = [(n, line) for n, line in found if until is None or n <= until]
            leaves = _leaves_over_gaps(home, kept, seq, found[-1][0] if until is None else until)
            batch = LeafBatch(leaves, [line for _, line in kept])
        seq += len(batch.leaves)
        yield batch
        if until is not None and seq >= until:
            return
    if until is not None and seq < until:
        yield LeafBatch(_leaves_over_gaps(home, [], seq, until), [])


def leaves_of(home: Path, entries: Sequence[Entry], *, after: int, until: int) -> list[bytes]:
    """The leaves behind `after` up to `until`, which these entries are.

    Raises ProjectionError where lines were lost of which nothing was kept.
    """
    if until - after == len(entries):
        return [leaf_hash(entry.line[:-1]) for entry in entries]
    return _leaves_over_gaps(home, [(entry.seq, entry.line) for entry in entries], after, until)


def _leaves_over_gaps(
    home: Path, lines: Sequence[tuple[int, bytes]], after: int, until: int
) -> list[bytes]:
    leaves = read_lost(home)
    leaves.update((seq, leaf_hash(line[:-1])) for seq, line in lines)
    try:
        return [leaves[seq] for seq in range(after + 1, until + 1)]
    except KeyError as error:
        raise ProjectionError(
            f"the log lacks lines, the first of which has seq {error.args[0]}: its damage was "
            "accepted, and of these lines no hash was kept",
            where=str(home),
            do="put the lines back with `eventlog repair --from BACKUP`: a tree covers each line",
        ) from None
