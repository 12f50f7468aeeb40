"""Accepted gaps: damaged ranges of the log that readers skip, as JSON Lines in `.accepted`.

    {"segment":"00000000000000000001.jsonl","byte_from":612,"byte_to":918,"seq_from":3,"seq_to":3,
     "sha256":"...","chain":"...","batch":4,"recorded_at":"...","accepted_at":"..."}

`eventlog repair --accept` adds records; none is ever removed. A reader that meets bad bytes at a
recorded range continues at `byte_to` as if it had just read entry `seq_to`: the next line must
follow `chain`, and `batch` and `recorded_at` satisfy the other rules of a line. A missing segment
is an empty range of its name. If the chain is unknown, it is empty and the next line is accepted
unchecked: the only line of a log whose bytes no chain protects.

Invariant: a record applies only to the bytes that were there when it was made. Once they change,
it has no effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from eventlog.errors import LogCorrupt
from eventlog.format.scan import Tip
from eventlog.format.segment import segment_name, segment_seqs


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedGap:
    """One damaged range, and how the log continues after it."""

    segment: int  # first seq, by name
    byte_from: int
    byte_to: int  # equal to byte_from where lines, or the whole segment, are missing
    seq_from: int
    seq_to: int  # seq_from - 1 where the bytes replace no entry
    sha256: str  # of the bad bytes
    chain: str  # that the next good line follows; CHAIN_UNKNOWN where it cannot be known
    batch: int
    recorded_at: str  # of the last entry before
    accepted_at: str  # empty until a person accepts it

    @property
    def tip(self) -> Tip:
        """The tip that the next line must follow."""
        return Tip(self.seq_to, self.batch, self.recorded_at, self.chain)

    def starts_at(self, segment: int, byte_offset: int, seq: int) -> bool:
        """Whether a reader that misses entry `seq` at that position is at this range."""
        return (self.segment, self.byte_from, self.seq_from) == (segment, byte_offset, seq)

    def fits_between(self, segments: Sequence[int]) -> bool:
        """Whether no segment's name lies within the seqs that should be missing."""
        return not any(self.seq_from < segment <= self.seq_to for segment in segments)

    def to_json(self) -> dict[str, object]:
        """The record as it stands in the file."""
        return {
            "segment": segment_name(self.segment),
            "byte_from": self.byte_from,
            "byte_to": self.byte_to,
            "seq_from": self.seq_from,
            "seq_to": self.seq_to,
            "sha256": self.sha256,
            "chain": self.chain,
            "batch": self.batch,
            "recorded_at": self.recorded_at,
            "accepted_at": self.accepted_at,
        }


def encode_gap(gap: AcceptedGap) -> bytes:
    """One line of the file, newline included."""
    return orjson.dumps(gap.to_json(), option=orjson.OPT_APPEND_NEWLINE)


def decode_gaps(data: bytes) -> list[AcceptedGap]:
    """The records of the file, the newest first, because a range may be accepted again.

    A line that is no record (cut off by a power loss, or damaged) is ignored: its range counts as
    damage that was not accepted.
    """
    found = [_decode_gap(line) for line in reversed(data.split(b"\n"))]
    return [gap for gap in found if gap is not None]


def _decode_gap(line: bytes) -> AcceptedGap | None:
    try:
        fields = orjson.loads(line)
        (segment,) = segment_seqs([fields["segment"]])
        gap = AcceptedGap(
            segment=segment,
            byte_from=_parse_number(fields["byte_from"]),
            byte_to=_parse_number(fields["byte_to"]),
            seq_from=_parse_number(fields["seq_from"]),
            seq_to=_parse_number(fields["seq_to"]),
            sha256=_parse_text(fields["sha256"]),
            chain=_parse_text(fields["chain"]),
            batch=_parse_number(fields["batch"]),
            recorded_at=_parse_text(fields["recorded_at"]),
            accepted_at=_parse_text(fields["accepted_at"]),
        )
    except (orjson.JSONDecodeError, LogCorrupt, KeyError, TypeError, ValueError):
        return None
    bytes_bad = gap.byte_to - gap.byte_from
    seqs_lost = gap.seq_to - gap.seq_from + 1
    # A reader would loop at a record that skips neither bytes nor seqs.
    makes_progress = min(bytes_bad, seqs_lost) >= 0 and max(bytes_bad, seqs_lost) > 0
    return gap if makes_progress else None


def _parse_number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
