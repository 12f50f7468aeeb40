"""The engine of replication: what a stream of lines is, in four verbs, and its errors.

    last        the end of the stream: seq, line, replicas
    line        one line
    append      lines after the last one, by compare-and-set on its seq, pipelined
    follow      the lines after a seq as they come, in bounded batches

    EventLogError
    └── StreamError                 a stream, or the server that holds it
        ├── StreamUnavailable       no answer, or no quorum; a later try may succeed
        │   ├── StreamMissing       the server has no such stream
        │   └── StreamRefused       the server denies this account a request
        ├── WrongLastSequence       the stream may not end where the append expected it to
        ├── StreamUnfit             the stream or its server breaks a rule: see `stream_rules`
        ├── StreamForeign           a message is no line of a log, or not the line of its sequence
        └── StreamShort             messages are missing from the stream

Invariant: an append that returned was acknowledged by the stream, line by line, and each line has
the stream's sequence that it has in the log.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol

from eventlog.errors import EventLogError
from eventlog.format.line import CHAIN_START, BadLine, parse_header, stored_chain


class StreamError(EventLogError):
    """A stream, or the server that holds it, does not do what is needed."""


class StreamUnavailable(StreamError):
    """The server gives no answer or has no quorum. The outcome of an append is unknown."""


class StreamMissing(StreamUnavailable):
    """The server has no stream of that name."""


class StreamRefused(StreamUnavailable):
    """The server denies this account a request, or the connection."""


class WrongLastSequence(StreamError):
    """The stream refused an append because it has another last sequence.

    The server may count a proposal that is never committed. Read `last` again before you conclude
    anything from it.
    """


class StreamUnfit(StreamError):
    """The stream or its server breaks a rule, so an acknowledgement would promise too little."""

    replicas: int | None = None  # where the stream is to have fewer than are needed: how many


class StreamForeign(StreamError):
    """A message of the stream is not the line of a log with the seq of the message."""


class StreamShort(StreamError):
    """Messages are missing from the stream: message N is there no more for some N."""


class StreamLine(NamedTuple):
    """One line of the log, as a message of the stream."""

    seq: int
    segment: int  # first seq of the segment that holds the line
    line: bytes  # newline included


def line_bytes(line: StreamLine) -> int:
    """The size of a line."""
    return len(line.line)


class StreamEnd(NamedTuple):
    """The end of a stream, and how many servers hold it."""

    seq: int = 0  # of the last message; 0: the stream is empty
    line: bytes = b""  # the last message
    replicas: int = 1  # servers that are to hold all of the stream
    replicas_current: int = 1  # servers that are up to date, as the leader has it
    created: str = ""  # when the stream was created: another one has another time

    @property
    def chain(self) -> str:
        """The chain of the last line, as it stands there. Raises StreamForeign."""
        if self.seq == 0:
            return CHAIN_START
        try:
            seq, chain = parse_header(self.line).seq, stored_chain(self.line)
        except BadLine as error:
            raise StreamForeign(f"message {self.seq} of the stream {error}") from None
        if seq != self.seq:
            raise StreamForeign(f"message {self.seq} of the stream is entry {seq} of a log")
        return chain


class StreamEngine(Protocol):
    """One stream of one server or cluster. Used by one event loop; not by several tasks at once.

    Each method raises StreamUnavailable (StreamMissing, StreamRefused) when the server does not
    answer in time. After any error the engine must be closed, and another one be opened.
    """

    async def last(self) -> StreamEnd:
        """The end of the stream, as its leader has it.

        Raises StreamUnfit and StreamShort.
        """

    async def line(self, seq: int) -> bytes:
        """The line of that seq, newline included. Raises StreamShort where it is missing."""

    async def append(
        self, lines: Sequence[StreamLine], on_acknowledged: Callable[[int], object]
    ) -> None:
        """Appends consecutive lines, if the stream ends right before the first of them.

        Returns when all are acknowledged; after an error any number of the first ones may be in the
        stream. `on_acknowledged` is called with the last seq acknowledged so far, in ascending
        order. Raises WrongLastSequence.
        """

    def follow(self, after: int) -> AsyncGenerator[Sequence[StreamLine], None]:
        """The lines with seq > `after` as they come: consecutive, in bounded batches, for ever.

        Raises StreamUnavailable when the server is silent, and StreamShort where the next line is
        missing. The chain of the lines is not checked.
        """

    async def close(self) -> None:
        """Closes the connection. Never raises, and may be called twice."""
