"""Cuts lines into batches: of an append to a stream, which is atomic, and of a replica's write.

Invariant: the batches are the lines, in order; none is empty.
"""

from collections.abc import Iterator, Sequence

from eventlog.replica.engine import StreamLine

BATCH_LINES_MAX = 500  # a server takes up to 1,000; twice as many gain nothing
BATCH_BYTES_MAX = 1 << 20  # for lines of the largest size: a server holds a batch in memory


def batches(
    lines: Sequence[StreamLine],
    *,
    lines_max: int = BATCH_LINES_MAX,
    bytes_max: int = BATCH_BYTES_MAX,
) -> Iterator[Sequence[StreamLine]]:
    """Cuts lines into batches of bounded count and size."""
    start, size = 0, 0
    for index, line in enumerate(lines):
        if index > start and (index - start >= lines_max or size + len(line.line) > bytes_max):
            yield lines[start:index]
            start, size = index, 0
        size += len(line.line)
    if start < len(lines):
        yield lines[start:]
