"""Writes a statement: the newest checkpoint of a home and all lines that it covers.

Invariant: a statement that is complete has the root that was signed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eventlog.plumbing import Disk, raw_lines
from projections.errors import NotProved, ProjectionError
from projections.evidence.checkpoint import SignedHead, open_checkpoint
from projections.evidence.handover.statement import head_bytes
from projections.evidence.kept_files import KeptFiles, kept_files
from projections.evidence.merkle import RunningRoot, leaf_hash

Progress = Callable[[int, int], object]  # lines done, and in all


class WritableFile(Protocol):
    """A binary file."""

    def write(self, data: bytes, /) -> int: ...


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


def write_statement(
    home: Path, file: WritableFile, *, progress: Progress = lambda _done, _total: None
) -> SignedHead:
    """Writes the statement of a home, and returns what was signed.

    Raises NotProved where nothing was signed yet; LogCorrupt, and ProjectionError where the lines
    are not those that were signed: what was written is no statement then.
    """
    newest = newest_checkpoint(home)
    file.write(head_bytes(newest.data))
    for data in signed_lines(home, newest.head, progress):
        file.write(data)
    return newest.head


def signed_lines(home: Path, head: SignedHead, progress: Progress) -> Iterator[bytes]:
    """The lines that a checkpoint covers, in pieces. Raises as `write_statement` does."""
    running = RunningRoot()
    for lines in raw_lines(str(home), limit=head.size):
        for line in lines:
            running.add(leaf_hash(line[:-1]))
        yield b"".join(lines)
        progress(running.size, head.size)
    if (running.size, running.root()) != (head.size, head.root):
        raise ProjectionError(
            f"the log does not have the root that was signed at size {head.size}",
            where=str(home),
            do="run `eventlog verify`, and compare the log with a backup",
        )
