"""As-of queries: the content of the table at a past time, by the log's own clock. Pure.

`recorded_at` never decreases along the log, so a time selects a prefix of it: the entries recorded
by then. A row of `lifecycle` holds the values of its signal after that entry, so what was known of
a signal is in its last row up to then. A fact that came before its signal counts from the signal
on, and a signal is in the result only from there on; so for one signal, `seq` is enough.

Invariant: the as-of queries up to a seq return the fold of the entries up to that seq.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from eventlog.plumbing import printable_value
from projections.errors import ProjectionError
from projections.signals import schema

_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?!24)\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([Zz]|[+-]\d\d:[0-5]\d)",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

# The seq of the last fact recorded by ?1, by binary search: `lifecycle` is in the order of the log
# and has no index on times. Each step is one lookup by the primary key.
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
    coalesce((SELECT CAST(recorded_at AS TEXT) FROM lifecycle ORDER BY seq DESC LIMIT 1), ''),
    coalesce((SELECT CAST(seq AS INTEGER) FROM checkpoint WHERE name = '{schema.SQLITE}'), 0)"""

# ?1 is a seq; `f` is the last fact of the signal by then. `event <> 'signal'` lets SQLite use the
# partial index on facts, where the last seq is one lookup.
FROM_AS_OF = """FROM signals AS s LEFT JOIN lifecycle AS f ON f.seq = (
    SELECT max(l.seq) FROM lifecycle AS l
    WHERE l.signal_id = s.signal_id AND l.event <> 'signal' AND l.seq <= ?1)"""
_FACT_COLUMNS = ("order_id", "outcome", "exit_price", "profit_loss_pct")


class AsOfBounds(NamedTuple):
    """A row of AS_OF_BOUNDS."""

    seq: int  # of the last fact in the table that was recorded by the given time; 0 for none
    last_recorded_at: str  # of the last fact in the table; empty for none
    checkpoint: int  # seq of the last entry applied to the table


def _column_as_of(column: str) -> str:
    return f"{'f' if column in _FACT_COLUMNS else 's'}.{column}"


COLUMNS_AS_OF = ", ".join(map(_column_as_of, schema.COLUMNS))
# The queries of store.py, up to the seq ?1. Timestamps need not follow the order of the log, so for
# an old time the first two scan past all newer signals in their index.
LATEST_AS_OF = f"""SELECT {COLUMNS_AS_OF} {FROM_AS_OF} WHERE s.id <= ?1
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?2"""
LATEST_OF_SYMBOL_AS_OF = f"""SELECT {COLUMNS_AS_OF} {FROM_AS_OF} WHERE s.id <= ?1 AND s.symbol = ?3
    ORDER BY s.timestamp DESC, s.id DESC LIMIT ?2"""
BY_SIGNAL_ID_AS_OF = f"""SELECT {COLUMNS_AS_OF}, x.extra {FROM_AS_OF}
    LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id
    WHERE s.id <= ?1 AND s.signal_id = ?2"""
COUNT_AS_OF = "SELECT count(*) FROM signals WHERE id <= ?1"
# A `closed` that was voided by then is followed by the row of its `voided`. The last row known by
# then may have a lower seq than a fact whose signal came later.
STATS_AS_OF = """SELECT (SELECT count(*) FROM signals WHERE id <= ?1),
    count(*) FILTER (WHERE f.outcome = 'win'), count(*) FILTER (WHERE f.outcome = 'loss'),
    avg(f.profit_loss_pct),
    (SELECT recorded_at FROM lifecycle WHERE seq <= ?1 AND known_seq <= ?1
        ORDER BY seq DESC LIMIT 1)
    FROM lifecycle AS f
    WHERE f.event = 'closed' AND f.event <> 'signal' AND f.known_seq <= ?1 AND NOT EXISTS (
        SELECT 1 FROM lifecycle AS l WHERE l.signal_id = f.signal_id AND l.event <> 'signal'
        AND l.seq > f.seq AND l.seq <= ?1)"""


def parse_as_of(value: object) -> str:
    """Converts a time to the form of `recorded_at`, to the microsecond.

    It is RFC 3339 text with a UTC offset, or an aware datetime. Raises ProjectionError for anything
    else, such as a date or a time without an offset.
    """
    text = value.isoformat() if isinstance(value, datetime) else value
    text = text if isinstance(text, str) else printable_value(text)
    example = "2025-11-18T02:00:00Z"
    found = _MOMENT.fullmatch(text)
    if found is not None:
        day, second, fraction, offset = found.groups()
        offset = "+00:00" if offset in ("Z", "z") else offset
        with suppress(ValueError, OverflowError):  # the 30th of February, the year 0
            return _stored_form(
                datetime.fromisoformat(f"{day}T{second}.{fraction or '0':0<6}{offset}")
            )
    elif _DATE.fullmatch(text):
        example = f"{text}T00:00:00Z"
    raise ProjectionError(
        f"as-of needs a time with a UTC offset, not {printable_value(text)}",
        do=f"give it like {example}",
    )


def require_past(moment: str, now: datetime) -> None:
    """Raises ProjectionError for a time that is not past yet."""
    if moment >= _stored_form(now):
        raise ProjectionError(
            f"the as-of time {moment} is in the future",
            do="give a time that is past: an answer must never change later",
        )


def _stored_form(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{text.removesuffix('+00:00')}Z"
