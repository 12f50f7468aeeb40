"""A statement: all lines of a log with the checkpoint that covers them. Pure.

    eventlog statement v1
    the checkpoint
    (empty line)
    the lines

Invariant: the lines that a reader gets are those of the file, byte for byte and in bounded pieces.
"""

from collections.abc import Iterator
from typing import Protocol

from projections.errors import NotProved
from projections.evidence.formats.note import NOTE_BYTES_MAX

HEADER = b"eventlog statement v1\n"
PIECE_BYTES = 256 * 1024  # as much as a verified chunk of a log holds


class ReadableFile(Protocol):
    """A binary file."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


def head_bytes(checkpoint: bytes) -> bytes:
    """What precedes the lines."""
    return HEADER + checkpoint + b"\n"


def read_head(file: ReadableFile) -> bytes:
    """The checkpoint of a statement. The file is then at its first line. Raises NotProved."""
    if file.readline(len(HEADER)) != HEADER:
        raise NotProved(
            f"the file does not begin with {HEADER.decode().rstrip()}",
            do="check a proof with `eventlog evidence check`",
        )
    note = b""
    empty_lines = 0  # the first one is within the checkpoint, before its signatures
    while empty_lines < 2:
        line = file.readline(NOTE_BYTES_MAX)
        if not line.endswith(b"\n") or len(note) > NOTE_BYTES_MAX:
            raise NotProved("the file has no checkpoint with an empty line behind it")
        empty_lines += line == b"\n"
        note += line
    return note[:-1]


def read_pieces(file: ReadableFile) -> Iterator[bytes]:
    """The rest of a file in pieces of whole lines; the last piece may end within one."""
    rest = b""
    while data := file.read(PIECE_BYTES):
        data = rest + data
        end = data.rfind(b"\n") + 1 or len(data)  # a piece without a newline is no line of ours
        rest = data[end:]
        yield data[:end]
    if rest:
        yield rest
