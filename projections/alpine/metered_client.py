"""A client of Alpine that counts what it is asked for, and how that ended.

Invariant: each request is counted once, under one of OUTCOMES, when it has ended.
"""

from projections.alpine.client import Alpine
from projections.alpine.contract import (
    DOWN,
    FAILING,
    REFUSED,
    Accepted,
    Answer,
    Duplicate,
    Rejected,
    Unavailable,
)
from projections.projection import Requests

# The answers of the wire contract (answers.py), and what was given up before there was one.
ACCEPTED, DUPLICATE, REJECTED, CANCELLED = "accepted", "duplicate", "rejected", "cancelled"
OUTCOMES = (ACCEPTED, DUPLICATE, REJECTED, FAILING, DOWN, REFUSED, CANCELLED)


class Counted:
    """Passes everything on to another client."""

    def __init__(self, alpine: Alpine, requests: Requests) -> None:
        self._alpine = alpine
        self._requests = requests

    async def send(self, body: bytes) -> Answer:
        """One try at one signal, counted."""
        outcome = CANCELLED
        self._requests.in_flight += 1
        try:
            answer = await self._alpine.send(body)
            outcome = outcome_of(answer)
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


def outcome_of(answer: Answer) -> str:
    """What an answer is counted as."""
    match answer:
        case Accepted():
            return ACCEPTED
        case Duplicate():
            return DUPLICATE
        case Rejected():
            return REJECTED
        case Unavailable(kind=kind):
            return kind
