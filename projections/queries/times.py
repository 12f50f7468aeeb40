"""Times that a caller gives, as text: parsed strictly, and converted to the forms we store. Pure.

Each needs a UTC offset: `as_of`, `since` and `until` follow one rule. A date alone is refused with
its start in UTC as the suggestion, since it begins at another moment in each time zone.

Invariant: equal moments have equal text, and text in one form sorts as the moments do.
"""

import re
from contextlib import suppress
from datetime import UTC, date, datetime

from projections.errors import ProjectionError

CHARS_MAX = 80  # of an invalid time, in an error text

_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?!24)\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([Zz]|[+-]\d\d:[0-5]\d)",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TOO_FINE = re.compile(r"\.\d{7,}", re.ASCII)  # as a Timestamp of pandas with nanoseconds


def parse_moment(name: str, value: object) -> datetime:
    """The moment that `value` names, in UTC.

    It is RFC 3339 text with a UTC offset, to the microsecond, or an aware datetime. Raises
    ProjectionError for anything else, such as a date or a time without an offset.
    """
    text = value.isoformat() if isinstance(value, date) else value  # every datetime is a date
    if not isinstance(text, str):
        text = f"{type(value).__module__}.{type(value).__qualname__} {value!r}"
    example = "2025-11-18T02:00:00Z"
    found = _MOMENT.fullmatch(text)
    if found is not None:
        day, second, fraction, offset = found.groups()
        offset = "+00:00" if offset in ("Z", "z") else offset
        with suppress(ValueError, OverflowError):  # the 30th of February, the year 0
            return datetime.fromisoformat(
                f"{day}T{second}.{fraction or '0':0<6}{offset}"
            ).astimezone(UTC)
    elif _DATE.fullmatch(text):
        example = f"{text}T00:00:00Z"
    do = f"give it like {example}"
    if _TOO_FINE.search(text):
        do += ", with at most six digits of a second"
    shown = text if len(text) <= CHARS_MAX else text[: CHARS_MAX - 3] + "..."
    raise ProjectionError(f"{name} needs a time with a UTC offset, not {shown}", do=do)


def as_timestamp(moment: datetime) -> str:
    """The form of a signal's `timestamp`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def as_recorded_at(moment: datetime) -> str:
    """The form of `recorded_at`."""
    return f"{as_timestamp(moment).removesuffix('+00:00')}Z"


def require_past(moment: str, now: datetime) -> None:
    """Raises ProjectionError for a `recorded_at` that is not past yet."""
    if moment >= as_recorded_at(now):
        raise ProjectionError(
            f"the as-of time {moment} is in the future",
            do="give a time that is past: an answer must never change later",
        )
