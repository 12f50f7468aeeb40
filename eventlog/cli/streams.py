"""The standard streams of a command: stdout for data, stderr for words.

Invariant: nothing that is wrong with a stream becomes a traceback, or writes into a file of ours.
"""

import os
import select
import sys
from contextlib import suppress

from eventlog.errors import EventLogError


def write_stdout(data: bytes) -> None:
    """Writes to stdout, whole, at once: no buffer holds back an answer."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:  # whoever started us made it so, for its own end of it
            select.select([], [1], [])
        except BrokenPipeError:
            raise NoReader from None


def print_message(text: str) -> None:
    """A line on stderr, where anybody listens: it is a courtesy, never a reason to fail."""
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201  # what this module is for


def print_error(error: EventLogError) -> None:
    """Tells an expected failure on stderr: what, where, do."""
    print_message(f"error: {error.what}")
    if error.where:
        print_message(f"where: {error.where}")
    if error.do:
        print_message(f"do:    {error.do}")


def open_standard_streams() -> None:
    """Puts /dev/null where stdin, stdout or stderr was closed.

    Otherwise the next file that is opened, maybe a segment, would become our stdout.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def flush_standard_streams() -> None:
    """Gives out what is still buffered. What cannot be taken goes to /dev/null.

    Otherwise Python would try it once more at exit, and end with an exit code of its own.
    """
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


class NoReader(Exception):
    """Whoever read our output has gone. No OSError, for click answers to those by itself."""
