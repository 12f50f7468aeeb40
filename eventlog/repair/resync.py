"""Finds the first valid line after a damaged range, and the chain that it continues.

A line is valid if it continues one of these chains: the one in the last bytes before it, the one
computed from a bad line whose body is whole, or that of the last good line. Where the line before
it is lost and no chain can be read, a line is valid if it is well-formed, its own sha256 is right,
and the line after it continues it.

Invariant: no byte is changed, and a range ends where a readable line starts or where a segment
ends.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from eventlog.format.durability import LogEnd
from eventlog.format.gap import AcceptedGap
from eventlog.format.line import (
    CHAIN_BYTES,
    CHAIN_START,
    HEADER_PATTERN,
    LINE_BYTES_MAX,
    BadLine,
    next_chain,
    parse_header,
    stored_chain,
)
from eventlog.format.scan import CHAIN_UNKNOWN, Tip, is_well_formed, problem_of, tip_of
from eventlog.format.segment import Position
from eventlog.read.lines import CHUNK_BYTES
from eventlog.schema.stored import problem_in_line
from eventlog.storage.disk import Disk, opened, size_of
from eventlog.storage.gap_file import range_sha256
from eventlog.storage.home import Home

_SHA256_OF_EMPTY = sha256().hexdigest()


class _Candidate(NamedTuple):
    """Bytes in a damaged range that look like a line."""

    byte_offset: int
    line: bytes
    tip: Tip
    before: bytes  # the line right before it, or its remains


class ResyncPoint(NamedTuple):
    """The point where a reader halted, and what is known of the log there."""

    disk: Disk
    home: Home
    tip: Tip  # the last good entry
    position: Position  # where the bad bytes start, if any
    segments: Sequence[int]
    durable_end: LogEnd  # known to be durable

    def start(self) -> Position:
        """The start of the range: missing entries without bad bytes had their own segment."""
        segment, byte_from = self.position
        if segment and size_of(self.disk, self.home.segment_path(segment)) > byte_from:
            return self.position
        return Position(self.tip.seq + 1, 0)

    def gap(self) -> AcceptedGap:
        """The range that starts here. It is empty where no entry is known to be missing."""
        start = self.start()
        if start != self.position:
            return self._to_next_segment(*start, 0, _SHA256_OF_EMPTY)
        with opened(self.disk, self.home.segment_path(start.segment)) as fd:
            return self._in_file(fd, self.disk.size(fd))

    @property
    def _next_segment(self) -> int:
        """The next segment in which the log may continue; 0 where there is none."""
        later_segments = (
            s for s in self.segments if s > self.position.segment and s > self.tip.seq
        )
        return min(later_segments, default=0)

    def _in_file(self, fd: int, size: int) -> AcceptedGap:
        segment, byte_from = self.position
        next_segment = self._next_segment
        for found in _candidates(self.disk, fd, byte_from, size):
            seq = found.tip.seq
            if seq <= self.tip.seq or 0 < next_segment <= seq:
                continue  # from elsewhere
            if found.byte_offset == byte_from and seq == self.tip.seq + 1:
                continue  # the bad line itself
            before = found.before if found.byte_offset > byte_from else b""
            bad_bytes = self._bad_bytes(fd, found.byte_offset)
            chain = _matching_chain(found.line, self._chains(before, seq, bad_bytes))
            if chain is None and self._is_predecessor_lost(before, seq):
                chain = CHAIN_UNKNOWN if self._is_plausible(segment, found.byte_offset) else None
            if chain is not None:
                digest = range_sha256(self.disk, fd, byte_from, found.byte_offset)
                tip = found.tip._replace(seq=seq - 1, chain=chain)
                return self._gap(*self.position, found.byte_offset, digest, tip)
        lookbehind_bytes = min(size, LINE_BYTES_MAX)
        return self._to_next_segment(
            *self.position,
            size,
            range_sha256(self.disk, fd, byte_from, size),
            before=_line_before(
                self.disk.pread(fd, lookbehind_bytes, size - lookbehind_bytes), lookbehind_bytes
            ),
            bad_bytes=self._bad_bytes(fd, size),
        )

    def _to_next_segment(
        self,
        segment: int,
        byte_from: int,
        byte_to: int,
        digest: str,
        *,
        before: bytes = b"",
        bad_bytes: bytes = b"",
    ) -> AcceptedGap:
        """The range up to the end of a segment, or all of a missing one."""
        if self._next_segment:
            tip = self._tip_before_next_segment(before, bad_bytes)
        else:
            # A new segment will follow, so its name must differ from that of the bad one.
            seq_to = max(self.durable_end.seq, self.tip.seq, segment if byte_to else 0)
            chain = self.durable_end.chain if seq_to == self.durable_end.seq else self.tip.chain
            tip = Tip(seq_to, self.tip.batch, "", chain or CHAIN_START)
        return self._gap(segment, byte_from, byte_to, digest, tip)

    def _tip_before_next_segment(self, before: bytes, bad_bytes: bytes) -> Tip:
        segment = self._next_segment
        chains = self._chains(before, segment, bad_bytes)
        if segment - 1 == self.durable_end.seq:
            chains.insert(0, self.durable_end.chain)
        line = self._line_at(segment, 0)
        try:
            batch = tip_of(line).batch
        except BadLine:  # the next damage
            return Tip(segment - 1, segment - 1, "", (chains or [CHAIN_START])[0])
        chain = _matching_chain(line, chains)
        if chain is None:
            is_predecessor_lost = segment != self.durable_end.seq + 1 and self._is_predecessor_lost(
                before, segment
            )
            if is_predecessor_lost and self._is_plausible(segment, 0):
                chain = CHAIN_UNKNOWN
            else:
                chain = (chains or [CHAIN_START])[
                    0
                ]  # the line does not continue it: the next damage
        return Tip(segment - 1, batch, "", chain)

    def _gap(
        self, segment: int, byte_from: int, byte_to: int, digest: str, tip: Tip
    ) -> AcceptedGap:
        return AcceptedGap(
            segment=segment,
            byte_from=byte_from,
            byte_to=byte_to,
            seq_from=self.tip.seq + 1,
            seq_to=tip.seq,
            sha256=digest,
            chain=tip.chain,
            batch=tip.batch,
            recorded_at=self.tip.recorded_at,
            accepted_at="",
        )

    def _bad_bytes(self, fd: int, byte_to: int) -> bytes:
        """The bad bytes up to `byte_to`, where they can be one line; else empty."""
        byte_from = self.position.byte_offset
        length = byte_to - byte_from
        return self.disk.pread(fd, length, byte_from) if length <= LINE_BYTES_MAX else b""

    def _is_predecessor_lost(self, before: bytes, seq: int) -> bool:
        """Whether the line before line `seq` is lost, and its chain with it."""
        if seq == self.tip.seq + 1:
            return False
        try:
            is_foreign = parse_header(before).seq != seq - 1
        except BadLine:
            is_foreign = False  # its head may be the damaged part
        return is_foreign or not _trailing_chain(before)

    def _chains(self, before: bytes, seq: int, bad_bytes: bytes) -> list[str]:
        """The chains that line `seq` may continue, after the bytes `bad_bytes`."""
        chains = [chain for chain in [_trailing_chain(before)] if chain]
        if seq == self.tip.seq + 1:
            chains.append(self.tip.chain)
        elif seq == self.tip.seq + 2 and len(bad_bytes) > CHAIN_BYTES:
            chains.append(next_chain(self.tip.chain, bad_bytes))
        return [chain for chain in chains if chain != CHAIN_UNKNOWN]

    def _is_plausible(self, segment: int, byte_offset: int) -> bool:
        """Whether a line is valid where the chain before it is lost."""
        line = self._line_at(segment, byte_offset)
        if not is_well_formed(line) or problem_in_line(line) is not None:
            return False
        tip = tip_of(line)
        if tip.batch > tip.seq or tip.recorded_at < self.tip.recorded_at:
            return False
        if tip.seq == self.durable_end.seq:
            return tip.chain == self.durable_end.chain
        following = self._line_at(segment, byte_offset + len(line))
        if not following and tip.seq + 1 in self.segments:
            following = self._line_at(tip.seq + 1, 0)
        if following:
            follows = problem_of(following, tip) is None
            return follows and tip.recorded_at <= tip_of(following).recorded_at
        # No line confirms the last one: it is valid if its batch proves that it was durable.
        return tip.seq > self.durable_end.seq and tip.batch > self.tip.seq + 1

    def _line_at(self, segment: int, byte_offset: int) -> bytes:
        """The line at `byte_offset`, newline included; empty where there is none."""
        with opened(self.disk, self.home.segment_path(segment)) as fd:
            data = self.disk.pread(fd, LINE_BYTES_MAX, byte_offset)
        return data[: data.find(b"\n") + 1]


def _candidates(disk: Disk, fd: int, byte_from: int, size: int) -> Iterator[_Candidate]:
    """Yields everything that starts like a line, at any byte, in order."""
    for base in range(byte_from, size, CHUNK_BYTES):
        lookbehind_bytes = min(base, LINE_BYTES_MAX)
        data = disk.pread(
            fd, lookbehind_bytes + CHUNK_BYTES + LINE_BYTES_MAX, base - lookbehind_bytes
        )
        for found in HEADER_PATTERN.finditer(data, lookbehind_bytes):
            start = found.start()
            if start >= lookbehind_bytes + CHUNK_BYTES:
                break
            end = data.find(b"\n", start, start + LINE_BYTES_MAX) + 1
            line = data[start:end]
            try:
                tip = tip_of(line)
            except BadLine:
                continue
            yield _Candidate(base - lookbehind_bytes + start, line, tip, _line_before(data, start))


def _line_before(data: bytes, end: int) -> bytes:
    """The bytes after the newline before `end`, up to `end`."""
    start_min = max(0, end - LINE_BYTES_MAX)
    return data[max(start_min, data.rfind(b"\n", start_min, end - 1) + 1) : end]


def _trailing_chain(end_of_line: bytes) -> str:
    """The chain in the last bytes of a line that may be damaged; empty where there is none."""
    digits = end_of_line[-67:-3]
    is_chain = len(digits) == 64 and set(digits) <= set(b"0123456789abcdef")
    return digits.decode() if is_chain else ""


def _matching_chain(line: bytes, chains: list[str]) -> str | None:
    """The one of `chains` that `line` continues."""
    stored = stored_chain(line)
    return next((chain for chain in chains if next_chain(chain, line) == stored), None)
