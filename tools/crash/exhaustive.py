"""Small histories, tried exhaustively: power fails before each call that a writer makes.

Invariant: the same workload visits the same states in the same order.
"""

from collections.abc import Callable, Iterable, Iterator

from eventlog.errors import EventLogError
from tools.crash.actors import Killed
from tools.crash.expected_log import Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.histories import MARK, REOPEN, History
from tools.crash.inodes import SECTOR_BYTES, File
from tools.crash.simulated_disk import Fault, World
from tools.crash.states import (
    State,
    everything,
    nothing,
    ordered_contents,
    power_losses,
    random_power_loss,
)

WORKLOAD = (1, 3, MARK, 1, 6, 1, REOPEN, 2, 5, MARK, 1, 4, 3)
SHORT_WORKLOAD = (1, 2, MARK, 6, 1, 3)
SECOND_WORKLOAD = (1, 2, MARK, 2)  # tries again what the first one may have written
RANDOM_STATES = 8  # at each step of a second writer, beside the two extremes

Survived = Callable[[File], bytes]


def _half(file: File) -> bytes:
    contents = list(ordered_contents(file))
    return contents[len(contents) // 2]


# What a failed sync may have brought to the device: nothing, a part, everything.
SURVIVALS: tuple[Survived, ...] = (lambda file: file.device, _half, lambda file: file.cache)


def explore(explorer: Explorer, workload: Iterable[int] = WORKLOAD) -> None:
    """One writer; power fails, in every way, before each of its calls. Raises Failure."""
    history = History(explorer, World())

    def step(_: str) -> None:
        history.look(lambda: power_losses(history.world.inodes, explorer.models))

    try:
        history.go(1, workload, step)
    except (EventLogError, OSError, Violation) as error:
        raise Failure(f"a writer: {error}", explorer.states) from error
    step("the end")


def explore_takeovers(explorer: Explorer, workload: Iterable[int] = SHORT_WORKLOAD) -> None:
    """A writer dies, or fails to sync, at each of its steps; at each step of the next, power fails.

    Raises Failure.
    """
    for survived in (*SURVIVALS, None):
        moment = 0
        while not explorer.is_done:
            # Small pages: what was lost of one stays lost when its neighbour is written.
            history = History(explorer, World(page_bytes=SECTOR_BYTES))
            if not _interrupted(history, workload, moment, survived):
                break
            _taken_over(history)
            moment += 1


def _interrupted(
    history: History, workload: Iterable[int], moment: int, survived: Survived | None
) -> bool:
    """The first writer, up to the moment; whether there is such a moment."""
    left = moment

    def step(call: str) -> Fault | None:
        nonlocal left
        if survived is None:
            left -= history.has_changed()
            if left < 0:
                raise Killed
        elif call == "fdatasync":
            left -= 1
            if left == -1:
                return Fault(survived=survived)
        return None

    try:
        history.go(1, workload, step)
    except (Killed, EventLogError, OSError):
        history.expected.collect()
    return left < 0


def _taken_over(history: History) -> None:
    """The second writer; power fails, in a few ways, before each of its calls."""

    def step(_: str) -> None:
        history.look(lambda: _few_power_losses(history))

    try:
        history.go(2, SECOND_WORKLOAD, step)
    except (EventLogError, OSError, Violation) as error:
        raise Failure(f"the second writer: {error}", history.explorer.states) from error
    step("the end")


def _few_power_losses(history: History) -> Iterator[State]:
    inodes, explorer = history.world.inodes, history.explorer
    yield nothing(inodes)
    yield everything(inodes)
    for _ in range(RANDOM_STATES):
        yield random_power_loss(inodes, explorer.random, explorer.models)
