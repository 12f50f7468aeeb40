"""Times: RFC 3339 text, aware datetimes and times of numpy, and the form in which they are stored.

Stored form is UTC text with six digits of a second, YYYY-MM-DDTHH:MM:SS.ffffff+00:00.

Invariant: the stored form is exactly the time that was given; a time that has none is refused.
"""

import re
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from eventlog.errors import InvalidSignal
from eventlog.schema.json_values import missing_value_hint

# The same rules as a pattern of JSON Schema, which cannot know the lengths of months.
_DAY = r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_OF_DAY = r"([01][0-9]|2[0-3]):[0-5][0-9]"
TIMESTAMP_PATTERN = rf"^{_DAY}[Tt ]{_OF_DAY}:[0-5][0-9](\.[0-9]{{1,6}})?([Zz]|[+-]{_OF_DAY})$(?!\n)"
STORED_TIMESTAMP_PATTERN = rf"^{_DAY}T{_OF_DAY}:[0-5][0-9]\.[0-9]{{6}}\+00:00$(?!\n)"
STORED_TIMESTAMP_WORDS = "`YYYY-MM-DDTHH:MM:SS.ffffff+00:00`"

_FINER_UNITS = ("ns", "ps", "fs", "as")  # of numpy

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)
_STORED_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}\+00:00", re.ASCII
)


def timestamp(field: str, value: object) -> str:
    """RFC 3339 text or an aware datetime, as UTC text with six digits of a second."""
    if isinstance(value, datetime):
        time = _check_aware(field, value)
    elif isinstance(value, str):
        time = _parse_timestamp(field, value)
    else:
        time = _from_numpy(field, value)
    try:
        return time.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise _outside_years(field, value) from None


def is_stored_timestamp(value: str) -> bool:
    """Whether `value` is a time in stored form, YYYY-MM-DDTHH:MM:SS.ffffff+00:00."""
    if _STORED_TIMESTAMP.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 30th of February
        return False
    return True


def _check_aware(field: str, value: datetime) -> datetime:
    try:
        offset = value.utcoffset()
    except ValueError:  # pandas' NaT is a datetime without a time
        raise _no_time(field, value) from None
    if value != value:  # NaT of a pandas that has an offset for it
        raise _no_time(field, value)
    if offset is None:
        raise InvalidSignal(
            "has no time zone", field=field, value=value, do="use an aware datetime"
        )
    if getattr(value, "nanosecond", 0):  # pandas' Timestamp is a finer datetime
        raise _too_precise(field, value, do='cut it with timestamp.floor("us")')
    return value


def _from_numpy(field: str, value: object) -> datetime:
    """A datetime64 of numpy, which is UTC by definition. Raises InvalidSignal for other types."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, getattr(numpy, "datetime64", ())):
        raise InvalidSignal(
            "must be RFC 3339 text or an aware datetime",
            field=field,
            value=value,
            do=missing_value_hint(value),
        )
    time: Any = value
    if numpy.isnat(time):
        raise _no_time(field, value)
    micros = time.astype("datetime64[us]")
    if micros.astype(time.dtype) != time:
        if numpy.datetime_data(time.dtype)[0] in _FINER_UNITS:
            raise _too_precise(field, value, do='cut it with time.astype("datetime64[us]")')
        raise _outside_years(field, value)  # so far away that microseconds overflow
    found = micros.item()
    if not isinstance(found, datetime):
        raise _outside_years(field, value)
    return found.replace(tzinfo=UTC)


def _parse_timestamp(field: str, value: str) -> datetime:
    found = _RFC3339.fullmatch(value)
    if found is None:
        raise InvalidSignal(
            "is not an RFC 3339 time such as 2025-11-18T02:00:00Z", field=field, value=value
        )
    fraction, sign = found[7] or "", found[8]
    offset = timedelta()
    if sign is not None:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            raise InvalidSignal("has an offset beyond 23:59", field=field, value=value)
        offset = timedelta(hours=hours, minutes=minutes) * (1 if sign == "+" else -1)
    elif value[-1] not in "Zz":
        raise InvalidSignal(
            "has no offset", field=field, value=value, do="add Z for UTC, or one such as -05:00"
        )
    if len(fraction) > 6:
        raise _too_precise(field, value)
    if found[6] == "60":
        raise InvalidSignal("is a leap second, which has no stored form", field=field, value=value)
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    micro = int(fraction.ljust(6, "0"))
    try:
        return datetime(year, month, day, hour, minute, second, micro, tzinfo=timezone(offset))
    except ValueError as error:
        raise InvalidSignal(f"does not exist: {error}", field=field, value=value) from None


def _outside_years(field: str, value: object) -> InvalidSignal:
    return InvalidSignal("is outside the years 1 to 9999 once in UTC", field=field, value=value)


def _no_time(field: str, value: object) -> InvalidSignal:
    return InvalidSignal("is not a time", field=field, value=value, do=missing_value_hint(value))


def _too_precise(field: str, value: object, *, do: str = "") -> InvalidSignal:
    return InvalidSignal("has more than six digits of a second", field=field, value=value, do=do)
