"""What is wrong with a log, place by place, and how it goes on behind each.

The reader decides what is damage, by the one rule that there is. Where it halts, the next good
line is looked for, and the reader is handed the record that leads it there; so whatever is found
here can be accepted, and whatever is accepted can be read.

A line after damage is good when it follows a chain that its surroundings still tell: the one in
the last bytes before it, one computed from a bad line whose body is whole, or that of the last
good line. Where none of these fits, because the line before it is gone, it is taken at its word if
it is well-formed, has its own sha256 right, and the line after it follows.

Invariant: no byte is changed, and every byte that the reader does not take is in a range.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from eventlog.accepted import Accepted
from eventlog.check import problem_within
from eventlog.disk import Disk
from eventlog.durable import End
from eventlog.errors import LogCorrupt
from eventlog.gaps import hash_of, is_unchanged, read_accepted
from eventlog.home import Home
from eventlog.line import (
    CHAIN_BYTES,
    CHAIN_START,
    HEAD,
    LINE_BYTES_MAX,
    BadLine,
    chained,
    stored_chain,
)
from eventlog.reader import CHUNK_BYTES, LogReader, corrupt, list_segments
from eventlog.scan import CHAIN_UNKNOWN, Tip, problem_of, tip_of, well_formed
from eventlog.segments import Position, segment_name

NOTHING_PROVEN = End(0, 0, 0, CHAIN_START)
_HASH_OF_NOTHING = sha256().hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One range of bad bytes or missing lines."""

    gap: Accepted  # what `.accepted` says of it, or would
    problem: str  # continues "entry 42 ..."
    after: Position  # where the last good line before it ends; segment 0 before the first

    @property
    def is_accepted(self) -> bool:
        """Whether a person has accepted it already."""
        return self.gap.accepted_at != ""

    def to_json(self) -> dict[str, object]:
        """Where it is and what it is."""
        gap = self.gap
        return {
            "segment": segment_name(gap.segment),
            "byte_from": gap.byte_from,
            "byte_to": gap.byte_to,
            "seq_from": gap.seq_from,
            "seq_to": gap.seq_to,
            "problem": self.problem,
            "accepted_at": gap.accepted_at or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A whole log, read from its first byte."""

    damages: tuple[Damage, ...]  # in the order of the log
    end: End  # where the log ends once the damages are accepted
    good_end: End  # the same, but where the log ends in bad bytes: before them
    torn_bytes: int  # unacknowledged, after `end`
    needs_segment: bool  # that of `end` is yet to be made: what stands before it is bad
    halt: LogCorrupt | None  # what no range can express; nothing behind it was looked at

    @property
    def open_damages(self) -> tuple[Damage, ...]:
        """Those that nobody has accepted."""
        return tuple(damage for damage in self.damages if not damage.is_accepted)


def survey(disk: Disk, home: Home, proven: End) -> Survey:
    """Reads the whole log. The caller holds the lock; `proven` is the end known to be durable.

    Raises LogCorrupt where a file stands among the segments that is none, and OSError.
    """
    records = read_accepted(disk, home)
    handed: list[Accepted] = []
    damages: list[Damage] = []
    halt: LogCorrupt | None = None
    halted_at: tuple[Position, Tip] | None = None
    reader = LogReader(disk, home, holds_lock=True, accepted=handed)
    try:
        while True:
            try:
                lines = reader.read()
            except LogCorrupt as error:
                at = (reader.position, reader.tip)
                damage = _damage(disk, home, reader, error, proven, records)
                if at == halted_at or damage is None:
                    halt = error
                    break
                halted_at = at
                damages.append(damage)
                handed[:] = [damage.gap]
                continue
            if not lines:
                break
            halt = halt or _divergence(lines, reader, proven)
        return _survey(disk, home, reader, damages, halted_at, halt)
    finally:
        reader.close()


def _survey(
    disk: Disk,
    home: Home,
    reader: LogReader,
    damages: list[Damage],
    halted_at: tuple[Position, Tip] | None,
    halt: LogCorrupt | None,
) -> Survey:
    tip, position = reader.tip, reader.position
    good_end = end = End(*position, tip.seq, tip.chain)
    ends_bad = bool(damages) and damages[-1].gap.tip == tip
    needs_segment = ends_bad and position.segment != tip.seq + 1
    torn_bytes = 0
    if needs_segment:
        # Whatever is appended to a file that ends in bad bytes would be glued to them.
        end = End(tip.seq + 1, 0, tip.seq, tip.chain)
        assert halted_at is not None, "there is damage"
        good_end = End(*halted_at[0], halted_at[1].seq, halted_at[1].chain)
    elif position.segment and halt is None:
        torn_bytes = _size(disk, home, position.segment) - position.byte_offset
    return Survey(
        damages=tuple(damages),
        end=end,
        good_end=good_end,
        torn_bytes=torn_bytes,
        needs_segment=needs_segment,
        halt=halt,
    )


def _divergence(lines: list[bytes], reader: LogReader, proven: End) -> LogCorrupt | None:
    """The error where `lines`, just read, hold another entry than the one that was durable."""
    index = proven.seq - (reader.tip.seq - len(lines) + 1)
    if not 0 <= index < len(lines) or stored_chain(lines[index]) == proven.chain:
        return None
    segment, byte_offset = reader.position
    byte_offset -= sum(map(len, lines[index:]))
    return corrupt("is not the one that was durable", segment, byte_offset, proven.seq)


def _damage(
    disk: Disk,
    home: Home,
    reader: LogReader,
    error: LogCorrupt,
    proven: End,
    records: list[Accepted],
) -> Damage | None:
    """The range that starts where the reader halted; None where no range leads on."""
    tip, position = reader.tip, reader.position
    seq = tip.seq + 1
    problem = error.problem.removeprefix(f"entry {seq} ")
    segments = list_segments(disk, home)
    for record in records:
        starts_here = record.starts_at(*position, seq) or record.starts_at(seq, 0, seq)
        if starts_here and is_unchanged(disk, home, record, segments):
            return Damage(gap=record, problem=problem, after=position)
    behind = (s for s in segments if s > position.segment and s >= seq)
    place = _Place(disk, home, tip, position, min(behind, default=0), proven)
    gap = place.gap()
    leads_on = gap.byte_to > gap.byte_from or gap.seq_to >= gap.seq_from
    return Damage(gap=gap, problem=problem, after=position) if leads_on else None


class _Candidate(NamedTuple):
    """Something that looks like a line, somewhere in bad bytes."""

    byte_offset: int
    line: bytes
    next_line: bytes  # empty where there is none
    chain_before: str  # the bytes where a line right before it has its chain

    @property
    def tip(self) -> Tip:
        return tip_of(self.line)


class _Place(NamedTuple):
    """Where a reader halted."""

    disk: Disk
    home: Home
    tip: Tip  # the last good entry
    position: Position  # where the bad bytes start, if there are any
    next_segment: int  # first seq of the next file in which the log may go on; 0 when none
    proven: End

    def gap(self) -> Accepted:
        """The range that starts here."""
        segment, byte_from = self.position
        if not segment or _size(self.disk, self.home, segment) == byte_from:
            # No bad byte: what is missing should have its own segment.
            return self._to_next_segment(self.tip.seq + 1, 0, 0, [], _HASH_OF_NOTHING)
        fd = self.disk.open(self.home.segment_path(segment), writable=False)
        try:
            return self._in_file(fd, self.disk.size(fd))
        finally:
            self.disk.close(fd)

    def _in_file(self, fd: int, size: int) -> Accepted:
        segment, byte_from = self.position
        fallback = None
        for found in _candidates(self.disk, fd, byte_from, size):
            seq = found.tip.seq
            if seq <= self.tip.seq or 0 < self.next_segment <= seq:
                continue  # from elsewhere
            if found.byte_offset == byte_from and seq == self.tip.seq + 1:
                continue  # the bad line itself
            between = self._bytes(fd, found.byte_offset)
            chain = _followed(found.line, self._chains(found.chain_before, seq, between))
            if chain is None and _is_sound(found.line):
                if found.next_line and problem_of(found.next_line, found.tip) is None:
                    chain = CHAIN_UNKNOWN
                elif seq <= self.proven.seq or found.tip.batch > self.tip.seq + 1:
                    fallback = fallback or found  # nothing follows, but it must have been durable
            if chain is not None:
                return self._up_to(found, fd, chain)
        if fallback is not None:
            return self._up_to(fallback, fd, CHAIN_UNKNOWN)
        before = self.disk.pread(fd, CHAIN_BYTES, size - CHAIN_BYTES) if size > CHAIN_BYTES else b""
        chains = self._chains(_chain_in(before), self.next_segment, self._bytes(fd, size))
        digest = hash_of(self.disk, fd, byte_from, size)
        return self._to_next_segment(segment, byte_from, size, chains, digest)

    def _up_to(self, found: _Candidate, fd: int, chain: str) -> Accepted:
        digest = hash_of(self.disk, fd, self.position.byte_offset, found.byte_offset)
        tip = found.tip._replace(seq=found.tip.seq - 1, chain=chain)
        return self._gap(*self.position, found.byte_offset, digest, tip)

    def _to_next_segment(
        self, segment: int, byte_from: int, byte_to: int, chains: list[str], digest: str
    ) -> Accepted:
        """The range up to the end of a file, or all of a missing one."""
        if self.next_segment:
            tip = self._tip_before_next_segment(chains)
        else:
            # A new segment will follow, so its name must not be taken by the one that is bad.
            seq_to = max(self.proven.seq, self.tip.seq, segment if byte_to else 0)
            chain = self.proven.chain if seq_to == self.proven.seq else self.tip.chain
            tip = Tip(seq_to, self.tip.batch, "", chain or CHAIN_START)
        return self._gap(segment, byte_from, byte_to, digest, tip)

    def _tip_before_next_segment(self, chains: list[str]) -> Tip:
        seq_to = self.next_segment - 1
        if seq_to == self.proven.seq:
            chains = [self.proven.chain, *chains]
        chains = [*chains, self.tip.chain] if seq_to == self.tip.seq else chains
        fd = self.disk.open(self.home.segment_path(self.next_segment), writable=False)
        try:
            data = self.disk.pread(fd, LINE_BYTES_MAX, 0)
        finally:
            self.disk.close(fd)
        line = data[: data.find(b"\n") + 1]
        known = next(iter(chains), self.tip.chain) or CHAIN_START
        try:
            batch = tip_of(line).batch
        except BadLine:
            return Tip(seq_to, seq_to, "", known)  # it will be the next damage
        chain = _followed(line, chains)
        if chain is None:
            chain = CHAIN_UNKNOWN if _is_sound(line) else known
        return Tip(seq_to, batch, "", chain)

    def _gap(self, segment: int, byte_from: int, byte_to: int, digest: str, tip: Tip) -> Accepted:
        return Accepted(
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

    def _bytes(self, fd: int, byte_to: int) -> bytes:
        """The bad bytes up to there, where they can be one line; else nothing."""
        byte_from = self.position.byte_offset
        length = byte_to - byte_from
        return self.disk.pread(fd, length, byte_from) if length <= LINE_BYTES_MAX else b""

    def _chains(self, chain_before: str, seq: int, between: bytes) -> list[str]:
        """What line `seq` may follow, when the bad bytes `between` stand before it."""
        chains = [chain_before] if chain_before else []
        if seq == self.tip.seq + 1:
            chains.append(self.tip.chain)
        elif seq == self.tip.seq + 2 and len(between) > CHAIN_BYTES:
            chains.append(chained(self.tip.chain, between))
        return [chain for chain in chains if chain != CHAIN_UNKNOWN]


def _candidates(disk: Disk, fd: int, byte_from: int, size: int) -> Iterator[_Candidate]:
    """All that starts like a line, at any byte, in order."""
    for base in range(byte_from, size, CHUNK_BYTES):
        lead = min(base, CHAIN_BYTES)
        data = disk.pread(fd, lead + CHUNK_BYTES + 2 * LINE_BYTES_MAX, base - lead)
        for found in HEAD.finditer(data, lead):
            start = found.start()
            if start >= lead + CHUNK_BYTES:
                break
            end = data.find(b"\n", start, start + LINE_BYTES_MAX) + 1
            if not end:
                continue
            line = data[start:end]
            try:
                tip_of(line)
            except BadLine:
                continue
            next_end = data.find(b"\n", end, end + LINE_BYTES_MAX) + 1
            before = _chain_in(data[max(0, start - CHAIN_BYTES) : start])
            yield _Candidate(base - lead + start, line, data[end:next_end], before)


def _chain_in(end_of_line: bytes) -> str:
    """The chain in the last bytes of a line that may be damaged; empty where there is none."""
    digits = end_of_line[-67:-3]
    is_chain = len(digits) == 64 and set(digits) <= set(b"0123456789abcdef")
    return digits.decode() if is_chain else ""


def _followed(line: bytes, chains: list[str]) -> str | None:
    """The one of `chains` that `line` follows."""
    stored = stored_chain(line)
    return next((chain for chain in chains if chained(chain, line) == stored), None)


def _is_sound(line: bytes) -> bool:
    """Whether a line can be taken at its word, where nothing tells which chain it follows."""
    return well_formed(line) and problem_within(line) is None


def _size(disk: Disk, home: Home, segment: int) -> int:
    fd = disk.open(home.segment_path(segment), writable=False)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)
