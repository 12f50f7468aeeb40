"""The rows of signals for an export, in pages, with the log position that they are read at.

The table is read in pages, each in a short transaction, as of one seq. Effects of later facts are
left out, so all pages show one state of the table, and no long reader pins the WAL.

Invariant: the rows are the fold of the log up to `seq`, and `chain` is the chain of entry `seq`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import cast

from eventlog.plumbing import read_entries, require_home
from projections.errors import ProjectionError
from projections.projection import CHAIN_START, Checkpoint
from projections.queries.as_of import seq_as_of
from projections.queries.filters import SignalFilter
from projections.queries.selection import (
    EXECUTED_AND_CLOSED,
    EXTRAS,
    NEWEST_FIRST,
    STATE_COLUMNS,
    Selection,
    Statement,
    parse_object,
    select,
    signal_row,
)
from projections.queries.table import read_home
from projections.signals import schema
from projections.sqlite.database import database_path, read_checkpoint

PAGE_ROWS = 20_000  # about 20 MB of Python objects, read in a tenth of a second
RECORDED_COLUMNS = ("recorded_at", "order_recorded_at", "outcome_recorded_at")
COLUMNS = (*schema.COLUMNS, "extra", *RECORDED_COLUMNS, *STATE_COLUMNS)

_JOINS = f"""{EXECUTED_AND_CLOSED} {EXTRAS} LEFT JOIN lifecycle AS r ON r.seq = s.id"""
_MORE = ("x.extra", "r.recorded_at", "e.recorded_at", "c.recorded_at")
# The plus signs keep SQLite from reading in the order of an index and then sorting.
_NEWER = "(+s.timestamp, +s.id) >= (:edge_timestamp, :edge_id)"

Row = Sequence[object]
Edge = tuple[object, object]  # timestamp and id of the oldest signal within a limit


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """The last entry that the rows cover."""

    seq: int  # 0 for none
    chain: str
    recorded_at: str | None


def position_of(home: Path, as_of: str | None) -> LogPosition:
    """The position of the table, now or as of a time that `parse_as_of` returned.

    Raises ProjectionError where the result as of that time may still change, and where the table is
    not one of this log; LogNotFound.
    """
    require_home(home)

    def read(database: Connection) -> tuple[int, Checkpoint]:
        checkpoint = read_checkpoint(database) or Checkpoint(projection=schema.SQLITE)
        seq = checkpoint.seq if as_of is None else seq_as_of(database, home, as_of)
        return seq, checkpoint

    first_seq, checkpoint = read_home(home, read)
    seq, chain, recorded_at = 0, CHAIN_START, None
    for entry in read_entries(os.fspath(home), after=max(0, first_seq - 1)):
        if entry.seq > checkpoint.seq or (as_of is not None and entry.recorded_at > as_of):
            break
        seq, chain, recorded_at = entry.seq, entry.chain, entry.recorded_at
    if seq < first_seq or (seq == checkpoint.seq and chain != checkpoint.chain):
        raise ProjectionError(
            f"the table does not belong to this log: they differ at entry {first_seq}",
            where=os.fspath(home),
            do="run `eventlog verify`, then `eventlog rebuild-database`",
        )
    return LogPosition(seq=seq, chain=chain, recorded_at=recorded_at)


def read_pages(
    home: Path,
    position: LogPosition,
    chosen: SignalFilter,
    *,
    columns: Sequence[str] = (),
    page_rows: int = PAGE_ROWS,
) -> Iterator[list[Row]]:
    """The values of COLUMNS and of the further keys `columns`, by id, in pages."""
    selection = Selection(chosen, position.seq)
    if chosen.limit is not None and chosen.limit < 1:
        return
    edge: Edge | None = None
    if chosen.limit is not None:
        found = _read(home, position, _edge(selection, chosen.limit), tuple)
        edge = (found[0][0], found[0][1]) if found else None  # none: there are fewer signals

    def parse(row: Row) -> Row:
        return _export_row(row, columns)

    last_id = 0
    while rows := _read(home, position, _page(selection, last_id, edge, page_rows), parse):
        yield rows
        last_id = cast(int, rows[-1][0])


def _page(selection: Selection, last_id: int, edge: Edge | None, page_rows: int) -> Statement:
    edge_timestamp, edge_id = edge or (None, None)
    source = selection.source(_JOINS, "s.id > :last_id", *([_NEWER] if edge else []))
    return Statement(
        f"{select(selection, *_MORE)} {source} ORDER BY s.id LIMIT :page_rows",
        selection.parameters(
            last_id=last_id, page_rows=page_rows, edge_timestamp=edge_timestamp, edge_id=edge_id
        ),
    )


def _edge(selection: Selection, limit: int) -> Statement:
    return Statement(
        f"SELECT s.timestamp, s.id {selection.source()} {NEWEST_FIRST} LIMIT 1 OFFSET :skipped",
        selection.parameters(skipped=limit - 1),
    )


def _read(
    home: Path, position: LogPosition, statement: Statement, parse: Callable[[Row], Row]
) -> list[Row]:
    def read(database: Connection) -> list[Row]:
        checkpoint = read_checkpoint(database)
        if checkpoint is None or checkpoint.seq < position.seq:
            raise ProjectionError(
                "the database was replaced during the export, and is behind the log",
                where=str(database_path(home)),
                do="export again once `eventlog status` shows no lag",
            )
        return list(map(parse, database.execute(*statement)))

    return read_home(home, read)


def _export_row(row: Row, columns: Sequence[str]) -> Row:
    """A row of `select` with _MORE, in the order of COLUMNS, and the further keys."""
    values = signal_row(row)
    known, states = len(schema.COLUMNS), len(schema.COLUMNS) + len(STATE_COLUMNS)
    ordered = [*values[:known], *values[states:], *values[known:states]]
    if columns:
        extra = parse_object(values[states])
        ordered += [extra.get(name) for name in columns]
    return ordered
