"""A reader that starts before the first writer of a boot, and is overtaken by it.

The reader finds no lock record, and what it has read may be outdated when it decides.

Invariant: the writer starts before every call of the reader, and dies at every step of its own.
"""

from collections.abc import Iterator
from itertools import count

from eventlog.errors import EventLogError
from tools.crash.actors import Killed
from tools.crash.check import read_all
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.histories import History
from tools.crash.inodes import File, Inodes
from tools.crash.simulated_disk import World
from tools.crash.states import State, files_of, nothing, ordered_contents, random_power_loss

OLD_WORKLOAD = (1, 2)
FIRST_WORKLOAD = (2, 1)  # of the writer that overtakes


def explore_readers(explorer: Explorer) -> None:
    """Explores an empty disk, a log, and a log with a torn tail. Raises Failure."""
    for state, expected in list(_old_logs(explorer)):
        # The writer continues in the last segment, and then starts another one.
        segment_bytes = 1 + _segment_bytes(state)
        settings = explorer.subject.settings._replace(segment_bytes=segment_bytes)
        explorer.subject = explorer.subject._replace(settings=settings)
        for moment in count():
            is_interrupted = False
            for call in count():
                overtaking = _Overtaking(explorer, World(dict(state), boot=2), expected.copy())
                if explorer.is_done or not overtaking.run_at(call, moment):
                    break
                is_interrupted |= overtaking.is_interrupted
            if not is_interrupted:
                break


def _old_logs(explorer: Explorer) -> Iterator[tuple[State, ExpectedLog]]:
    yield nothing(World().inodes), ExpectedLog()
    history = History(explorer, World())
    moments: list[tuple[Inodes, ExpectedLog]] = []

    def step(call: str) -> None:
        if call == "fdatasync":
            moments.append((dict(history.world.inodes), history.expected.copy()))

    history.run(1, OLD_WORKLOAD, step)
    history.expected.collect()
    inodes, expected = moments[-2]  # before the last append was durable; after it is the watermark
    yield nothing(history.world.inodes), history.expected
    state = nothing(inodes)
    for ino, inode in inodes.items():
        if isinstance(inode, File) and inode.pending:
            torn = [data for data in ordered_contents(inode) if not data.endswith(b"\n")][-1]
            state[ino] = File(torn, torn)
    yield state, expected


def _segment_bytes(state: State) -> int:
    files = files_of(state)
    return sum(len(f.device) for path, f in files if isinstance(f, File) and ".jsonl" in path[-6:])


class _Overtaking(History):
    """One reader, and one writer that overtakes it."""

    def __init__(self, explorer: Explorer, world: World, expected: ExpectedLog) -> None:
        super().__init__(explorer, world)
        self.expected = expected
        self.name = "overtaking"
        self.is_interrupted = False  # whether the writer died before its end

    def run_at(self, call: int, moment: int) -> bool:
        """Runs the writer before one call of the reader; returns whether there is such a call."""
        calls = 0

        def step(_: str) -> None:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                self._write(moment)

        disk = self.explorer.subject.disk(self.world, 2, step)
        try:
            for _ in range(2):  # once while the writer runs, once to its end
                _, seq, chain = read_all(disk)
                if seq:
                    self.expected.acknowledge(seq, chain)
        except (EventLogError, Violation) as error:
            why = f"a reader, overtaken by a writer at call {call}, step {moment}: {error}"
            raise Failure(why, self.explorer.states) from error
        inodes, random = self.world.inodes, self.explorer.random
        self.explorer.try_one(nothing(inodes), self.expected)
        self.explorer.try_one(
            random_power_loss(inodes, random, self.explorer.models), self.expected
        )
        return calls > call

    def _write(self, moment: int) -> None:
        left = moment

        def step(_: str) -> None:
            nonlocal left
            left -= self.has_changed()
            if left < 0:
                self.is_interrupted = True
                raise Killed

        try:
            self.run(3, FIRST_WORKLOAD, step)
        except Killed:
            self.expected.collect()
