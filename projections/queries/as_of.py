"""As-of queries: which prefix of the log a past time selects, by the log's own clock.

`recorded_at` never decreases along the log, so a time selects a prefix of it: the entries recorded
by then. selection.py has the queries as of its last seq.

Invariant: a time that is accepted selects the same prefix for ever.
"""

import os
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import NamedTuple

from eventlog.plumbing import log_status
from projections.errors import ProjectionError
from projections.queries.times import as_recorded_at, parse_moment, require_past
from projections.signals import schema

# The seq of the last fact recorded by :moment, by binary search: `lifecycle` is in the order of the
# log and has no index on times. Each step is one lookup by the primary key.
_MIDDLE = "(low + high + 1) / 2"
_IS_BY_THEN = f"""coalesce((SELECT recorded_at FROM lifecycle WHERE seq <= {_MIDDLE}
    ORDER BY seq DESC LIMIT 1), '') <= :moment"""
AS_OF_BOUNDS = f"""WITH RECURSIVE halved(low, high) AS (
    SELECT 0, (SELECT coalesce(max(seq), 0) FROM lifecycle)
    UNION ALL
    SELECT CASE WHEN {_IS_BY_THEN} THEN {_MIDDLE} ELSE low END,
        CASE WHEN {_IS_BY_THEN} THEN high ELSE {_MIDDLE} - 1 END
    FROM halved WHERE low < high)
    SELECT coalesce((SELECT max(seq) FROM lifecycle
        WHERE seq <= (SELECT low FROM halved WHERE low = high)), 0),
    coalesce((SELECT CAST(recorded_at AS TEXT) FROM lifecycle ORDER BY seq DESC LIMIT 1), ''),
    coalesce((SELECT CAST(seq AS INTEGER) FROM checkpoint WHERE name = '{schema.SQLITE}'), 0)"""


class AsOfBounds(NamedTuple):
    """A row of AS_OF_BOUNDS."""

    seq: int  # of the last fact in the table that was recorded by the given time; 0 for none
    last_recorded_at: str  # of the last fact in the table; empty for none
    checkpoint: int  # seq of the last entry applied to the table


def parse_as_of(value: object) -> str:
    """Converts a time to the form of `recorded_at`, to the microsecond.

    It is RFC 3339 text with a UTC offset, or an aware datetime. Raises ProjectionError for anything
    else, such as a date or a time without an offset.
    """
    return as_recorded_at(parse_moment("as-of", value))


def seq_as_of(database: Connection, home: str | os.PathLike[str], moment: str) -> int:
    """The seq of the last fact recorded by `moment`; 0 where there was none.

    Raises ProjectionError where the result may still change.
    """
    bounds = AsOfBounds._make(database.execute(AS_OF_BOUNDS, {"moment": moment}).fetchone())
    require_settled(home, bounds, moment)
    return bounds.seq


def require_settled(home: str | os.PathLike[str], bounds: AsOfBounds, moment: str) -> None:
    """Raises ProjectionError where the result as of `moment` may still change.

    Reads the log only where the table holds no fact recorded later.
    """
    if bounds.last_recorded_at > moment:
        return
    require_past(moment, datetime.now(UTC))
    last_seq = log_status(os.fspath(home), count=False)["last_seq"]
    assert isinstance(last_seq, int)
    if bounds.checkpoint < last_seq:
        raise ProjectionError(
            f"the table is behind the log and does not cover {moment} yet: it is at entry"
            f" {bounds.checkpoint} of {last_seq}",
            where=os.fspath(home),
            do="run `eventlog project sqlite --once`, or start the daemon",
        )
