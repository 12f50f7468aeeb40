"""One signal: its life as `eventlog show` has it, its line with its chain, and prices around it.

Invariant: the raw line and the chain before it are those of the log, so that a browser can compute
the chain again.
"""

import os
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from sqlite3 import Connection

from eventlog.plumbing import decode, raw_lines
from projections.queries.selection import parse_object, stored_time
from projections.queries.show import show
from projections.serving.app import QueryParams
from projections.web.answers import Refusal
from projections.web.table import read_home
from projections.web.views.evidence import signed_size
from projections.web.views.moment import Moments, table_end, whole_number
from projections.web.views.signals import as_of_table

PRICES_AROUND = 60  # signals before, and as many after
SEARCH_S_MAX = 0.25
STEPS = 10_000  # of SQLite's machine between two looks at the clock
SEQ_MAX = 2**62  # of a path; SQLite has no greater number than twice that
CHAIN_START = "0" * 64

_ID = "SELECT signal_id FROM signals WHERE id = :id"
_OLDER = "SELECT max(id) FROM signals WHERE id < :id"
_NEWER = "SELECT min(id) FROM signals WHERE id > :id AND id <= :seq"
# By the time of the decision, through the index on (symbol, timestamp), which ends with the id.
_CENTRE = "SELECT timestamp FROM signals WHERE id = :id AND symbol = :symbol AND id <= :seq"
_PRICES = """SELECT id, signal_id, timestamp, entry_price, action FROM signals
    WHERE symbol = :symbol AND (timestamp, id) {0} (:timestamp, :id) AND id <= :seq
    ORDER BY timestamp {1}, id {1} LIMIT :count"""
_FACTS = """SELECT seq, event, recorded_at, detail, outcome FROM lifecycle
    WHERE signal_id = :signal_id AND event <> 'signal' AND seq <= :seq AND known_seq <= :seq
    ORDER BY seq"""
_KINDS = {"executed": ("fill", "fill_price", "executed_at")}
_EXIT = ("exit", "exit_price", "closed_at")

Json = dict[str, object]


def read_signal(home: Path, moments: Moments, query: QueryParams, seq: int) -> Json:
    """The object of /api/signals/SEQ. Raises Refusal where there is, or was, no such signal."""
    moment = moments.of(query)
    seq = min(seq, SEQ_MAX)

    def read(database: Connection) -> tuple[str | None, int, int | None, int | None]:
        end = table_end(database, moment)
        found = database.execute(_ID, {"id": seq}).fetchone() if seq <= end else None
        (older,) = database.execute(_OLDER, {"id": seq}).fetchone()
        (newer,) = database.execute(_NEWER, {"id": seq, "seq": end}).fetchone()
        return None if found is None else found[0], end, older, newer

    signal_id, end, older, newer = read_home(home, read)
    if signal_id is None:
        raise Refusal(
            HTTPStatus.NOT_FOUND,
            f"entry {seq} is no signal, or the table did not have it yet",
            do="open it from the page Signals",
        )
    life = show(home, signal_id, seq=moment.past_seq).to_json()
    row = life["row"]
    return {
        "as_of": as_of_table(moments, moment, end).to_json(),
        "signal": life,
        "price_points": None,
        "chain": _chain(home, seq),
        "signed_size": _signed_size(home) if moment.is_live else None,
        "older": older,
        "newer": newer,
        "further_keys": row.get("extra", {}) if isinstance(row, dict) else {},
    }


def _signed_size(home: Path) -> int | None:
    with suppress(Refusal):  # then the page Evidence says why
        return signed_size(home)
    return None


def _chain(home: Path, seq: int) -> Json:
    """The line of an entry, its chain, and the chain of the line before it."""
    first = max(0, seq - 2)
    found = [line for some in raw_lines(os.fspath(home), after=first, limit=2) for line in some]
    lines = {decode(line).seq: line for line in found}
    line = lines.get(seq)
    if line is None:
        return {"previous": None, "line": None, "chain": None}
    before = lines.get(seq - 1)
    previous = CHAIN_START if seq == 1 else None if before is None else decode(before).chain
    text = line.decode(errors="replace").rstrip("\n")
    return {"previous": previous, "line": text, "chain": decode(line).chain}


def read_prices(home: Path, moments: Moments, query: QueryParams) -> Json:
    """The object of /api/prices: what the log saw of a symbol around one of its signals."""
    symbol, around = query.get("symbol", ""), whole_number("around", query.get("around", ""))
    moment = moments.of(query)

    def read(database: Connection) -> tuple[int, list[Json]]:
        end = table_end(database, moment)
        _limit_time(database)
        return end, _prices(database, symbol, around, end)

    end, rows = read_home(home, read)
    return {"as_of": as_of_table(moments, moment, end).to_json(), "rows": rows}


def _limit_time(database: Connection) -> None:
    deadline_s = time.monotonic() + 4 * SEARCH_S_MAX
    database.set_progress_handler(lambda: int(time.monotonic() > deadline_s), STEPS)


def _prices(database: Connection, symbol: str, around: int, end: int) -> list[Json]:
    values: Json = {"id": around, "symbol": symbol, "seq": end}
    centre = database.execute(_CENTRE, values).fetchone()
    if centre is None:
        raise Refusal(
            HTTPStatus.NOT_FOUND,
            f"entry {around} is no signal of that symbol, or was not known then",
            do="give the symbol and the seq of one signal",
        )
    values |= {"timestamp": centre[0], "count": PRICES_AROUND}
    before = database.execute(_PRICES.format("<", "DESC"), values).fetchall()
    after = database.execute(
        _PRICES.format(">=", "ASC"), {**values, "count": PRICES_AROUND + 1}
    ).fetchall()
    rows = [row for signal in (*before, *after) for row in _of_signal(database, signal, end)]
    return sorted(rows, key=lambda row: (str(row["at"]), row["seq"]))


def _of_signal(
    database: Connection, signal: tuple[int, str, str, float, str], end: int
) -> list[Json]:
    """The entry price of a signal, and the prices of its facts in force."""
    seq, signal_id, timestamp, price, action = signal
    found: list[tuple[int, str, str, str, str | None]] = []
    for fact in database.execute(_FACTS, {"signal_id": signal_id, "seq": end}):
        if fact[1] == "voided":
            found.pop()  # a `voided` that applied withdraws the last fact in force
        else:
            found.append(fact)
    outcome = found[-1][4] if found else None
    rows = [(seq, timestamp, price, "entry")]
    for fact_seq, event, recorded_at, text, _ in found:
        kind, key, time_key = _KINDS.get(event, _EXIT)
        detail = parse_object(text)
        value = detail.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            rows.append((fact_seq, stored_time(detail.get(time_key)) or recorded_at, value, kind))
    return [
        {"seq": each, "at": at, "price": value, "kind": kind, "action": action, "outcome": outcome}
        for each, at, value, kind in rows
    ]
