"""A client of Alpine that counts its requests by outcome.

Invariant: each request is counted once, under one of OUTCOMES, when it has ended.
"""

from projections.alpine.client import Alpine
from projections.alpine.contract import (
    DOWN,
    FAILING,
    REFUSED,
    Duplicate,
    Rejected,
    SendResult,
    Stored,
    Unavailable,
)
from projections.projection import RequestCounters

# The answers of the wire contract (contract.py), and requests cancelled before their answer.
ACCEPTED, DUPLICATE, REJECTED, CANCELLED = "accepted", "duplicate", "rejected", "cancelled"
OUTCOMES = (ACCEPTED, DUPLICATE, REJECTED, FAILING, DOWN, REFUSED, CANCELLED)


class MeteredClient:
    """Counts requests, and passes them on to another client."""

    def __init__(self, alpine: Alpine, requests: RequestCounters) -> None:
        self._alpine = alpine
        self._requests = requests

    async def send(self, body: bytes) -> SendResult:
        """Sends one signal once, and counts it."""
        outcome = CANCELLED
        self._requests.in_flight += 1
        try:
            answer = await self._alpine.send(body)
            outcome = outcome_label(answer)
            return answer
        finally:
            self._requests.in_flight -= 1
            self._requests.by_outcome[outcome] += 1

    async def is_healthy(self) -> bool:
        """Whether sync/health answers 200; this request is not counted."""
        return await self._alpine.is_healthy()

    async def close(self) -> None:
        """Gives the connections back."""
        await self._alpine.close()


def outcome_label(answer: SendResult) -> str:
    """The label under which an answer is counted."""
    match answer:
        case Stored():
            return ACCEPTED
        case Duplicate():
            return DUPLICATE
        case Rejected():
            return REJECTED
        case Unavailable(kind=kind):
            return kind
