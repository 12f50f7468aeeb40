"""The files of an export that show a kept checkpoint to be continued by the newest one.

Invariant: each file that is returned shows that from the root which the tree has at its size.
"""

from collections.abc import Iterable
from pathlib import Path

from eventlog.plumbing import Disk
from projections.errors import ProjectionError
from projections.evidence.formats.merkle import is_consistent
from projections.evidence.kept.newest import NewestCheckpoint
from projections.evidence.proofs.growth import Growth
from projections.evidence.tree.level_files import level_files


def growth_files(
    home: Path, sizes: Iterable[int], newest: NewestCheckpoint, *, disk: Disk | None = None
) -> dict[str, bytes]:
    """A file for each size, named by it: what `evidence consistency --from SIZE` prints.

    The tree on disk must cover the newest checkpoint. Raises ProjectionError where it does not fit.
    """
    found = {}
    with level_files(home, disk=disk) as files:
        tree, new = files.tree(), newest.head
        for size in sizes:
            path = tree.consistency(size, new.size)
            if not is_consistent(size, new.size, tree.root(size), new.root, path):
                raise ProjectionError(
                    f"the tree in data/ does not lead from size {size} to {new.size}",
                    where=str(home),
                    do="run this again: the tree is built again where it differs from the log",
                )
            growth = Growth(old_size=size, path=path, checkpoint=newest.data)
            found[str(size)] = growth.to_bytes()
    return found
