"""The rows of `data/alpine.db`, parsed: another program may have written anything into a column.

Invariant: a parsed row has the types that its class names, and times that a calendar has.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from projections.projection import Checkpoint
from projections.sqlite.file import DamagedDatabase

T = TypeVar("T")
Check = Callable[[object], bool]

COUNT_MAX = 2**53  # far from SQLite's limit of integers, so that sums stay below it
TIME_S_MAX = 253_402_300_800.0  # the year 10000, which datetime does not have


class ParkedSignal(NamedTuple):
    """A signal that Alpine refuses or fails to store."""

    seq: int
    signal_id: str
    kind: str  # REFUSED: retried on request only; FAILING: retried for ever, slowly; or DISCARDED
    status: int | None
    body: str  # of the answer, shortened
    attempts: int
    first_at: float  # seconds since 1970
    last_at: float
    next_at: float | None  # the next retry; None: only on request


class OperatorRequest(NamedTuple):
    """A retry, replay or discard that a command asked for."""

    id: int
    what: str
    seq: int


def parked_signal(row: Iterable[object]) -> ParkedSignal:
    """Parses a row of `parked`. Raises DamagedDatabase, as all of these do."""
    return _parsed("parked", row, _PARKED, ParkedSignal._make)


def operator_request(row: Iterable[object]) -> OperatorRequest:
    """Parses a row of `asked`: its id, what and seq."""
    return _parsed("asked", row, _REQUEST, OperatorRequest._make)


def checkpoint_of(name: str, row: Iterable[object] | None) -> Checkpoint:
    """Parses a row of `checkpoint`: its seq and chain."""
    seq, chain = _parsed("checkpoint", row or (), _CHECKPOINT, tuple)
    return Checkpoint(projection=name, seq=seq, chain=chain)


def state_of(rows: Iterable[tuple[object, object]]) -> dict[str, object]:
    """Parses the rows of `state`."""
    found = {str(name): value for name, value in rows}
    for name, check in _STATE.items():
        if not check(found.get(name)):
            raise DamagedDatabase(f"a value in the table state is invalid: {name}")
    return found


def _parsed(
    table: str, row: Iterable[object], checks: tuple[Check, ...], make: Callable[..., T]
) -> T:
    values = tuple(row)
    if len(values) != len(checks) or not all(map(_holds, checks, values)):
        raise DamagedDatabase(f"a row of the table {table} is invalid")
    return make(values)


def _holds(check: Check, value: object) -> bool:
    return check(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < COUNT_MAX


def _is_seq(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_int_or_none(value: object) -> bool:
    return value is None or isinstance(value, int)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < TIME_S_MAX


def _is_time_or_none(value: object) -> bool:
    return value is None or _is_time(value)


_PARKED = (
    *(_is_seq, _is_text, _is_text, _is_int_or_none, _is_text),
    *(_is_count, _is_time, _is_time, _is_time_or_none),
)
_REQUEST = (_is_count, _is_text, _is_seq)
_CHECKPOINT = (_is_seq, _is_text)
_STATE: Mapping[str, Check] = {
    "delivered": _is_count,
    "rejections": _is_count,
    "state": _is_text_or_none,  # None: no process has stored it yet
    "last_error": _is_text_or_none,
}
