"""Rows of the log for the pages: the newest ones, and a page before or after an entry.

Invariant: rows are of durable entries, in the order of the log, each once.
"""

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import orjson

from eventlog import Entry
from eventlog.plumbing import read_entries
from projections.signals.transitions import SIGNAL

ROWS_MAX = 500
SHOWN_ROWS = 60  # in one message of a stream: more than a page shows at once
VALUE_CHARS_MAX = 400
DETAIL_BYTES_MAX = 2_048  # of a row: pages show about 200, and a line may have 64 KiB
STEP_ENTRIES = 2_000  # read at a time while a filter is searched for
SEARCH_S_MAX = 0.25  # then the page says how far it looked

_SIGNAL_KEYS = (
    *("symbol", "action", "entry_price", "target_price", "stop_price", "confidence", "strategy"),
)

Row = dict[str, object]


def row_of(entry: Entry) -> Row:
    """The row of an entry: of a signal its figures, of anything else its payload."""
    payload = entry.payload
    row: Row = {
        "seq": entry.seq,
        "at": entry.recorded_at,
        "event": entry.event,
        "signal_id": _shortened(payload.get("signal_id")),
    }
    if entry.event == SIGNAL:
        return row | {key: _shortened(payload.get(key)) for key in _SIGNAL_KEYS}
    return row | {"detail": _detail(payload)}


def _detail(payload: Mapping[str, object]) -> Row:
    """The payload without its signal; of a large one the first values."""
    rest_bytes = DETAIL_BYTES_MAX
    found: Row = {}
    keys = [key for key in payload if key != "signal_id"]
    for count, key in enumerate(keys):
        value = _shortened(payload[key])
        rest_bytes -= len(orjson.dumps({key: value}))
        if rest_bytes < 0:
            found["..."] = f"{len(keys) - count} more"
            break
        found[key] = value
    return found


def _shortened(value: object) -> object:
    """The value; the start of its text where it is large."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return value if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."


class LogPage(NamedTuple):
    """Rows, newest first, and what was not looked at."""

    rows: list[Row]
    left_out: int  # entries between the bounds that are older than the last row
    searched_to: int  # the oldest entry that was looked at


def read_page(
    home: Path, *, after: int, before: int, limit: int, event: str | None = None
) -> LogPage:
    """The newest rows with `after` < seq < `before`, newest first. Raises LogCorrupt."""
    deadline_s = time.monotonic() + SEARCH_S_MAX
    rows: list[Row] = []
    high = before  # all from here on were looked at
    while high > after + 1 and len(rows) < limit:
        step = limit - len(rows) if event is None else STEP_ENTRIES
        low = max(after, high - 1 - step)
        found = [
            entry for entry in _between(home, low, high) if event is None or entry.event == event
        ]
        found = found[max(0, len(found) - (limit - len(rows))) :]
        rows += [row_of(entry) for entry in reversed(found)]
        high = low + 1
        if time.monotonic() > deadline_s:
            break
    if len(rows) >= limit:
        last = rows[-1]["seq"]
        assert isinstance(last, int)
        high = last
    return LogPage(rows, max(0, high - 1 - after), high)


def _between(home: Path, after: int, before: int) -> Iterator[Entry]:
    entries = read_entries(os.fspath(home), after=after, first_only=before - after < 50)
    for entry in islice(entries, before - after - 1):
        if entry.seq >= before:
            return
        yield entry
