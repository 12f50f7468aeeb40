"""Bulk reading: the whole log in verified chunks of many entries, for rebuilds and exports.

It checks more than a reader, which verifies the chain only, and less than `verify`, which checks
every byte: each entry continues the chain, and each signal matches its sha256. An entry of another
program that is not a whole signal is returned unchanged; the caller decides about it.

Invariant: an entry is decoded only from verified bytes, and none is returned after damage.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from eventlog.errors import LogDiverged
from eventlog.format.line import CHAIN_START, BadLine, Entry, decode
from eventlog.format.scan import CHAIN_UNKNOWN, TIP_START, ScanResult, Tip, scan, tip_of
from eventlog.format.segment import Position
from eventlog.read.columns import NO_SIGNALS, RecordedAtRun, SignalColumns, read_columns
from eventlog.read.existing import require_segments
from eventlog.read.lines import corrupt_error
from eventlog.read.reader import LogReader
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from eventlog.storage.segment_disk import SegmentDisk, segment_sizes

CHUNK_BYTES = 256 * 1024  # the columns of so many lines fit into a core's own cache
_HASHABLE = frozenset({str, int, float})


class VerifiedChunk(NamedTuple):
    """Consecutive entries. Between two chunks there may be an accepted gap."""

    seq_from: int
    seq_to: int
    chain: str  # of entry seq_to
    position: Position  # where the next line starts
    recorded_times: Sequence[RecordedAtRun]
    signals: SignalColumns  # signals in our writer's layout, by column
    others: Sequence[Entry]


def read_verified(
    path: str | os.PathLike[str],
    *,
    after: int = 0,
    chain: str = CHAIN_START,
    hint: Position | None = None,
) -> Iterator[VerifiedChunk]:
    """The durable entries with seq > `after`, in order, up to the end of the log as it moves.

    `chain` is that of entry `after`, `hint` the position after it. Takes no lock; a chunk holds at
    most about CHUNK_BYTES. Raises LogCorrupt at damage, after the entries before it, LogDiverged
    where entry `after` has another chain, and LogNotFound.
    """
    disk, home = SegmentDisk(RealDisk()), home_at(path)
    require_segments(disk, home)
    with closing(_VerifyingReader(disk, home, after=after, hint=hint)) as reader:
        if reader.tip.chain not in (chain, CHAIN_UNKNOWN):
            raise LogDiverged(
                f"entry {after} is not the one that was read before",
                where=home.log_dir,
                do="find out who replaced the log, then start again",
            )
        while reader.read():
            yield _chunk(reader.found, reader.tip.chain, reader.position)


def log_bytes(path: str | os.PathLike[str]) -> int:
    """Raw size of all segments, for progress. Raises LogNotFound.

    An estimate: the log may grow, and a missing segment counts as empty.
    """
    home = home_at(path)
    segments = require_segments(SegmentDisk(RealDisk()), home)
    return segment_sizes(RealDisk(), map(home.segment_path, segments))[0]


def verify_lines(pieces: Iterable[bytes]) -> Iterator[VerifiedChunk]:
    """The entries of lines that are not in a home, from seq 1 on, as `read_verified` gives them.

    A piece holds whole lines. A position counts all bytes so far, as in a segment of all lines.
    Raises BadLine, which names the entry, where a line does not continue the log.
    """
    tip, done = TIP_START, 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            scanned, found, problem = _verified(piece[at:], tip)
            if not scanned.bytes_good:
                reason = problem or scanned.problem or "is cut off"
                raise BadLine(f"entry {tip.seq + 1} {reason}")
            tip, at = scanned.tip, at + scanned.bytes_good
            yield _chunk(found, tip.chain, Position(1, done + at))
        done += at


class _Found(NamedTuple):
    """The content of verified lines."""

    recorded_times: Sequence[RecordedAtRun] = ()
    signals: SignalColumns = NO_SIGNALS
    others: Sequence[Entry] = ()


def _chunk(found: _Found, chain: str, position: Position) -> VerifiedChunk:
    seq_from, seq_to = found.recorded_times[0].seq_from, found.recorded_times[-1].seq_to
    return VerifiedChunk(seq_from, seq_to, chain, position, *found)


class _VerifyingReader(LogReader):
    """A LogReader that verifies each signal, and keeps the decoded entries."""

    chunk_bytes = CHUNK_BYTES
    found = _Found()

    def scan(self, data: bytes, tip: Tip) -> ScanResult:
        """The verified start of `data`; `lines` may hold many lines in one piece."""
        scanned, self.found, problem = _verified(data, tip)
        if problem is not None and not scanned.bytes_good:
            # The chain is right, so this is no torn write: the line was written like this.
            raise corrupt_error(problem, *self.position, tip.seq + 1)
        return scanned


def _verified(data: bytes, tip: Tip) -> tuple[ScanResult, _Found, str | None]:
    """The verified start of `data`, and what is wrong with the chained entry behind it, if any.

    The reason continues "entry 42 ...". `lines` may hold many lines in one piece.
    """
    whole = data[: data.rfind(b"\n") + 1]
    columns = read_columns(whole, tip) if whole else None
    if columns is not None:
        entries, problem = _verified_entries(columns.others)
        if problem is None:
            found = _Found(columns.recorded_times, columns.signals, entries)
            return ScanResult([whole], len(whole), columns.tip, None), found, None
    scanned = scan(data, tip)
    entries, problem = _verified_entries(scanned.lines)
    found = _Found(_recorded_at_runs(entries), NO_SIGNALS, entries)
    if problem is None:
        return scanned, found, None
    good = scanned.lines[: len(entries)]
    tip = tip_of(good[-1]) if good else tip
    return ScanResult(good, sum(map(len, good)), tip, None), found, problem


def _verified_entries(lines: Sequence[bytes]) -> tuple[list[Entry], str | None]:
    """The entries of chained lines up to the first bad one, and what is wrong with that one, in
    words that continue "entry 42 ...".
    """
    entries: list[Entry] = []
    for line in lines:
        try:
            entry = decode(line)
        except BadLine as error:
            return entries, str(error)
        if entry.event == "signal":
            computed = _computed_sha256(entry.payload)
            if computed is not None and entry.payload.get("sha256", computed) != computed:
                return entries, f"does not match its sha256: its nine fields give {computed}"
        entries.append(entry)
    return entries, None


def _computed_sha256(payload: Mapping[str, object]) -> str | None:
    """The hash of a signal; None where a field is missing or of the wrong type."""
    from eventlog.schema.signal import (  # slow to import, and rarely needed
        HASHED_FIELDS,
        content_sha256,
    )

    if any(type(payload.get(key)) not in _HASHABLE for key in HASHED_FIELDS):
        return None
    return content_sha256(payload)


def _recorded_at_runs(entries: Sequence[Entry]) -> list[RecordedAtRun]:
    found = []
    for recorded_at, same in groupby(entries, key=attrgetter("recorded_at")):
        seqs = [entry.seq for entry in same]
        found.append(RecordedAtRun(seqs[0], seqs[-1], recorded_at))
    return found
