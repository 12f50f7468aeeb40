"""Small histories, checked exhaustively: power fails before each call that a writer makes.

Invariant: the same workload visits the same states in the same order.
"""

from collections.abc import Callable, Iterable, Iterator

from eventlog.errors import EventLogError
from tools.crash.actors import Killed
from tools.crash.expected_log import Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.histories import FLUSH, REOPEN, History
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

WORKLOAD = (1, 3, FLUSH, 1, 6, 1, REOPEN, 2, 5, FLUSH, 1, 4, 3)
SHORT_WORKLOAD = (1, 2, FLUSH, 6, 1, 3)
SECOND_WORKLOAD = (1, 2, FLUSH, 2)  # retries what the first one may have written
RANDOM_STATES = 8  # at each step of a second writer, besides nothing and everything

Survived = Callable[[File], bytes]


def _half(file: File) -> bytes:
    contents = list(ordered_contents(file))
    return contents[len(contents) // 2]


# How much of the data a failed sync may have written to the device: nothing, a part, all of it.
SURVIVALS: tuple[Survived, ...] = (lambda file: file.device, _half, lambda file: file.cache)


def explore(explorer: Explorer, workload: Iterable[int] = WORKLOAD, *, boot: int = 1) -> None:
    """Runs one writer; before each of its calls power fails in every way. Raises Failure."""
    history = History(explorer, World(boot=boot))

    def step(_: str) -> None:
        history.check_states(lambda: power_losses(history.world.inodes, explorer.models))

    try:
        history.run(1, workload, step)
    except (EventLogError, OSError, Violation) as error:
        raise Failure(f"a writer: {error}", explorer.states) from error
    step("the end")


def explore_takeovers(
    explorer: Explorer, workload: Iterable[int] = SHORT_WORKLOAD, *, boot: int = 1
) -> None:
    """Interrupts a writer at each of its steps; power fails at each step of the next writer.

    The first writer dies, or one of its syncs fails. Raises Failure.
    """
    for survived in (*SURVIVALS, None):
        moment = 0
        while not explorer.is_done:
            # Small pages: writing one page does not write a lost one again.
            history = History(explorer, World(boot=boot, page_bytes=SECTOR_BYTES))
            if not _interrupt_first_writer(history, workload, moment, survived):
                break
            _run_second_writer(history)
            moment += 1


def _interrupt_first_writer(
    history: History, workload: Iterable[int], moment: int, survived: Survived | None
) -> bool:
    """Runs the first writer up to the moment; returns whether it got that far."""
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
        history.run(1, workload, step)
    except (Killed, EventLogError, OSError):
        history.expected.collect()
    return left < 0


def _run_second_writer(history: History) -> None:
    """Runs the second writer; power fails, in a few ways, before each of its calls."""

    def step(_: str) -> None:
        history.check_states(lambda: _few_power_losses(history))

    try:
        history.run(2, SECOND_WORKLOAD, step)
    except (EventLogError, OSError, Violation) as error:
        raise Failure(f"the second writer: {error}", history.explorer.states) from error
    step("the end")


def _few_power_losses(history: History) -> Iterator[State]:
    inodes, explorer = history.world.inodes, history.explorer
    yield nothing(inodes)
    yield everything(inodes)
    for _ in range(RANDOM_STATES):
        yield random_power_loss(inodes, explorer.random, explorer.models)
