"""A check of a bounded number of rows and index entries, for a database with too many pages.

Invariant: the number of rows read does not grow with the tables.
"""

import sqlite3
from collections.abc import Iterator

from projections.signals.schema import ENTRY_TABLES
from projections.sqlite.file import DamagedDatabase

PLACES = 64  # in each table, evenly spaced; each is another path through the tree of pages
ROWS_PER_PLACE = 16  # a few pages
INDEX_ENTRIES = 256  # of each index, at both ends

# Name, columns and condition of each index of a table; those that SQLite itself makes have no SQL.
_INDEXES = """SELECT format('"%w"', l.name), (SELECT group_concat(format('"%w"', x.name))
    FROM pragma_index_info(l.name) AS x), CASE WHEN l."partial"
    THEN (SELECT substr(s.sql, instr(s.sql, ' WHERE ')) FROM sqlite_master AS s
    WHERE s.type = 'index' AND s.name = l.name) ELSE '' END FROM pragma_index_list(?) AS l"""


def check_row_sample(database: sqlite3.Connection) -> None:
    """Reads rows at many places of each table, and both ends of each of its indexes.

    Each sampled signal is also looked up by its signal_id. Raises sqlite3.DatabaseError at damage.
    """
    for table in ENTRY_TABLES:
        for row in _sampled_rows(database, table):
            if table == "signals":
                _look_up(database, *row[:2])
        for name, columns, condition in database.execute(_INDEXES, (table,)).fetchall():
            for order in ("ASC", "DESC"):
                key = ", ".join(f"{column} {order}" for column in columns.split(","))
                database.execute(
                    f"SELECT {columns}, rowid FROM {table} INDEXED BY {name} {condition}"
                    f" ORDER BY {key} LIMIT {INDEX_ENTRIES}"
                ).fetchall()


def _sampled_rows(database: sqlite3.Connection, table: str) -> Iterator[tuple[object, ...]]:
    """Rows at evenly spaced places of a table, the first and the last rows included."""
    first, last = database.execute(
        f"SELECT (SELECT min(rowid) FROM {table}), (SELECT max(rowid) FROM {table})"
    ).fetchone()
    if first is None:
        return
    places = {first + (last - first) * number // PLACES for number in range(PLACES)}
    for place in sorted(places):
        yield from database.execute(
            f"SELECT * FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT {ROWS_PER_PLACE}",
            (place,),
        )
    yield from database.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT {ROWS_PER_PLACE}")


def _look_up(database: sqlite3.Connection, seq: object, signal_id: object) -> None:
    """Raises DamagedDatabase unless the index on signal_id leads to the row `seq`."""
    query = "SELECT id FROM signals WHERE signal_id = ?"
    if database.execute(query, (signal_id,)).fetchone() != (seq,):
        raise DamagedDatabase(f"the index on signal_id does not lead to row {seq}")
