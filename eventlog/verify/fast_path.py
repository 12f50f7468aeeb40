"""Fast verification of a run of signal lines in canonical form.

Invariant: accepts only lines that the full check would accept; all others are left to it.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from eventlog.format.line import CHAIN_BYTES, HEADER_PATTERN, LINE_BYTES_MAX
from eventlog.format.scan import Tip
from eventlog.schema.stored import (
    CANONICAL_FORMAT,
    PLAIN_ASCII,
    RECORDED_AT_PATTERN,
    SIGNAL_LINE_PATTERN,
    are_extra_members,
    problem_in_line,
)

# Parts of a line, from its end.
_BODY = slice(None, -CHAIN_BYTES)
_TAIL = slice(-CHAIN_BYTES, None)
_CHAIN = slice(-len(b'0"}\n') - 63, -len(b'"}\n'))
_SIGNAL_TAIL_BYTES = len(b',"sha256":""') + 64 + CHAIN_BYTES
_SIGNAL_TAIL = slice(-_SIGNAL_TAIL_BYTES, None)


def verify_lines_fast(lines: Sequence[bytes], tip: Tip) -> Tip | None:
    """The tip after `lines` if they follow `tip` and are verified; None: use the full check."""
    seq, batch, recorded_at = tip.seq, b"%d" % tip.batch, tip.recorded_at.encode()
    chain = tip.chain.encode()
    chained = []  # the hashed text of the chain of each line
    canonicals = []  # the hashed text of the sha256 of each signal; empty for other events
    tails = []  # the stored hashes at the end of each line
    others = set()  # other members of signals; many are the same
    for line in lines:
        seq += 1
        chained.append(chain + line[_BODY])
        chain = line[_CHAIN]
        found = SIGNAL_LINE_PATTERN.match(line)
        if found is not None:
            (
                line_seq, line_batch, line_recorded_at, signal_id, symbol, action, entry, target,
                stop, confidence, strategy, timestamp,
            ) = found.groups()  # fmt: skip
            canonicals.append(
                CANONICAL_FORMAT
                % (action, confidence, entry, signal_id, stop, strategy, symbol, target, timestamp)
            )
            tails.append(line[_SIGNAL_TAIL])
            others.add(line[found.end() - 1 : -_SIGNAL_TAIL_BYTES])
        else:
            found = HEADER_PATTERN.match(line)
            if found is None or problem_in_line(line) is not None:
                return None
            line_seq, line_batch, line_recorded_at, _ = found.groups()
            canonicals.append(b"")
            tails.append(line[_TAIL])
        if int(line_seq) != seq or (line_batch != batch and line_batch != line_seq):
            return None
        if line_recorded_at != recorded_at:
            if line_recorded_at < recorded_at or not RECORDED_AT_PATTERN.fullmatch(
                line_recorded_at
            ):
                return None
            recorded_at = line_recorded_at
        batch = line_batch
    if (
        _computed_tails(canonicals, chained) != b"".join(tails)
        or b"".join(canonicals).translate(None, PLAIN_ASCII)
        or max(map(len, lines), default=0) > LINE_BYTES_MAX
        # The quote ends the member before them and is not part of them.
        or not all(other[:1] == b'"' and are_extra_members(other[1:]) for other in others)
    ):
        return None
    return Tip(seq, int(batch), recorded_at.decode(), chain.decode())


def _computed_tails(canonicals: Iterable[bytes], chained: Iterable[bytes]) -> bytes:
    """The correct ends of all lines, joined."""
    tails = [
        f',"sha256":"{sha256(canonical).hexdigest()}","chain":"{sha256(text).hexdigest()}"}}\n'
        if canonical
        else f',"chain":"{sha256(text).hexdigest()}"}}\n'
        for canonical, text in zip(canonicals, chained, strict=True)
    ]
    return "".join(tails).encode()
