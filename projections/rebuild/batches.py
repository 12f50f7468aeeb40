"""Reads and verifies the log, and prepares its rows batch by batch for insertion.

A batch holds only tuples, lists, bytes and text, so that marshal carries it from the process that
verifies to the one that inserts.

Invariant: batches have no gap between them, except damage that a person accepted; each such gap is
a conflict at its first seq.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import orjson

from eventlog import Entry, Position
from eventlog.plumbing import VerifiedChunk, decode, read_verified
from projections.projection import Checkpoint
from projections.rebuild.columnar import ColumnarRows, read_rows
from projections.signals import schema
from projections.signals.digest import digest_line
from projections.signals.fold import GAP, PreparedBatch, prepare
from projections.signals.states import Fact


class RebuildBatch(NamedTuple):
    """The entries up to `seq`, prepared as far as that needs no other entry."""

    seq: int
    chain: str
    segment: int
    byte_offset: int
    rows: bytes  # of signals: JSON values in the order of schema.INSERT_SIGNAL, comma-separated
    extras: Sequence[str | None]  # one for each row
    recorded_times: Sequence[tuple[int, int, str]]  # first seq, last seq, recorded_at
    facts: Sequence[Fact]
    conflicts: Sequence[schema.ConflictRow]
    digest: str  # of the rows of this batch and all before it


def read_batches(home: Path, after: Checkpoint) -> Iterator[RebuildBatch]:
    """The log after a checkpoint, up to its durable end at the time of each read.

    Raises LogCorrupt at damage and where a signal's sha256 is wrong, LogDiverged where the log does
    not hold the checkpoint's entry, and LogNotFound.
    """
    hint = None
    if after.segment is not None and after.byte_offset is not None:
        hint = Position(after.segment, after.byte_offset)
    chunks = read_verified(home, after=after.seq, chain=after.chain, hint=hint)
    return prepare_batches(chunks, after=after.seq)


def prepare_batches(chunks: Iterable[VerifiedChunk], *, after: int = 0) -> Iterator[RebuildBatch]:
    """The batches of verified chunks, of which the first follows the entry `after`."""
    last_seq = after
    total = sha256()
    for chunk in chunks:
        rows, prepared = _prepare_chunk(chunk)
        total.update(b"".join(rows.lines))
        gap = _gap_conflict(last_seq, chunk.seq_from)
        last_seq = chunk.seq_to
        yield RebuildBatch(
            chunk.seq_to,
            chunk.chain,
            chunk.position.segment,
            chunk.position.byte_offset,
            b",".join(rows.values),
            rows.extras,
            [(first, last, moment) for first, last, moment in chunk.recorded_times],
            prepared.facts,
            [*gap, *prepared.conflicts],
            total.hexdigest(),
        )


def _gap_conflict(last_seq: int, seq: int) -> list[schema.ConflictRow]:
    if seq == last_seq + 1:
        return []
    return [(last_seq + 1, None, GAP.format(first=last_seq + 1, last=seq - 1))]


def _prepare_chunk(chunk: VerifiedChunk) -> tuple[ColumnarRows, PreparedBatch]:
    """The rows of a chunk's signals, and its facts and conflicts."""
    rows = read_rows(chunk.signals)
    if not rows.remaining and not chunk.others:
        return rows, _NOTHING_PREPARED
    rest = _prepare_each(sorted([*chunk.others, *map(decode, rows.remaining)]))
    if rest.signals:
        extras = {seq: extra for seq, _, extra in rest.extras}
        merged = [(_seq_of(row[1]), *row) for row in zip(*rows[:3], strict=True)]
        merged += [
            (row[0], _digest_line(row), _json_values(row), extras.get(row[0]))
            for row in rest.signals
        ]
        merged.sort()
        _, *columns = zip(*merged, strict=True)
        rows = ColumnarRows._make([*columns, ()])
    return rows, rest


_NOTHING_PREPARED = PreparedBatch((), (), (), (), ())


def _prepare_each(entries: Sequence[Entry]) -> PreparedBatch:
    """Prepares each entry alone, since the entries between them are not a gap."""
    parts = [prepare([entry], after=entry.seq - 1) for entry in entries]
    return PreparedBatch(
        [row for part in parts for row in part.signals],
        [row for part in parts for row in part.extras],
        [row for part in parts for row in part.lifecycle],
        [fact for part in parts for fact in part.facts],
        [row for part in parts for row in part.conflicts],
    )


def _seq_of(values: bytes) -> int:
    return int(values[: values.index(b",")])


def _digest_line(row: schema.SignalRow) -> bytes:
    whole = (*row[:12], None, None, None, row[12], None, row[13])
    return digest_line(whole).encode()


def _json_values(row: schema.SignalRow) -> bytes:
    return orjson.dumps(row)[1:-1]
