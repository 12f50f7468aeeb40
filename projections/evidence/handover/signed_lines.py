"""The lines of a home that a checkpoint covers, as files for others need them: all, in order.

Invariant: a line that is returned has the place that it was signed at, and no later one is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from eventlog.plumbing import decode, first_lost, raw_lines
from projections.errors import ProjectionError
from projections.evidence.formats.checkpoint import SignedHead
from projections.evidence.formats.merkle import RunningRoot, leaf_hash

Progress = Callable[[int, int], object]  # lines done, and in all


def require_no_loss(home: Path, size: int) -> None:
    """Raises ProjectionError where one of the first `size` lines is lost, and that was accepted."""
    lost = first_lost(str(home), after=0)
    if lost is not None and lost <= size:
        raise _lost_error(home, lost)


def lines_in_order(home: Path, *, after: int, until: int) -> Iterator[list[bytes]]:
    """The lines behind `after` up to `until`, with their newlines, in lists of bounded size.

    Raises LogCorrupt at damage and ProjectionError at a gap, after the lines before it.
    """
    seq = after
    for lines in raw_lines(str(home), after=after, limit=until - after):
        if decode(lines[-1]).seq != seq + len(lines):
            wanted = enumerate(lines, seq + 1)
            raise _lost_error(home, next(n for n, line in wanted if decode(line).seq != n))
        yield lines
        seq += len(lines)
    if seq < until:
        raise ProjectionError(
            f"the log has {seq} of the {until} entries that were signed",
            where=str(home),
            do="put the others back with `eventlog repair --from BACKUP`",
        )


def signed_lines(home: Path, head: SignedHead, progress: Progress) -> Iterator[bytes]:
    """The lines that a checkpoint covers, in pieces.

    Raises ProjectionError before the first one where one was lost, and what `lines_in_order`
    raises; ProjectionError at the end where the lines are not those that were signed.
    """
    require_no_loss(home, head.size)
    running = RunningRoot()
    for lines in lines_in_order(home, after=0, until=head.size):
        for line in lines:
            running.add(leaf_hash(line[:-1]))
        yield b"".join(lines)
        progress(running.size, head.size)
    if running.root() != head.root:
        raise ProjectionError(
            f"the log does not have the root that was signed at size {head.size}",
            where=str(home),
            do="run `eventlog verify`, and compare the log with a backup",
        )


def _lost_error(home: Path, seq: int) -> ProjectionError:
    return ProjectionError(
        f"entry {seq} is missing, and its loss was accepted: what is handed over needs all lines",
        where=str(home),
        do="put it back with `eventlog repair --from BACKUP`; other entries can be proved without",
    )
