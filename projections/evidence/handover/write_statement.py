"""Writes a statement: a checkpoint of a home and all lines that it covers.

Invariant: a statement that is complete has the root that was signed.
"""

from pathlib import Path
from typing import Protocol

from projections.evidence.formats.checkpoint import SignedHead
from projections.evidence.handover.signed_lines import Progress, require_no_loss, signed_lines
from projections.evidence.handover.statement import head_bytes
from projections.evidence.kept.newest import newest_checkpoint


class WritableFile(Protocol):
    """A binary file."""

    def write(self, data: bytes, /) -> int: ...


def write_statement(
    home: Path,
    file: WritableFile,
    *,
    size: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> SignedHead:
    """Writes the statement of the newest checkpoint, or of that of `size`; returns what it signs.

    Raises NotProved where no such one was signed; LogCorrupt, and ProjectionError where the lines
    are not those that were signed: what was written is no statement then.
    """
    newest = newest_checkpoint(home, size=size)
    require_no_loss(home, newest.head.size)
    file.write(head_bytes(newest.data))
    for data in signed_lines(home, newest.head, progress):
        file.write(data)
    return newest.head
