"""The standard streams of a command: data on stdout, messages on stderr.

All data goes through one writer, which `open_standard_streams` puts in place of `sys.stdout`, so
that the output of plug-ins and of libraries passes it too. Data is UTF-8 in every locale.

Invariant: each byte of data is written, or the command fails; a closed or broken stream causes no
traceback and no write into a file of the log.
"""

import io
import logging
import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import click

from eventlog.errors import EventLogError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_note_logger = logging.getLogger("eventlog")
NOTE = "is_note"  # marks a log record that is shown as plain text: without time, level and logger


class _WholeWriter(io.RawIOBase):
    """File descriptor 1, whose `write` takes all of the data or raises.

    A raw file may take a part of it, and Python discards the rest where `PYTHONUNBUFFERED` is set
    or where the descriptor is non-blocking.
    """

    name = "<stdout>"

    def write(self, data: "ReadableBuffer", /) -> int:
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[os.write(1, view) :]
            except BlockingIOError:  # the parent process made this end of its pipe non-blocking
                select.select([], [1], [])
            except BrokenPipeError:
                raise NoReader from None
        return memoryview(data).nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def isatty(self) -> bool:
        return os.isatty(1)


def _open_stdout(encoding: str) -> TextIO:
    """stdout in UTF-8, or in `encoding` where it is a terminal, which gets escapes for the rest."""
    is_terminal = os.isatty(1)
    return io.TextIOWrapper(
        io.BufferedWriter(_WholeWriter()),
        encoding=encoding if is_terminal else "utf-8",
        errors="backslashreplace",
        newline="\n",
        line_buffering=is_terminal,
    )


def write_stdout(data: bytes) -> None:
    """Writes all of `data` to stdout, and flushes it. Raises NoReader, OSError."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_line(text: str) -> None:
    """Prints a line on stdout. It may fail at a later flush. Raises NoReader, OSError."""
    sys.stdout.write(text + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines on stdout and flushes them: their reader may wait for them."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def print_message(text: str) -> None:
    """Prints a line on stderr. A broken stderr is ignored: it is no reason to fail."""
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201  # what this module is for


def bad_news(text: str, colour: str = "red") -> str:
    """`text` for stdout, in a colour if that is a terminal. NO_COLOR and TERM=dumb are honoured."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain or not os.isatty(1) else click.style(text, fg=colour, bold=True)


def print_note(text: str) -> None:
    """Prints a message on stderr that -q leaves out; as JSON with `--log-format json`."""
    _note_logger.warning("%s", text, extra={NOTE: True})


def print_problem(text: str) -> None:
    """Prints on stderr why the answer is bad news; as JSON with `--log-format json`."""
    _note_logger.error("%s", text, extra={NOTE: True})


def print_error(error: EventLogError) -> None:
    """Prints an expected failure on stderr: what, where, do."""
    print_message(f"error: {error.what}")
    if error.where:
        print_message(f"where: {error.where}")
    if error.do:
        print_message(f"do:    {error.do}")


def open_standard_streams() -> None:
    """Puts our writer in place of stdout, and /dev/null in place of each stream that is closed.

    Otherwise the next file that is opened, perhaps a segment, would become stdout.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = _open_stdout(sys.stdout.encoding if sys.stdout is not None else "utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def flush_standard_streams() -> None:
    """Flushes stdout and stderr. Output that cannot be written goes to /dev/null.

    Otherwise Python would flush again at exit, and fail with an exit code of its own.
    """
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, NoReader):
            _discard_output(fd)


def discard_stdout() -> None:
    """Discards what stdout has buffered: after an interrupt, no flush waits for a slow reader."""
    _discard_output(1)


def _discard_output(fd: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


class NoReader(Exception):
    """The reader of stdout has closed it. Not an OSError: click handles those itself."""
