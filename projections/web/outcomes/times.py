"""Times in microseconds since 1970, many at a time. Pure.

Invariant: a time is the one that `datetime.fromisoformat` reads.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from operator import floordiv, sub

from projections.queries.selection import stored_time

US_A_SECOND = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STORED_FORM = "....-..-..T..:..:.........+00:00"  # of a time; its dots are any characters


def microseconds(text: str) -> int:
    """Microseconds from 1970 to a time in a form that we store."""
    return all_microseconds((text,))[0]


def all_microseconds(texts: Iterable[str]) -> list[int]:
    """`microseconds` of each text, without a call for each."""
    since = map(sub, map(datetime.fromisoformat, texts), repeat(_EPOCH))
    return list(map(floordiv, since, repeat(_MICROSECOND)))


def repeated_microseconds(texts: Sequence[str]) -> list[int]:
    """The same, faster where many are equal: those of the entries of one batch."""
    unique = list(dict.fromkeys(texts))
    if 2 * len(unique) > len(texts):
        return all_microseconds(texts)
    known = dict(zip(unique, all_microseconds(unique), strict=True))
    return list(map(known.__getitem__, texts))


def ends_us(closed: Sequence[object], recorded_us: list[int]) -> list[int]:
    """When trades were closed, by their facts; else when these were recorded."""
    texts = [text for text in closed if isinstance(text, str)]
    if not texts:
        return recorded_us
    if len(texts) == len(closed) and _are_stored_times(texts):
        try:
            return all_microseconds(texts)
        except ValueError:  # the 30th of February, which another program may have logged
            pass
    return [
        at if by is None else _closed_us(by, at) for at, by in zip(recorded_us, closed, strict=True)
    ]


def _are_stored_times(texts: Sequence[str]) -> bool:
    """Whether texts that `fromisoformat` reads are all in stored form."""
    length, joined = len(_STORED_FORM), "".join(texts)
    return set(map(len, texts)) == {length} and all(
        char == "." or joined[at::length] == char * len(texts)
        for at, char in enumerate(_STORED_FORM)
    )


def _closed_us(text: object, recorded_us: int) -> int:
    """When a trade was closed, by its fact; else when that was recorded."""
    closed_at = stored_time(text)
    return recorded_us if closed_at is None else microseconds(closed_at)
