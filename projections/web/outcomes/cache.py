"""The page Outcomes: keeps the trades of the table in memory, and answers as of any entry.

The first request starts to load them; until that is done, requests get the progress.

Invariant: an answer is of one entry, and one thread at a time changes what it is made of.
"""

import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from pathlib import Path
from sqlite3 import Connection

from projections.queries.filters import SignalFilter
from projections.queries.selection import Selection
from projections.queries.stats import last_updated
from projections.web.outcomes.book import Book, Json
from projections.web.outcomes.loader import ENTRIES_MIN, Loader
from projections.web.outcomes.trades import Trades
from projections.web.table import read_home

logger = logging.getLogger(__name__)

ANSWERS_MAX = 64  # positions of a slider that are remembered, some 100 KiB each
BOOKS_MAX = 8  # filters that are kept, besides the one of all trades
BOOKS_SIZE_MAX = 1_000_000  # signals and trades in them together: some 40 bytes each
WAIT_S = 0.05  # a small home answers at once

ALL = SignalFilter()


class Outcomes:
    """The trades of one home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._trades = Trades(home)
        self._loader = Loader(home)
        self._books: OrderedDict[SignalFilter, Book] = OrderedDict()
        self._answers: OrderedDict[tuple[object, ...], Json] = OrderedDict()
        self._lock = threading.Lock()  # held while columns or books change or are read
        self.progress: tuple[float, str] = (0.0, "reading the table")

    def try_answer(self, chosen: SignalFilter, past_seq: int | None) -> Json | None:
        """The answer, of the table's end where `past_seq` is None; None while another loads.

        Raises ProjectionError.
        """
        if not self._lock.acquire(timeout=WAIT_S):
            return None
        try:
            return self._answer(chosen, past_seq)
        finally:
            self._lock.release()

    def _answer(self, chosen: SignalFilter, past_seq: int | None) -> Json:
        if past_seq is None or past_seq > self._trades.seq or self._trades.is_replaced:
            self._follow()
        seq = self._trades.seq if past_seq is None else past_seq
        key = (self._trades.number, chosen, seq)
        found = self._answers.pop(key, None)
        if found is None:
            book = self._book(chosen)
            updated = self._last_updated(seq)
            found = {"seq": seq, **book.answer(seq, updated), **self._range(book, seq)}
        self._answers[key] = found
        while len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        return found

    def _follow(self) -> None:
        """Brings the trades up to the end of the table, the first time in another process."""
        if self._trades.unread_count >= ENTRIES_MIN:
            loaded = self._loader.load(self._report)
            if loaded is not None:
                number = self._trades.number + 1  # what was built on the others is not of these
                self._trades, self._books[ALL] = loaded.trades, loaded.book
                self._trades.number = loaded.book.number = number
        self._trades.follow(self._report)

    def end(self) -> None:
        """Ends a process that loads trades."""
        self._loader.end()

    def _report(self, share: float, text: str) -> None:
        self.progress = (round(share, 3), text)

    def _book(self, chosen: SignalFilter) -> Book:
        book = self._books.pop(chosen, None)
        if book is None or book.number != self._trades.number:
            self._report(0.8, "sorting trades")
            book = Book(self._trades, chosen)
        book.follow()
        self._books[chosen] = book
        others = [each for each in self._books if each != ALL]
        while others and (len(others) > BOOKS_MAX or self._size(others) > BOOKS_SIZE_MAX):
            oldest = others.pop(0)
            if oldest == chosen:
                break
            del self._books[oldest]
        return book

    def _size(self, filters: list[SignalFilter]) -> int:
        return sum(self._books[each].size for each in filters)

    def _last_updated(self, seq: int) -> object:
        def read(database: Connection) -> object:
            return last_updated(database, Selection(ALL, seq))

        return read_home(self._home, read)

    def _range(self, book: Book, seq: int) -> Json:
        """The first and last trade, and what can be chosen, as of the entry."""
        trades, signals = self._trades.trades, self._trades.signals
        numbers = book.all.trades
        count = bisect_left(numbers, trades.count_at(seq))
        first = numbers[0] if count else None
        last = numbers[count - 1] if count else None
        return {
            "range": {
                "first_at": None if first is None else trades.at_s[first],
                "last_at": None if last is None else trades.at_s[last],
                "first_seq": None if first is None else trades.known_seq[first],
                "last_seq": None if last is None else trades.known_seq[last],
            },
            "choices": {
                "strategies": signals.strategies.among(signals.count_at(seq)),
                "symbols": signals.symbols.among(signals.count_at(seq)),
            },
        }
