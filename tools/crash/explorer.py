"""Checks each state once: its recovery, which is at times interrupted by a further power loss.

Invariant: the same states in the same order with the same seed are checked in the same way.
"""

from collections.abc import Iterable, Sequence
from random import Random

from tools.crash.check import Subject, check
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.inodes import Inodes
from tools.crash.states import BOTH, State, digest, random_power_loss

BOOTS_MAX = 1000  # of the histories; checked copies of a disk have boot numbers above it
NESTED_SHARE = 0.05  # of the states: power fails again at each step of their recovery
NESTED_STATES = 2  # checked at each of those steps
DEPTH_MAX = 3  # of recoveries within recoveries; deeper ones add little


class Failure(Exception):
    """The log did not survive a state: the reason, the number of states so far, and the state."""

    def __init__(self, why: str, states: int, state: State | None = None) -> None:
        super().__init__(why)
        self.states = states
        self.state = state if state is not None else {}


class Explorer:
    """Checks states and counts them."""

    def __init__(
        self,
        subject: Subject,
        seed: str = "",
        *,
        states_max: int | None = None,
        models: Sequence[str] = BOTH,
    ) -> None:
        self.subject = subject
        self.models = models
        self.states = 0  # checked
        self.random = Random(seed)
        self._states_max = states_max
        self._seen: set[tuple[int, int, str]] = set()

    @property
    def is_done(self) -> bool:
        """Whether the wanted number of states was checked."""
        return self._states_max is not None and self.states >= self._states_max

    def begin(self, seed: str) -> None:
        """Begins another history; states with the same bytes are checked again there."""
        self.random = Random(seed)
        self._seen.clear()

    def try_all(self, states: Iterable[State], expected: ExpectedLog) -> None:
        """Checks states of a disk against `expected`. Raises Failure."""
        for state in states:
            if self.is_done:
                return
            self.try_one(state, expected)

    def try_one(self, state: State, expected: ExpectedLog, depth: int = 0) -> None:
        """Checks one state, unless it was checked before. Raises Failure."""
        last_seq = max(expected.acknowledged, default=0)
        key = (digest(state), len(expected.acknowledged), expected.acknowledged.get(last_seq, ""))
        if key in self._seen:
            return
        self._seen.add(key)
        self.states += 1
        nests = depth < DEPTH_MAX and self.random.random() < NESTED_SHARE
        moments: list[tuple[Inodes, ExpectedLog]] = []

        def observer(inodes: Inodes, acknowledged: ExpectedLog) -> None:
            moments.append((inodes, acknowledged.copy()))

        boot = BOOTS_MAX + 2 * depth  # and one more after the power loss of the check
        try:
            check(state, expected.copy(), self.subject, boot, observer if nests else None)
        except Violation as error:
            raise Failure(
                f"{error}; recoveries interrupted: {depth}", self.states, state
            ) from error
        for inodes, acknowledged in moments:
            for _ in range(NESTED_STATES):
                if not self.is_done:
                    self.try_one(
                        random_power_loss(inodes, self.random, self.models), acknowledged, depth + 1
                    )
