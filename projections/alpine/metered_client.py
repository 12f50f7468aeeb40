"""A client of Alpine that counts what it is asked for, and how that ended.

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

# The answers of the wire contract (answers.py), and what was given up before there was one.
ACCEPTED, DUPLICATE, REJECTED, CANCELLED = "accepted", "duplicate", "rejected", "cancelled"
OUTCOMES = (ACCEPTED, DUPLICATE, REJECTED, FAILING, DOWN, REFUSED, CANCELLED)


class MeteredClient:
    """Passes everything on to another client."""

    def __init__(self, alpine: Alpine, requests: RequestCounters) -> None:
        self._alpine = alpine
        self._requests = requests

    async def send(self, body: bytes) -> SendResult:
        """One try at one signal, counted."""
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
        """Whether sync/health answers 200; that is no request about a signal."""
        return await self._alpine.is_healthy()

    async def close(self) -> None:
        """Gives the connections back."""
        await self._alpine.close()


def outcome_label(answer: SendResult) -> str:
    """What an answer is counted as."""
    match answer:
        case Stored():
            return ACCEPTED
        case Duplicate():
            return DUPLICATE
        case Rejected():
            return REJECTED
        case Unavailable(kind=kind):
            return kind
