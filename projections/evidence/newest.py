"""The newest checkpoint of a home, verified by the vkey of its log.

Invariant: it was signed by the key of this home.
"""

from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import Disk
from projections.errors import NotProved
from projections.evidence.checkpoint import SignedHead, open_checkpoint
from projections.evidence.kept_files import KeptFiles, kept_files


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestCheckpoint:
    """The newest checkpoint of a home, with the cosignatures that are kept, and what it says."""

    data: bytes
    head: SignedHead


def newest_checkpoint(home: Path, *, disk: Disk | None = None) -> NewestCheckpoint:
    """The newest checkpoint. Raises NotProved where nothing was signed yet, LogNotFound."""
    with kept_files(home, disk=disk) as kept:
        return read_newest(kept)


def read_newest(kept: KeptFiles) -> NewestCheckpoint:
    """The newest checkpoint in an open directory. Raises NotProved."""
    sizes = kept.sizes()
    if not sizes:
        raise NotProved(
            "no checkpoint was signed yet", where=kept.path, do="run `eventlog evidence checkpoint`"
        )
    data = kept.read_checkpoint(sizes[-1])
    return NewestCheckpoint(data=data, head=open_checkpoint(data, kept.read_vkey()).head)
