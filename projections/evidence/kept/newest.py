"""The newest checkpoint of a home, or one that was asked for, verified by the vkey of its log.

Invariant: it was signed by the key of this home.
"""

from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import Disk
from projections.errors import NotProved
from projections.evidence.formats.checkpoint import SignedHead, open_checkpoint
from projections.evidence.kept.kept_files import KeptFiles, kept_files

NEAREST_SHOWN = 4  # sizes that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestCheckpoint:
    """The newest checkpoint, or the chosen one, with the kept cosignatures, and what it says."""

    data: bytes
    head: SignedHead


def newest_checkpoint(
    home: Path, *, size: int | None = None, disk: Disk | None = None
) -> NewestCheckpoint:
    """The newest checkpoint, or that of `size` entries. Raises what `kept_size` raises."""
    with kept_files(home, disk=disk) as kept:
        return _read(kept, kept_size(kept, size))


def read_newest(kept: KeptFiles) -> NewestCheckpoint:
    """The newest checkpoint in an open directory. Raises NotProved."""
    return _read(kept, kept_size(kept, None))


def kept_size(kept: KeptFiles, size: int | None) -> int:
    """The newest signed size, or `size` if it was signed. Raises NotProved."""
    sizes = kept.sizes()
    if not sizes:
        raise NotProved(
            "no checkpoint was signed yet", where=kept.path, do="run `eventlog evidence checkpoint`"
        )
    if size is None:
        return sizes[-1]
    if size not in sizes:
        nearest = sorted(sizes, key=lambda each: abs(each - size))[:NEAREST_SHOWN]
        raise NotProved(
            f"no checkpoint of {size} entries is kept",
            where=kept.path,
            do=f"name a size that was signed, such as {', '.join(map(str, sorted(nearest)))}",
        )
    return size


def _read(kept: KeptFiles, size: int) -> NewestCheckpoint:
    data = kept.read_checkpoint(size)
    return NewestCheckpoint(data=data, head=open_checkpoint(data, kept.read_vkey()).head)
