"""What `eventlog append` prints: answers on stdout; messages and progress on stderr.

Invariant: every line of input gets exactly one line on stdout, in order.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from eventlog.cli.append.pipe import StopSignal
from eventlog.cli.progress import ProgressBar, progress_bar
from eventlog.cli.streams import print_message, print_note
from eventlog.errors import InvalidSignal, SignalConflict

STDIN = 0
TERMINAL_INPUT = (
    "reading JSON Lines from the terminal, one signal or fact a line; Ctrl-D on a new line ends the"
    " input"
)


class Answer(Protocol):
    """What is printed for one line of input."""

    @property
    def line(self) -> int: ...
    @property
    def result(self) -> object: ...
    def to_json(self) -> bytes: ...


class AppendOutput:
    """Prints the answers to the lines from `fd`."""

    def __init__(self, fd: int, stop: StopSignal, progress: ProgressBar | None) -> None:
        self._fd = fd
        self._stop = stop
        self._progress = progress
        self._start_byte, self._total_bytes = _extent(fd)
        self._shares_terminal = os.isatty(1)  # with the progress bar

    def show(self, answers: Sequence[Answer]) -> None:
        """Prints answers, and the refusals of input among them also on stderr. Raises NoReader.

        An error of the log ends the command, which then reports it once for all lines.
        """
        refusals = InvalidSignal | SignalConflict
        errors = [(a.line, a.result) for a in answers if isinstance(a.result, refusals)]
        if self._progress is not None and (self._shares_terminal or errors):
            self._progress.erase()
        self._stop.write(1, b"".join(answer.to_json() for answer in answers))
        for number, error in errors:
            print_message(f"line {number}: {error}")
        if self._progress is not None and answers:
            lines = answers[-1].line
            self._progress(self._done_bytes() or lines, self._total_bytes, lines)

    def note(self, text: str) -> None:
        """Prints a message on stderr, not with -q."""
        if self._progress is not None:
            self._progress.erase()
        print_note(text)

    def _done_bytes(self) -> int:
        if self._total_bytes is None:
            return 0
        return os.lseek(self._fd, 0, os.SEEK_CUR) - self._start_byte


@contextmanager
def append_output(fd: int, stop: StopSignal, label: str) -> Iterator[AppendOutput]:
    """Prints the answers to the lines from `fd` during the block.

    The progress of a file is shown. A pipe on stdin may be a generator that never ends.
    """
    if fd == STDIN and os.isatty(fd):
        print_note(TERMINAL_INPUT)
    if fd == STDIN and not stat.S_ISREG(os.fstat(fd).st_mode):
        yield AppendOutput(fd, stop, None)
        return
    with progress_bar(label, "line") as progress:
        yield AppendOutput(fd, stop, progress)


def _extent(fd: int) -> tuple[int, int | None]:
    """Where the input starts, and how many bytes it has from there; None where it is no file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return 0, None
    start = os.lseek(fd, 0, os.SEEK_CUR)
    return start, max(0, status.st_size - start)
