"""The entry that an answer is as of: now, or the last one recorded by a given time.

A time selects a prefix of the log, which a binary search over single entries finds. So the log, the
table and the figures of one answer are all cut off at the same entry.

Invariant: a time that is accepted selects the same entry for ever.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from sqlite3 import Connection

from eventlog import Entry, EventLogError
from eventlog.plumbing import log_status, read_entries
from projections.errors import ProjectionError
from projections.queries.as_of import AS_OF_BOUNDS, parse_as_of
from projections.queries.times import require_past
from projections.serving.app import QueryParams
from projections.sqlite.database import read_checkpoint
from projections.web.answers import Refusal
from projections.web.table import TableBusy, read_home

KNOWN_MAX = 1_000  # positions of a slider that are remembered
SEQ_DIGITS_MAX = 18

_NEXT = "SELECT min(seq) FROM lifecycle WHERE seq > ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The entry up to which an answer counts; `seq` 0 is before the first."""

    seq: int
    recorded_at: str | None
    is_live: bool

    def to_json(self) -> dict[str, object]:
        """The object `as_of` of an answer."""
        return {"seq": self.seq, "recorded_at": self.recorded_at, "live": self.is_live}

    @property
    def past_seq(self) -> int | None:
        """The seq for a query as of the past; None for now."""
        return None if self.is_live else self.seq


class Moments:
    """Finds moments in one log. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._by_time: OrderedDict[str, tuple[int, str | None]] = OrderedDict()

    def of(self, parameters: QueryParams) -> Moment:
        """The moment that `as_of` or `as_of_seq` names, or now: the end of the log.

        Raises Refusal for an invalid one, and ProjectionError where the table does not cover it.
        """
        text, number = parameters.get("as_of"), parameters.get("as_of_seq")
        if text:
            seq, recorded_at = self._by(text)
        elif number:
            seq, recorded_at = self._numbered(whole_number("as_of_seq", number))
        else:
            return self.now()
        self._require_covered(seq)
        return Moment(seq=seq, recorded_at=recorded_at, is_live=False)

    def now(self) -> Moment:
        """The end of the log."""
        found = log_status(os.fspath(self._home), count=False)
        seq, recorded_at = found["last_seq"], found["last_recorded_at"]
        assert isinstance(seq, int)
        assert recorded_at is None or isinstance(recorded_at, str)
        return Moment(seq=seq, recorded_at=recorded_at, is_live=True)

    def recorded_at(self, seq: int) -> str | None:
        """When an entry was recorded; None before the first."""
        entry = self.entry(seq)
        return None if entry is None else entry.recorded_at

    def entry(self, seq: int) -> Entry | None:
        """An entry, or the one after it where accepted damage left none."""
        if seq < 1:
            return None
        found = read_entries(os.fspath(self._home), after=seq - 1, first_only=True)
        return next(found, None)

    def _by(self, text: str) -> tuple[int, str | None]:
        try:
            moment = parse_as_of(text)
            require_past(moment, datetime.now(UTC))
        except ProjectionError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.what, do=error.do) from None
        found = self._by_time.get(moment)
        if found is None or self.recorded_at(found[0]) != found[1]:  # of a log since replaced
            found = self._search(moment)
            self._by_time[moment] = found
            while len(self._by_time) > KNOWN_MAX:
                self._by_time.popitem(last=False)
        return found

    def _search(self, moment: str) -> tuple[int, str | None]:
        """The last entry recorded by a moment: `recorded_at` never decreases along the log."""
        low, high = self._bounds(moment, self.now().seq)
        recorded_at = self.recorded_at(low)
        while low < high:
            middle = (low + high + 1) // 2
            entry = self.entry(middle)
            if entry is not None and entry.recorded_at <= moment:
                low, recorded_at = max(middle, min(entry.seq, high)), entry.recorded_at
            else:
                high = middle - 1
        return low, recorded_at

    def _bounds(self, moment: str, last_seq: int) -> tuple[int, int]:
        """The bounds of the search: the entries of the table around the moment."""

        def read(database: Connection) -> tuple[int, int]:
            low = database.execute(AS_OF_BOUNDS, {"moment": moment}).fetchone()[0]
            (later,) = database.execute(_NEXT, (low,)).fetchone()
            return low, last_seq if later is None else later - 1

        try:
            low, high = read_home(self._home, read)
        except TableBusy:
            raise
        except EventLogError:
            return 0, last_seq
        return min(low, last_seq), min(high, last_seq)

    def _numbered(self, seq: int) -> tuple[int, str | None]:
        last_seq = self.now().seq
        if seq > last_seq:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the log ends at entry {last_seq}",
                do="give an as_of_seq that the log has",
            )
        return seq, self.recorded_at(seq)

    def _require_covered(self, seq: int) -> None:
        checkpoint = read_home(self._home, read_checkpoint)
        at = 0 if checkpoint is None else checkpoint.seq
        if at < seq:
            raise ProjectionError(
                f"the table is behind the log: it is at entry {at}, before entry {seq}",
                do="run `eventlog project sqlite --once`, or start the daemon",
            )


def table_end(database: Connection, moment: Moment) -> int:
    """The entry up to which the table answers: that of the moment; for now, its checkpoint's."""
    if moment.past_seq is not None:
        return moment.past_seq
    checkpoint = read_checkpoint(database)
    return 0 if checkpoint is None else checkpoint.seq


def whole_number(name: str, text: str) -> int:
    """A number from a query. Raises Refusal for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= SEQ_DIGITS_MAX):
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"{name} is not a whole number", do="give digits only"
        )
    return int(text)
