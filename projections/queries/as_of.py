"""As of then: what the table would have said at a moment, by the log's own clock. Pure.

`recorded_at` never decreases along the log, so a moment is a place in it: the last entry that was
recorded by then. `outcome`, `exit_price` and `profit_loss_pct` come from one `closed`, `order_id`
comes from one `executed`, and no fact applies twice. So a column holds today what it held from that
fact on, and it held nothing before.

Invariant: what SELECT_THEN gives up to a seq is the fold of the entries up to that seq.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from projections.errors import ProjectionError
from projections.signals import schema

MOMENT_CHARS_MAX = 80  # of what is no moment, in a message

_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?!24)\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([Zz]|[+-]\d\d:[0-5]\d)",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

# The seq of the last fact that was recorded by ?1, by halving: `lifecycle` is in the order of the
# log, and has no index on times. Each step is one look by the primary key.
_MIDDLE = "(low + high + 1) / 2"
_IS_BY_THEN = f"""coalesce((SELECT recorded_at FROM lifecycle WHERE seq <= {_MIDDLE}
    ORDER BY seq DESC LIMIT 1), '') <= ?1"""
AS_OF_BOUNDS = f"""WITH RECURSIVE halved(low, high) AS (
    SELECT 0, (SELECT coalesce(max(seq), 0) FROM lifecycle)
    UNION ALL
    SELECT CASE WHEN {_IS_BY_THEN} THEN {_MIDDLE} ELSE low END,
        CASE WHEN {_IS_BY_THEN} THEN high ELSE {_MIDDLE} - 1 END
    FROM halved WHERE low < high)
    SELECT (SELECT low FROM halved WHERE low = high),
    coalesce((SELECT recorded_at FROM lifecycle ORDER BY seq DESC LIMIT 1), ''),
    coalesce((SELECT seq FROM checkpoint WHERE name = '{schema.SQLITE}'), 0)"""

# ?1 is a seq. `event <> 'signal'` is what lets SQLite use the index on facts.
FROM_AS_OF = """FROM signals AS s
    LEFT JOIN lifecycle AS o ON o.signal_id = s.signal_id AND o.event = 'executed'
        AND o.event <> 'signal' AND o.seq <= ?1
    LEFT JOIN lifecycle AS c ON c.signal_id = s.signal_id AND c.event = 'closed'
        AND c.event <> 'signal' AND c.seq <= ?1"""
_OUTCOME_COLUMNS = ("outcome", "exit_price", "profit_loss_pct")


class AsOfBounds(NamedTuple):
    """A row of REACH."""

    seq: int  # of the last fact in the table that was recorded by the moment; 0 where none was
    last_recorded_at: str  # of the last fact in the table; empty where there is none
    checkpoint: int  # seq of the last entry that the table has taken


def _column_as_of(column: str) -> str:
    if column == "order_id":
        return "CASE WHEN o.seq IS NOT NULL THEN s.order_id END"
    if column in _OUTCOME_COLUMNS:
        return f"CASE WHEN c.seq IS NOT NULL THEN s.{column} END"
    return f"s.{column}"


COLUMNS_AS_OF = ", ".join(map(_column_as_of, schema.COLUMNS))
# The queries of queries.py, up to the seq ?1. Who was decided last may have been recorded late, so
# for an old moment the first two pass over all newer signals, in their index.
LATEST_AS_OF = f"""SELECT {COLUMNS_AS_OF} {FROM_AS_OF} WHERE s.id <= ?1
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?2"""
LATEST_OF_SYMBOL_AS_OF = f"""SELECT {COLUMNS_AS_OF} {FROM_AS_OF} WHERE s.id <= ?1 AND s.symbol = ?3
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?2"""
BY_SIGNAL_ID_AS_OF = f"""SELECT {COLUMNS_AS_OF}, x.extra {FROM_AS_OF}
    LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id
    WHERE s.id <= ?1 AND s.signal_id = ?2"""
COUNT_AS_OF = "SELECT count(*) FROM signals WHERE id <= ?1"
STATS_AS_OF = """SELECT (SELECT count(*) FROM signals WHERE id <= ?1),
    count(*) FILTER (WHERE s.outcome = 'win'), count(*) FILTER (WHERE s.outcome = 'loss'),
    avg(s.profit_loss_pct),
    (SELECT recorded_at FROM lifecycle WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1)
    FROM lifecycle AS c JOIN signals AS s ON s.signal_id = c.signal_id
    WHERE c.event = 'closed' AND c.event <> 'signal' AND c.seq <= ?1"""


def parse_as_of(value: str | datetime) -> str:
    """A moment in the form of `recorded_at`, to the microsecond.

    Text is RFC 3339 with an offset. Raises ProjectionError for anything else: a date, or a time
    without an offset, names no moment.
    """
    text = value.isoformat() if isinstance(value, datetime) else value
    do = "give it like 2025-11-18T02:00:00Z or 2025-11-18T02:00:00.123456+01:00"
    found = _MOMENT.fullmatch(text)
    if found is not None:
        day, second, fraction, offset = found.groups()
        offset = "+00:00" if offset in ("Z", "z") else offset
        with suppress(ValueError, OverflowError):  # the 30th of February, the year 0
            return _stored_form(
                datetime.fromisoformat(f"{day}T{second}.{fraction or '0':0<6}{offset}")
            )
    elif _DATE.fullmatch(text):
        do = f"say which moment of that day: {text}T00:00:00Z is its beginning in UTC"
    shown = text if len(text) <= MOMENT_CHARS_MAX else text[: MOMENT_CHARS_MAX - 3] + "..."
    raise ProjectionError(f"{shown} is no moment with an offset from UTC", do=do)


def require_past(moment: str, now: datetime) -> None:
    """Raises ProjectionError for a moment that has not come yet."""
    if moment >= _stored_form(now):
        raise ProjectionError(
            f"{moment} has not come yet",
            do="what will be known then is not known now: name a moment that is past",
        )


def _stored_form(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{text.removesuffix('+00:00')}Z"
