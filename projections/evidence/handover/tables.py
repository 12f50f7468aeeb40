"""The signals table as CSV, with the state of each signal after each entry.

Text that a spreadsheet would execute is escaped as in `eventlog export`.

Invariant: each entry that applied is one row of `states.csv`, each other one a row of
`conflicts.csv`, except entries of unknown events.
"""

from collections.abc import Iterator
from sqlite3 import Connection

from projections.export.csv_lines import csv_line
from projections.signals import schema

_SIGNAL_COLUMNS = (
    *("symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "asset_type", "data_source", "timestamp", "sha256"),
)
_FIRST, _STATE = (
    ("seq", "recorded_at", "event", "signal_id"),
    ("state", "order_id", "outcome", "exit_price", "profit_loss_pct", "detail"),
)
STATES = (*_FIRST, *_STATE, *_SIGNAL_COLUMNS, "extra")
_SELECT_STATES = f"""SELECT {", ".join(f"l.{name}" for name in (*_FIRST, *_STATE))},
    {", ".join(f"s.{name}" for name in _SIGNAL_COLUMNS)}, x.extra
    FROM lifecycle AS l LEFT JOIN signals AS s ON s.signal_id = l.signal_id
    LEFT JOIN signal_extras AS x ON x.signal_id = l.signal_id ORDER BY l.seq"""
# File, columns, SQL: the state of now, all states in between, and what did not fit.
TABLES = (
    ("signals.csv", schema.COLUMNS, schema.SELECT_SIGNALS),
    ("states.csv", STATES, _SELECT_STATES),
    (
        "conflicts.csv",
        ("seq", "signal_id", "reason"),
        "SELECT seq, signal_id, reason FROM conflicts ORDER BY seq",
    ),
)
ROWS_AT_ONCE = 10_000


def table_lines(database: Connection, columns: tuple[str, ...], sql: str) -> Iterator[bytes]:
    """The lines of one CSV file, many at a time."""
    yield (",".join(columns) + "\n").encode()
    cursor = database.execute(sql)
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        yield "".join(map(csv_line, rows)).encode()
