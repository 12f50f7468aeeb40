"""The states of delivery, and the report that one has changed.

Invariant: the values are those of `eventlog status`, so none is ever renamed.
"""

from enum import StrEnum
from typing import NamedTuple


class DeliveryState(StrEnum):
    """The state of delivery; the values are those of `eventlog status`."""

    DELIVERING = "delivering"
    WAITING = "waiting"
    REFUSED = "refused"
    REJECTING = "rejecting"


class StateChange(NamedTuple):
    """The state of delivery, and the error that led to it."""

    state: DeliveryState
    last_error: str | None
