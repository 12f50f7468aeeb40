"""The standard streams of a command: data on stdout, messages and progress bars on stderr.

Invariant: a closed or broken stream causes no traceback and no write into a file of the log.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from eventlog.errors import EventLogError

PROGRESS_STEPS = 200  # drawings of one bar: more are not seen, and each costs


def write_stdout(data: bytes) -> None:
    """Writes all of `data` to stdout, unbuffered. Raises NoReader."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:  # the parent process made this end of its pipe non-blocking
            select.select([], [1], [])
        except BrokenPipeError:
            raise NoReader from None


def print_message(text: str) -> None:
    """Prints a line on stderr. A broken stderr is ignored: it is no reason to fail."""
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201  # what this module is for


def print_error(error: EventLogError) -> None:
    """Prints an expected failure on stderr: what, where, do."""
    print_message(f"error: {error.what}")
    if error.where:
        print_message(f"where: {error.where}")
    if error.do:
        print_message(f"do:    {error.do}")


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on stderr during a block. Draws nothing where stderr is no terminal.

    The block calls the function that it gets with the bytes done and the bytes in total.
    """
    bar = click.progressbar(
        length=0,
        label=label,
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
        bar_template="%(label)s [%(bar)s] %(info)s",
    )

    def report(done: int, total: int) -> None:
        bar.length = total
        if not bar.pos or done >= total or done - bar.pos > total // PROGRESS_STEPS:
            with suppress(OSError):  # the terminal is gone: the work goes on
                bar.update(done - bar.pos)

    try:
        yield report
    finally:
        with suppress(OSError):
            bar.render_finish()


def open_standard_streams() -> None:
    """Opens /dev/null in place of each standard stream that is closed.

    Otherwise the next file that is opened, perhaps a segment, would become stdout.
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
    """Flushes stdout and stderr. Output that cannot be written goes to /dev/null.

    Otherwise Python would flush again at exit, and fail with an exit code of its own.
    """
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


class NoReader(Exception):
    """The reader of stdout has closed it. Not an OSError: click handles those itself."""
