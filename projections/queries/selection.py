"""The SQL of every query on signals: their state now or as of a seq, and which are selected. Pure.

`lifecycle` holds the state and the values of a signal after each entry. Now, a signal's state is in
its row with the greatest seq; as of seq S, in that of its rows up to S. A fact that came before its
signal counts from the signal on, and a query as of S selects only signals up to S. The table
`signals` holds the values of now, so a query of now reads them there.

Invariant: a query as of seq S selects and returns what the same query did when the table held
exactly the entries up to S.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import orjson

from projections.errors import ProjectionError
from projections.queries.filters import SignalFilter
from projections.signals import schema
from projections.signals.payloads import SIGNAL_RULES
from projections.signals.transitions import OPEN
from projections.sqlite.file import DamagedDatabase

STATE_COLUMNS = ("state", "executed_at", "closed_at", "fill_price")
ROW_COLUMNS = (*schema.COLUMNS, *STATE_COLUMNS)
SORTED_ENTRIES_MAX = 5_000  # signals up to this seq are sorted in a millisecond or two
COLUMNS_MAX = 100  # further keys as columns: far more than a generator writes

_CHANGING = ("order_id", "outcome", "exit_price", "profit_loss_pct")
_FORBIDDEN_IN_NAMES = re.compile(r"[\x00-\x1f\x7f]")

Row = Sequence[object]


class Statement(NamedTuple):
    """SQL with its parameters by name."""

    sql: str
    parameters: Mapping[str, object]


class Selection(NamedTuple):
    """The signals that a filter selects, now or as of a seq."""

    filter: SignalFilter
    seq: int | None = None  # None: now

    def value(self, column: str) -> str:
        """The SQL expression for a column of `signals`."""
        is_past = self.seq is not None and column in _CHANGING
        return f"l.{column}" if is_past else f"s.{column}"

    def source(
        self, joins: str = "", *conditions: str, with_state: bool = True, scan: str = ""
    ) -> str:
        """FROM and WHERE: `s` is the signal, `l` its last row in `lifecycle`, if any.

        `scan` says which index SQLite uses for the signals: `NOT INDEXED` for a range of ids.
        """
        known = "" if self.seq is None else " AND f.seq <= :seq"
        # `event <> 'signal'` lets SQLite use the partial index on facts.
        state = f"""LEFT JOIN lifecycle AS l ON l.seq = (SELECT max(f.seq) FROM lifecycle AS f
            WHERE f.signal_id = s.signal_id AND f.event <> 'signal'{known})"""
        where = [*self.filter.conditions(self.value("outcome")), *conditions]
        if self.seq is not None:
            where.append("s.id <= :seq")
        return f"""FROM signals AS s {scan} {state if with_state else ""} {joins}
            {"WHERE " + " AND ".join(where) if where else ""}"""

    def parameters(self, **more: object) -> dict[str, object]:
        """The values of the conditions, and more."""
        seq = {} if self.seq is None else {"seq": self.seq}
        return {**self.filter.parameters(), **seq, **more}


EXECUTED_AND_CLOSED = """LEFT JOIN lifecycle AS e ON e.seq = l.executed_seq
    LEFT JOIN lifecycle AS c ON c.seq = l.closed_seq"""
EXTRAS = "LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id"
NEWEST_FIRST = "ORDER BY s.timestamp DESC, s.id DESC"
_IS_AHEAD = schema.IS_AHEAD.replace("timestamp", "s.timestamp").replace(
    "created_at", "s.created_at"
)
_NEWEST_FIRST_OF_BOTH = "ORDER BY {} DESC, {} DESC".format(
    *(schema.COLUMNS.index(name) + 1 for name in ("timestamp", "id"))
)
# Above all timestamps of the second in which entry :seq was recorded, as in schema.IS_AHEAD.
_RECORDED_BY = """(SELECT substr(recorded_at, 1, 19) || '/' FROM lifecycle WHERE seq <= :seq
    ORDER BY seq DESC LIMIT 1)"""


def select(selection: Selection, *more: str) -> str:
    """SELECT of the columns of a signal row, as `signal_row` expects them, and more."""
    columns = map(selection.value, schema.COLUMNS)
    state = f"coalesce(l.state, '{OPEN}')"
    return f"SELECT {', '.join((*columns, state, 'e.detail', 'c.detail', *more))}"


def latest(selection: Selection, count: int, *, with_extra: bool = False) -> Statement:
    """The newest signals by timestamp, newest first."""
    more, extras = (("x.extra",), EXTRAS) if with_extra else ((), "")
    joins = f"{EXECUTED_AND_CLOSED} {extras}"
    parameters = selection.parameters(count=count)

    def found_by(*conditions: str) -> str:
        source = selection.source(joins, *conditions)
        return f"{select(selection, *more)} {source} {NEWEST_FIRST} LIMIT :count"

    is_early = selection.seq is not None and selection.seq <= SORTED_ENTRIES_MAX
    if is_early and selection.filter.outcome is None:
        # The index on timestamp leads past every signal that was recorded later. The few earlier
        # ones are sorted, before any join: the plus sign selects that plan.
        where = " AND ".join([*selection.filter.conditions(""), "s.id <= :seq"])
        newest = NEWEST_FIRST.replace("s.timestamp", "+s.timestamp")
        found = f"SELECT s.id FROM signals AS s WHERE {where} {newest} LIMIT :count"
        return Statement(found_by(f"s.id IN ({found})"), parameters)
    if selection.seq is None:
        return Statement(found_by(), parameters)
    # Signals that were recorded later are mostly decided later too, so the index is entered at the
    # time of the entry. Earlier ones with a later timestamp are in an index of their own.
    parts = (
        found_by(f"s.timestamp < {_RECORDED_BY}"),
        found_by(f"s.timestamp >= {_RECORDED_BY}", _IS_AHEAD),
    )
    both = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)
    return Statement(f"{both} {_NEWEST_FIRST_OF_BOTH} LIMIT :count", parameters)


def by_signal_id(signal_id: str, seq: int | None) -> Statement:
    """One signal, with its other keys."""
    selection = Selection(SignalFilter(), seq)
    source = selection.source(f"{EXECUTED_AND_CLOSED} {EXTRAS}", "s.signal_id = :signal_id")
    return Statement(
        f"{select(selection, 'x.extra')} {source}", selection.parameters(signal_id=signal_id)
    )


def count_of(selection: Selection) -> Statement:
    """The number of signals."""
    needs_state = selection.seq is not None and selection.filter.outcome is not None
    source = selection.source(with_state=needs_state)
    return Statement(f"SELECT count(*) {source}", selection.parameters())


def signal_row(row: Row) -> list[object]:
    """The values of ROW_COLUMNS in a row of `select`, and what follows them there."""
    columns = len(schema.COLUMNS)
    executed, closed = row[columns + 1], row[columns + 2]
    fact: dict[str, object] = {}
    if executed is not None:
        fact = parse_object(executed)
    closed_at = None if closed is None else parse_object(closed).get("closed_at")
    return [
        *row[: columns + 1],
        stored_time(fact.get("executed_at")),
        stored_time(closed_at),
        _number(fact.get("fill_price")),
        *row[columns + 3 :],
    ]


def row_dict(row: Row, columns: Sequence[str] = ()) -> dict[str, object]:
    """A row of `select` by column name; where `columns` are given, extra follows in it."""
    values = signal_row(row)
    found = dict(zip(ROW_COLUMNS, values, strict=False))
    if columns:
        extra = parse_object(values[-1])
        found |= {name: extra.get(name) for name in columns}
    return found


def dict_with_extra(row: Row) -> dict[str, object]:
    """A row of `by_signal_id` by column name, with the other keys under `extra`."""
    *values, extra = signal_row(row)
    return dict(zip(ROW_COLUMNS, values, strict=True)) | {"extra": parse_object(extra)}


def further_columns(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """The names of further keys that become columns. Raises ProjectionError for invalid ones."""
    if isinstance(names, str):  # a sequence of its characters
        raise ProjectionError(
            f"columns cannot be the text {names[:80]!r}", do=f"give a list of names: {[names[:80]]}"
        )
    for index, name in enumerate(names):
        problem = None
        if not name or _FORBIDDEN_IN_NAMES.search(name):
            problem = "is not a printable name"
        elif name in taken:
            problem = "is a column already"
        elif name in names[:index]:
            problem = "is named twice"
        if problem is not None:
            raise ProjectionError(
                f"the column {name[:80]!r} {problem}", do="name keys that the signals have besides"
            )
    if len(names) > COLUMNS_MAX:
        raise ProjectionError(
            f"{len(names)} further columns are too many", do=f"name at most {COLUMNS_MAX}"
        )
    return tuple(names)


def parse_object(text: object) -> dict[str, object]:
    """The JSON object in a column; empty for None. Raises DamagedDatabase for anything else."""
    if text is None:
        return {}
    try:
        found: object = orjson.loads(text)  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DamagedDatabase("a value in the table is not a JSON object")
    return found


def json_text(value: object) -> str:
    """Text as it is; any other value as JSON, or by `str` where JSON has none: a BLOB."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def stored_time(value: object) -> str | None:
    """A time in stored form; None for anything else, which another program may have logged."""
    read = SIGNAL_RULES["timestamp"].read(value)
    return read if isinstance(read, str) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if isfinite(number) else None
