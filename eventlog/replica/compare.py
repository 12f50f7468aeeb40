"""Compares the log of a home with a stream, line by line: `eventlog verify --stream`.

Both are read from their first line on, in bounded batches. What the log or the stream gets after
the start is not compared. The end of the stream is read before that of the log: a mirror publishes
only what the log has, so a log that is longer by then shows nothing.

Invariant: nothing is written to the stream or to the home; a comparison is `ok` only if each line
that both are to have is the same, byte for byte, and in the same segment.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from eventlog.errors import LogCorrupt
from eventlog.format.line import parse_header, stored_chain
from eventlog.read.inspect import end_seq, raw_lines, replica_state, segment_starts
from eventlog.replica.engine import (
    StreamEnd,
    StreamEngine,
    StreamForeign,
    StreamLine,
    StreamShort,
)
from eventlog.threads import run_in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamComparison:
    """The result of a comparison."""

    stream_seq: int = 0  # the last one of the stream, at the start
    last_seq: int = 0  # the last one of the log, at the start
    compared: int = 0  # lines that were found to be the same
    problem: str | None = None  # None: each line of both is the same
    seq: int | None = None  # the first entry that differs
    chain: str | None = None  # its chain in the log
    stream_chain: str | None = None  # its chain in the stream; None where that is no line
    damage: str | None = None  # of the log: the lines after it were not compared

    @property
    def ok(self) -> bool:
        """Whether the stream is as the log, as far as it goes."""
        return self.problem is None

    @property
    def lag_entries(self) -> int:
        """How many entries of the log the stream does not hold yet."""
        return max(0, self.last_seq - self.stream_seq)

    def to_json(self, stream: str) -> dict[str, object]:
        """The object `stream` of `eventlog verify --stream --json`."""
        return {
            "name": stream,
            "ok": self.ok,
            "last_seq": self.stream_seq,
            "compared": self.compared,
            "lag_entries": self.lag_entries,
            "problem": self.problem,
            "seq": self.seq,
            "chain": self.chain,
            "stream_chain": self.stream_chain,
        }

    def to_text(self, stream: str) -> str:
        """The result as a line of text."""
        same = f"{stream}: {self.compared:,} lines are the same"
        if self.problem is not None:
            return f"{stream}: {self.problem}"
        if self.damage is not None:
            return f"{same}; the lines after the damage of the log were not compared"
        if self.lag_entries:
            return f"{same}; it ends at seq {self.stream_seq}, {self.lag_entries:,} before the log"
        if self.stream_seq > self.last_seq:  # else that is a problem
            return f"{same}; it ends at seq {self.stream_seq}, and this replica at {self.last_seq}"
        return f"{same}, and it ends with the log"


async def compare(
    engine: StreamEngine,
    home: str | os.PathLike[str],
    *,
    acked: int = 0,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> StreamComparison:
    """Compares each line that the log of `home` and the stream have now.

    `acked` is the last seq that the stream has acknowledged to this home: it must not end before.
    `progress` is called with the lines done, and those to compare. Raises StreamUnavailable,
    StreamUnfit, LogNotFound, and what reading a log raises, except LogCorrupt.
    """
    path = os.fspath(home)
    own = _OwnLines(path, StreamComparison(last_seq=await run_in_thread(lambda: end_seq(path))))
    try:
        end = await engine.last()
        last_seq = await run_in_thread(lambda: end_seq(path))
        own.found = replace(own.found, stream_seq=end.seq, last_seq=last_seq)
        own.segments = await run_in_thread(lambda: segment_starts(path))
        if until := min(end.seq, last_seq):
            await _compare_until(engine, own, until, progress)
    except (StreamShort, StreamForeign) as error:
        return replace(own.found, problem=error.what)
    found = own.found
    is_complete = found.ok and found.damage is None
    if is_complete and end.seq < acked:
        problem = (
            f"the stream ends at seq {end.seq}: lines are missing that it had acknowledged, up to "
            f"{acked}"
        )
        return replace(found, problem=problem)
    if is_complete and end.seq > last_seq and replica_state(path) is None:
        problem = (
            f"the stream ends at seq {end.seq}, beyond the log, which ends at {last_seq}: another "
            "home continued it, or this log was restored to an older state"
        )
        return replace(found, problem=problem)
    return found


async def _compare_until(
    engine: StreamEngine, own: "_OwnLines", until: int, progress: Callable[[int, int], object]
) -> None:
    """Compares the lines up to this seq, or to the first difference."""
    async with aclosing(engine.follow(0)) as batches:
        async for lines in batches:
            wanted = lines[: until - lines[-1].seq] if lines[-1].seq > until else lines
            if not await run_in_thread(lambda: own.compare(wanted)):  # noqa: B023  # awaited here
                break
            progress(wanted[-1].seq, until)
            if wanted[-1].seq == until:
                break


class _OwnLines:
    """The lines of a log from its first one on, compared with those of a stream."""

    def __init__(self, path: str, found: StreamComparison) -> None:
        self._lines = self._read(path)
        self._next: bytes | None = None  # read, and not compared yet
        self.found = found
        self.segments: list[int] = []  # first seqs

    def _read(self, path: str) -> Iterator[bytes]:
        try:
            for lines in raw_lines(path):
                yield from lines
        except LogCorrupt as damage:
            self.found = replace(self.found, damage=str(damage))

    def compare(self, lines: Sequence[StreamLine]) -> bool:
        """Compares the next lines; whether it goes on after them."""
        compared = 0
        for line in lines:
            own = self._next or next(self._lines, None)
            self._next = None
            if own == line.line:
                segment = self.segments[bisect_right(self.segments, line.seq) - 1]
                if line.segment == segment:
                    compared += 1
                    continue
                self.found = _with_other_segment(self.found, line, segment)
                break
            if own is not None and parse_header(own).seq > line.seq:
                self._next = own  # the log has lost the line of the stream, and that was accepted
                continue
            if own is not None:
                self.found = _with_difference(self.found, line, own)
            break
        self.found = replace(self.found, compared=self.found.compared + compared)
        return self.found.ok and self.found.damage is None


def _with_other_segment(
    found: StreamComparison, line: StreamLine, segment: int
) -> StreamComparison:
    chain = stored_chain(line.line)
    return replace(
        found,
        problem=f"DIFFERS at seq {line.seq}: the log has it in the segment that begins at seq "
        f"{segment}, the stream in one that begins at {line.segment}",
        seq=line.seq,
        chain=chain,
        stream_chain=chain,
    )


def _with_difference(found: StreamComparison, line: StreamLine, own: bytes) -> StreamComparison:
    chain, stream_chain = stored_chain(own), None
    with suppress(StreamForeign):
        stream_chain = StreamEnd(line.seq, line.line).chain
    there = "no line of a log" if stream_chain is None else f"the chain {stream_chain}"
    return replace(
        found,
        problem=f"DIFFERS at seq {line.seq}: the log has the chain {chain}, the stream has {there}",
        seq=line.seq,
        chain=chain,
        stream_chain=stream_chain,
    )
