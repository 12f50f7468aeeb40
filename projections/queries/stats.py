"""Statistics of the signals that a filter selects, now or as of a seq, also by group.

Invariant: the figures are those of one state of the table, and the groups add up to the whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import sub
from sqlite3 import Connection
from types import MappingProxyType
from typing import Any

from projections.errors import ProjectionError
from projections.queries.selection import Row, Selection, stored_time
from projections.queries.statistics import BAND_WIDTH, BANDS, Sample, band_name, figures
from projections.sqlite.file import DamagedDatabase

ROWS_PER_READ = 10_000  # a few MiB

Stats = dict[str, object]

# The figures of the old tracker, from the partial index on outcome alone: it asks for them often.
TOTALS = """SELECT (SELECT count(*) FROM signals),
    (SELECT count(*) FROM signals WHERE outcome = 'win'),
    (SELECT count(*) FROM signals WHERE outcome = 'loss'),
    (SELECT avg(profit_loss_pct) FROM signals WHERE outcome IS NOT NULL),
    (SELECT recorded_at FROM lifecycle ORDER BY seq DESC LIMIT 1)"""

# The SQL expression of each group's key. Division by ten is exact at the edges of the bands.
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "strategy": "s.strategy",
        "symbol": "s.symbol",
        "action": "s.action",
        "month": "substr(s.timestamp, 1, 7)",  # in UTC
        "confidence": f"min({BANDS - 1}, CAST(s.confidence / {BAND_WIDTH} AS INTEGER))",
    }
)
_NAMES: Mapping[str, Callable[[Any], str]] = {"confidence": band_name}
# No fact follows a `closed` that is not voided, so the last row of a signal with an outcome is its
# `closed`. Most have no time of their own; looking for one in the text is cheaper than parsing it.
END = """l.recorded_at,
    CASE WHEN instr(l.detail, '"closed_at"') THEN json_extract(l.detail, '$.closed_at') END"""


def require_group(by: str | None) -> None:
    """Raises ProjectionError for an unknown group."""
    if by is not None and by not in GROUPS:
        raise ProjectionError(
            f"signals have no groups by {by[:80]!r}", do=f"group by one of {', '.join(GROUPS)}"
        )


def read_stats(database: Connection, selection: Selection) -> Stats:
    """The figures of all selected signals."""
    totals, samples = _read_groups(database, selection, "1")
    found = figures(totals.get(1, 0), samples.get(1, Sample()))
    return found | {"last_updated": last_updated(database, selection)}


def read_stats_by(database: Connection, selection: Selection, by: str) -> list[Stats]:
    """The figures of each group, its key first, in the order of the keys."""
    totals, samples = _read_groups(database, selection, GROUPS[by])
    updated = last_updated(database, selection)
    name = _NAMES.get(by, str)
    return [
        {
            by: name(key),
            **figures(totals[key], samples.get(key, Sample())),
            "last_updated": updated,
        }
        for key in sorted(totals)
    ]


def _read_groups(
    database: Connection, selection: Selection, key: str
) -> tuple[dict[Any, int], dict[Any, Sample]]:
    """The number of signals of each group, and those of them that have an outcome."""
    outcome, pct = selection.value("outcome"), selection.value("profit_loss_pct")
    is_past_outcome = selection.seq is not None and selection.filter.outcome is not None
    every = selection.source(with_state=is_past_outcome)
    totals = dict(
        database.execute(
            f"SELECT {key}, count(*) {every} GROUP BY 1", selection.parameters()
        ).fetchall()
    )
    # The plus sign: a signal of each outcome is somewhere else, and a scan reads them in order.
    ended = selection.source("", f"+{outcome} IS NOT NULL")
    columns = f"{key}, {outcome}, {pct}, s.confidence, s.timestamp, {END}"
    samples: dict[Any, Sample] = {}
    cursor = database.execute(f"SELECT {columns} {ended}", selection.parameters())
    try:
        while rows := cursor.fetchmany(ROWS_PER_READ):
            for group, group_rows in _split(rows):
                _, outcomes, returns, confidences, starts, *ends = zip(*group_rows, strict=True)
                held = _held(starts, *ends)
                samples.setdefault(group, Sample()).extend(outcomes, returns, confidences, held)
    except (TypeError, ValueError) as error:
        raise DamagedDatabase(f"a value does not have its column's type: {error}") from error
    return totals, samples


def _split(rows: Sequence[Row]) -> Iterable[tuple[Any, Sequence[Row]]]:
    """The rows of each group."""
    if all(row[0] == rows[0][0] for row in rows):
        return [(rows[0][0], rows)]
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    return groups.items()


def _held(
    starts: Sequence[Any], recorded: Sequence[Any], closed: Sequence[Any]
) -> Sequence[timedelta]:
    """From each decision to the close: `closed_at`, else the time at which it was recorded."""
    ends = [
        at if by is None else stored_time(by) or at for at, by in zip(recorded, closed, strict=True)
    ]
    decided = map(datetime.fromisoformat, starts)
    return list(map(sub, map(datetime.fromisoformat, ends), decided))


def last_updated(database: Connection, selection: Selection) -> object:
    """When the newest entry that the figures may contain was recorded, of any signal."""
    past = "WHERE seq <= :seq AND known_seq <= :seq" if selection.seq is not None else ""
    row = database.execute(
        f"SELECT recorded_at FROM lifecycle {past} ORDER BY seq DESC LIMIT 1",
        {} if selection.seq is None else {"seq": selection.seq},
    ).fetchone()
    return None if row is None else row[0]


def totals_of(row: Row) -> Stats:
    """The figures in a row of TOTALS."""
    total, wins, losses, average, updated = row
    assert isinstance(wins, int)
    assert isinstance(losses, int)
    decided = wins + losses
    return {
        "total_signals": total,
        "wins": wins,
        "losses": losses,
        "win_rate": round(100 * wins / decided, 2) if decided else 0.0,
        "average_return": round(average, 2) if isinstance(average, float) else 0.0,
        "last_updated": updated,
    }
