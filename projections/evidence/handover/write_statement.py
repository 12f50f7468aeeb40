"""Writes a statement: the newest checkpoint of a home and all lines that it covers.

Invariant: a statement that is complete has the root that was signed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from eventlog.plumbing import decode, raw_lines
from projections.errors import ProjectionError
from projections.evidence.checkpoint import SignedHead
from projections.evidence.handover.statement import head_bytes
from projections.evidence.merkle import RunningRoot, leaf_hash
from projections.evidence.newest import newest_checkpoint

Progress = Callable[[int, int], object]  # lines done, and in all


class WritableFile(Protocol):
    """A binary file."""

    def write(self, data: bytes, /) -> int: ...


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
        if decode(lines[-1]).seq != running.size:
            raise missing_lines_error(home)
        yield b"".join(lines)
        progress(running.size, head.size)
    if running.size < head.size:
        raise missing_lines_error(home)
    if running.root() != head.root:
        raise ProjectionError(
            f"the log does not have the root that was signed at size {head.size}",
            where=str(home),
            do="run `eventlog verify`, and compare the log with a backup",
        )


def missing_lines_error(home: Path) -> ProjectionError:
    """The error where lines that were signed are no longer in the log."""
    return ProjectionError(
        "the log lacks lines that were signed, so not all of them can be handed over",
        where=str(home),
        do="put them back with `eventlog repair --from BACKUP`",
    )
