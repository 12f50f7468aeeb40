"""The raw lines of single entries, found by their seqs.

Invariant: a line is that of its seq, byte for byte as it is stored.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

from eventlog.plumbing import decode, raw_lines

NEARBY_ENTRIES = 2_000  # read on through so many: about as fast as opening and seeking again


def read_lines(
    home: str | os.PathLike[str], seqs: Iterable[int]
) -> Iterator[tuple[int, str | None]]:
    """Each seq with its line, without the newline; None where accepted damage left no line.

    The seqs ascend. Raises LogNotFound, LogCorrupt.
    """
    path = os.fspath(home)
    batches: Iterator[list[bytes]] = iter(())
    lines: Sequence[bytes] = ()
    last = -NEARBY_ENTRIES - 1  # the seq of the last line in `lines`
    for seq in seqs:
        if seq > last + NEARBY_ENTRIES:
            batches, last = raw_lines(path, after=seq - 1), seq - 1
        while last < seq and (batch := next(batches, None)):
            lines, last = batch, decode(batch[-1]).seq
        yield seq, _line(lines, seq) if last >= seq else None


def _line(lines: Sequence[bytes], seq: int) -> str | None:
    """The line of a seq in lines of ascending seqs, without gaps except after damage."""
    index = min(max(0, seq - decode(lines[0]).seq), len(lines) - 1)
    while index > 0 and decode(lines[index]).seq > seq:
        index -= 1
    line = lines[index]
    return line.decode(errors="replace").rstrip("\n") if decode(line).seq == seq else None
