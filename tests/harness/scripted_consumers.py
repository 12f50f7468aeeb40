"""A stream in memory whose consumers do what a test says.

    stream = ScriptedConsumers(stream_lines(home))
    stream.script = [[Deliver(5, 9)], []]   what each consumer delivers before it follows the stream

Invariant: without a script it behaves as the real engine does.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eventlog.replica.engine import (
    StreamEnd,
    StreamLine,
    StreamShort,
    StreamUnavailable,
    WrongLastSequence,
)
from tests.harness.log_checks import segments_in


class Deliver(NamedTuple):
    """The lines from one seq to another, both included."""

    first: int
    last: int


Step = Deliver | Exception | Sequence[StreamLine]


def stream_lines(home: Path) -> list[StreamLine]:
    """The lines of a log, as a mirror publishes them."""
    found: list[StreamLine] = []
    for path in segments_in(home):
        for line in path.read_bytes().splitlines(keepends=True):
            found.append(StreamLine(len(found) + 1, int(path.name[:20]), line))
    return found


class ScriptedConsumers:
    """Implements `StreamEngine`. One object stands for all connections to the stream."""

    def __init__(self, lines: Sequence[StreamLine] = (), *, batch_lines: int = 4) -> None:
        self.lines = list(lines)
        self.script: list[list[Step]] = []  # one list a consumer
        self.unreachable = 0  # how many more connections are refused
        self.connections = 0
        self.consumers: list[int] = []  # after which seq each began
        self.appended: list[bytes] = []  # the first line of each append, refused ones included
        self.before_append: list[list[StreamLine]] = []  # what others append right before each
        self.refuse = 0  # appends that are refused although their sequence is right
        self.lose_acks = 0  # appends that are stored and not answered
        self._batch_lines = batch_lines
        self._grown = asyncio.Event()

    async def open(self) -> "ScriptedConsumers":
        """A connection."""
        if self.unreachable:
            self.unreachable -= 1
            raise StreamUnavailable("no server answers")
        self.connections += 1
        return self

    def add(self, lines: Sequence[StreamLine]) -> None:
        """The stream grows."""
        self.lines += lines
        self._grown.set()

    async def last(self) -> StreamEnd:
        return StreamEnd(len(self.lines), self.lines[-1].line) if self.lines else StreamEnd()

    async def line(self, seq: int) -> bytes:
        if not 1 <= seq <= len(self.lines):
            raise StreamShort(f"message {seq} is missing")
        return self.lines[seq - 1].line

    async def append(
        self, lines: Sequence[StreamLine], on_acknowledged: Callable[[int], object]
    ) -> None:
        self.appended.append(lines[0].line)
        if self.before_append:
            self.add(self.before_append.pop(0))
        if self.refuse or lines[0].seq != len(self.lines) + 1:
            self.refuse = max(0, self.refuse - 1)
            raise WrongLastSequence("wrong last sequence")
        self.add(lines)
        if self.lose_acks:
            self.lose_acks -= 1
            raise StreamUnavailable("no answer")
        on_acknowledged(lines[-1].seq)

    async def follow(self, after: int) -> AsyncGenerator[Sequence[StreamLine], None]:
        self.consumers.append(after)
        for step in self.script.pop(0) if self.script else ():
            match step:
                case Exception():
                    raise step
                case Deliver():
                    yield self.lines[step.first - 1 : step.last]
                case _:
                    yield step
        while True:
            while after < len(self.lines):
                batch = self.lines[after : after + self._batch_lines]
                yield batch
                after += len(batch)
            self._grown.clear()
            await self._grown.wait()

    async def close(self) -> None:
        pass
