"""A page of signals, by descending id: every filter of `eventlog signals`, and signal_id.

Ids are walked in windows that grow, so that the work of one request is bounded whatever the filter;
an answer that stopped early says how far it looked.

Invariant: the pages that `next` links hold every signal that the filters select, once.
"""

import time
from http import HTTPStatus
from pathlib import Path
from sqlite3 import Connection

from projections.errors import ProjectionError
from projections.queries.filters import signal_filter
from projections.queries.selection import (
    EXECUTED_AND_CLOSED,
    Selection,
    row_dict,
    select,
)
from projections.serving.app import QueryParams
from projections.sqlite.database import database_path
from projections.sqlite.file import NO_FILE, inode_of
from projections.web.answers import Refusal
from projections.web.table import read_home
from projections.web.views.moment import Moment, Moments, table_end, whole_number

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
WINDOW_IDS = 5_000  # the first window; each further one is twice as large
WINDOW_IDS_MAX = 320_000
SEARCH_S_MAX = 0.25
COUNT_MAX = 10_000  # signals of a filter that are counted: a page says that there are more
COUNT_S_MAX = 1.0

_COUNT = "SELECT count(*) FROM signals WHERE id > ? AND id <= ?"

FILTERS = ("symbol", "strategy", "action", "outcome", "since", "until")


def selection_of(query: QueryParams, seq: int | None, *names: str) -> Selection:
    """The selection that the query's filters describe. Raises Refusal for an invalid one."""
    given = {name: query.get(name) or None for name in names or FILTERS}
    try:
        return Selection(signal_filter(**given), seq)  # type: ignore[arg-type]  # text or None
    except ProjectionError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.what, do=error.do) from None


class SignalCount:
    """The number of signals up to an entry; counts only those since the answer before. Thread-safe.

    Counting 1,000,000 signals takes longer than all else in a page of them.
    """

    def __init__(self, home: Path) -> None:
        self._path = database_path(home)
        self._last = (NO_FILE, 0, 0)  # the table, an entry, and the signals up to it

    def at(self, database: Connection, seq: int) -> int:
        """The number as of an entry that the table has."""
        inode = inode_of(self._path)
        known_inode, known_seq, count = self._last
        if inode != known_inode:  # rebuilt
            known_seq = count = 0
        low, high = sorted((known_seq, seq))
        between: int = database.execute(_COUNT, (low, high)).fetchone()[0]
        count += between if seq > known_seq else -between
        self._last = (inode, seq, count)
        return count


def read_signals(
    home: Path, moments: Moments, signal_count: SignalCount, query: QueryParams
) -> dict[str, object]:
    """The object of /api/signals."""
    moment = moments.of(query)
    selection = selection_of(query, moment.past_seq)
    limit = whole_number("limit", query.get("limit") or str(LIMIT_DEFAULT))
    limit = max(1, min(limit, LIMIT_MAX))
    text = query.get("before")
    before = whole_number("before", text) if text else None
    signal_id = query.get("signal_id") or None

    def read(database: Connection) -> dict[str, object]:
        end = table_end(database, moment)
        start = min(before, end + 1) if before is not None else end + 1
        if signal_id is not None:
            rows, reached, is_complete = _named(database, selection, signal_id), 1, True
        else:
            rows, reached, is_complete = _search(database, selection, start, limit)
        is_filtered = signal_id is not None or any(
            value is not None for value in selection.filter.parameters().values()
        )
        total = None if is_filtered else signal_count.at(database, end)
        if is_filtered and before is None and is_complete and len(rows) < limit:
            total = len(rows)
        return {
            "seq": end,
            "rows": rows,
            "next": reached if reached > 1 else None,
            "searched_to": reached,
            "complete": is_complete,
            "total": total,
        }

    found = read_home(home, read)
    return {"as_of": as_of_table(moments, moment, found.pop("seq")).to_json(), **found}


def count_signals(home: Path, moments: Moments, query: QueryParams) -> dict[str, object]:
    """The object of /api/signals/count: how many signals the filters select, at most COUNT_MAX."""
    moment = moments.of(query)
    selection = selection_of(query, moment.past_seq)

    def read(database: Connection) -> dict[str, object]:
        end = table_end(database, moment)
        count, is_complete = _count(database, selection, end)
        return {"seq": end, "count": count, "complete": is_complete}

    found = read_home(home, read)
    return {"as_of": as_of_table(moments, moment, found.pop("seq")).to_json(), **found}


def _count(database: Connection, selection: Selection, end: int) -> tuple[int, bool]:
    """The number of signals, and whether that is all of them."""
    deadline_s = time.monotonic() + COUNT_S_MAX
    needs_state = selection.seq is not None and selection.filter.outcome is not None
    bounds = ("s.id < :high", "s.id >= :low")
    source = selection.source("", *bounds, with_state=needs_state, scan="NOT INDEXED")
    count, low, window = 0, end + 1, WINDOW_IDS
    while low > 1 and count <= COUNT_MAX and time.monotonic() < deadline_s:
        high, low = low, max(1, low - window)
        parameters = selection.parameters(high=high, low=low)
        count += database.execute(f"SELECT count(*) {source}", parameters).fetchone()[0]
        window = min(2 * window, WINDOW_IDS_MAX)
    return min(count, COUNT_MAX), low <= 1 and count <= COUNT_MAX


def as_of_table(moments: Moments, moment: Moment, seq: object) -> Moment:
    """The moment of an answer from the table: for now, that of its checkpoint."""
    assert isinstance(seq, int)
    if not moment.is_live or seq == moment.seq:
        return moment
    return Moment(seq=seq, recorded_at=moments.recorded_at(seq), is_live=True)


def _named(database: Connection, selection: Selection, signal_id: str) -> list[dict[str, object]]:
    """The signal with an id, if the filters select it."""
    source = selection.source(EXECUTED_AND_CLOSED, "s.signal_id = :signal_id")
    parameters = selection.parameters(signal_id=signal_id)
    return [row_dict(row) for row in database.execute(f"{select(selection)} {source}", parameters)]


def _search(
    database: Connection, selection: Selection, start: int, limit: int
) -> tuple[list[dict[str, object]], int, bool]:
    """Rows with an id below `start`, the lowest id looked at, and whether the page is complete."""
    deadline_s = time.monotonic() + SEARCH_S_MAX
    sql = f"""{select(selection)} {
        selection.source(EXECUTED_AND_CLOSED, "s.id < :high", "s.id >= :low", scan="NOT INDEXED")
    } ORDER BY s.id DESC LIMIT :count"""
    rows: list[dict[str, object]] = []
    low, window = start, WINDOW_IDS
    while low > 1 and len(rows) < limit and time.monotonic() < deadline_s:
        high, low = low, max(1, low - window)
        parameters = selection.parameters(high=high, low=low, count=limit - len(rows))
        rows += [row_dict(row) for row in database.execute(sql, parameters)]
        window = min(2 * window, WINDOW_IDS_MAX)
    if len(rows) < limit:
        return rows, low, low <= 1
    last = rows[-1]["id"]
    assert isinstance(last, int)
    return rows, last, True
