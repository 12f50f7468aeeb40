"""Checks a statement without a home and without a network, and calculates its figures.

Each line must be well-formed, follow its seq and chain, and be a leaf of the tree that was signed.
The figures are those of `eventlog stats` over exactly these lines.

Invariant: a result is returned only for all lines of a signed log, in order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import BadLine, VerifiedChunk, printable, verify_lines
from projections.errors import NotProved
from projections.evidence.formats.checkpoint import (
    Cosignature,
    SignedHead,
    Stamp,
    not_later_than,
    not_later_than_text,
    open_checkpoint,
)
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import RunningRoot, leaf_hash
from projections.evidence.handover.lines_table import lines_table
from projections.evidence.handover.statement import ReadableFile, read_head, read_pieces
from projections.evidence.proofs.check import log_and_witnesses, require_quorum
from projections.queries.filters import SignalFilter
from projections.queries.selection import Selection
from projections.queries.stats import Stats, read_stats, read_stats_by

Progress = Callable[[int, int], object]  # lines done, and in all

EVERY_SIGNAL = Selection(SignalFilter())


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedStatement:
    """All lines of a log up to its checkpoint, and their figures."""

    origin: str
    size: int
    first_recorded_at: str | None  # None for an empty log
    last_recorded_at: str | None
    cosignatures: tuple[Cosignature, ...]
    stats: Stats
    by_strategy: tuple[Stats, ...]
    checkpoint: bytes  # the signed note, which a time stamp is of
    stamps: tuple[Stamp, ...] = ()  # that were verified beside the statement

    def to_text(self) -> list[str]:
        """For a reader, without the figures."""
        times = f"{self.first_recorded_at} to {self.last_recorded_at}"
        lines = [
            f"PROVED: all {self.size} entries of the log {self.origin}, complete and in order",
            f"  recorded_at {times} (the operator's own clock)",
            *not_later_than_text(*self.cosignatures, *self.stamps),
        ]
        return [printable(line) for line in lines]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        return {
            "proved": True,
            "origin": self.origin,
            "size": self.size,
            "first_recorded_at": self.first_recorded_at,
            "last_recorded_at": self.last_recorded_at,
            "not_later_than": not_later_than(*self.cosignatures, *self.stamps),
            "stats": self.stats,
            "by_strategy": self.by_strategy,
        }


def check_statement(
    file: ReadableFile,
    keys: Sequence[VerifierKey],
    *,
    quorum: int = 0,
    scratch_parent: Path,
    progress: Progress = lambda _done, _total: None,
) -> CheckedStatement:
    """What a statement shows by these keys: one of the log, the others of witnesses.

    The table of its lines is made in `scratch_parent`. Raises NotProved, also where fewer than
    `quorum` witnesses have cosigned; ProjectionError where the disk is full; OSError.
    """
    log, witnesses = log_and_witnesses(keys)
    checkpoint = read_head(file)
    opened = open_checkpoint(checkpoint, log, witnesses)
    require_quorum(opened, quorum)
    times: list[str] = []
    chunks = _recorded_times(_checked_chunks(file, opened.head, progress), times)
    with lines_table(chunks, scratch_parent) as database:
        return CheckedStatement(
            origin=opened.head.origin,
            size=opened.head.size,
            first_recorded_at=times[0] if times else None,
            last_recorded_at=times[-1] if times else None,
            cosignatures=opened.cosignatures,
            checkpoint=checkpoint,
            stats=read_stats(database, EVERY_SIGNAL),
            by_strategy=tuple(read_stats_by(database, EVERY_SIGNAL, "strategy")),
        )


def _recorded_times(chunks: Iterator[VerifiedChunk], times: list[str]) -> Iterator[VerifiedChunk]:
    """The chunks; `times` receives the first recorded_at, and at its end the last one."""
    for chunk in chunks:
        times[1:] = [chunk.recorded_times[-1].recorded_at]
        if len(times) == 1:
            times.insert(0, chunk.recorded_times[0].recorded_at)
        yield chunk


def _checked_chunks(
    file: ReadableFile, head: SignedHead, progress: Progress
) -> Iterator[VerifiedChunk]:
    """The lines as verified chunks. Raises NotProved unless they are those that were signed."""
    running = RunningRoot()

    def leaves() -> Iterator[bytes]:
        for piece in read_pieces(file):
            for line in piece.split(b"\n")[:-1] if piece.endswith(b"\n") else ():
                running.add(leaf_hash(line))
            yield piece

    try:
        for chunk in verify_lines(leaves()):
            if chunk.seq_to > head.size:
                raise NotProved(f"the file has more lines than the {head.size} that were signed")
            yield chunk
            progress(chunk.seq_to, head.size)
    except BadLine as error:
        raise NotProved(str(error)) from None
    if running.size != head.size:
        raise NotProved(f"the file has {running.size} lines, and {head.size} were signed")
    if running.root() != head.root:
        raise NotProved("the lines are not those that were signed")
