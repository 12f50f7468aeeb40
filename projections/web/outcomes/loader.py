"""Loads the trades of a large table in a process of its own, with all cores and without our lock.

The process has one thread, so it may fork others, and the console answers while they work. It
sends the progress, then the columns, then one group after the other, each of which it forgets.

Invariant: the console ends the process when it ends, and what a process did not send whole is not
used.
"""

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from eventlog import EventLogError
from projections.queries.filters import SignalFilter
from projections.web.outcomes.book import Book
from projections.web.outcomes.trades import Progress, Trades

ENTRIES_MIN = 100_000  # below, the start of a process would cost more than it saves
READING_SHARE = 0.65  # of the progress
_PROGRESS_PARTS = 2  # of the messages before the columns

COMMAND = (sys.executable, "-P", "-c", f"from {__name__} import main; main()")


class Loaded(NamedTuple):
    """All trades of a table, and the book of them."""

    trades: Trades
    book: Book


class Loader:
    """Loads the trades of one home. Thread-safe: `end` may be called at any time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def load(self, progress: Progress) -> Loaded | None:
        """All trades of the table; None where the process has failed."""
        try:
            with self._started() as output:
                return _receive(self._home, output, progress)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None

    @contextmanager
    def _started(self) -> Iterator[IO[bytes]]:
        self._process = process = subprocess.Popen(
            [*COMMAND, self._home],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        with process:
            try:
                if self._is_over:
                    raise EOFError
                yield process.stdout
            finally:
                process.kill()

    def end(self) -> None:
        """Ends the process, and every later one at once."""
        self._is_over = True
        if self._process is not None:
            self._process.kill()


def _receive(home: Path, output: IO[bytes], progress: Progress) -> Loaded:
    while len(found := pickle.load(output)) == _PROGRESS_PARTS:
        progress(*found)
    trades = Trades(home)
    trades.take(*found)
    for columns in (trades.signals, trades.trades):
        for name in list(vars(columns)):
            vars(columns)[name] = pickle.load(output)
    book = Book(trades, SignalFilter())
    for _ in range(pickle.load(output)):
        book.take_group(*pickle.load(output))
    return Loaded(trades, book)


def main() -> None:
    """Loads the trades of the home that the command names, and sends them to stdout."""
    gc.disable()  # there are no reference cycles, and it would scan rows by the million
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        try:
            _send(Path(sys.argv[1]), output)
        except (BrokenPipeError, EventLogError):
            sys.exit(1)  # the console has ended, or finds the same error itself


def _send(home: Path, output: IO[bytes]) -> None:
    def report(share: float, text: str) -> None:
        pickle.dump((share, text), output)
        output.flush()

    trades = Trades(home)
    trades.follow(lambda share, text: report(READING_SHARE * share, text))
    book = Book(trades, SignalFilter())
    report(READING_SHARE, "sorting trades")
    book.follow()
    pickle.dump((trades.source,), output)
    count = book.group_count
    # One after the other, and forgotten: a pickle keeps a copy of all that it holds.
    for columns in (trades.signals, trades.trades):
        for name in list(vars(columns)):
            pickle.dump(vars(columns).pop(name), output)
    pickle.dump(count, output)
    while (found := book.pop_group()) is not None:
        pickle.dump(found, output)
