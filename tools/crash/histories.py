"""What the processes of a history do, and what a history remembers.

Invariant: a look is taken only where bytes, names or promises have changed.
"""

from collections.abc import Callable, Iterable

from eventlog.append.writer import Writer
from eventlog.errors import EventLogError
from tools.crash.check import Subject, read_all
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import State

# A workload says how many entries each append brings, or else:
MARK = 0  # write the watermark
REOPEN = -1  # close, and open anew


def work(
    disk: SimulatedDisk, expected: ExpectedLog, subject: Subject, workload: Iterable[int], name: str
) -> None:
    """Does the workload, and closes, as one process without faults would. Raises EventLogError."""
    writer: Writer = subject.open(disk)
    group = expected.submit([])
    for number, action in enumerate((*workload, REOPEN)):
        if action > 0:
            group = expected.submit([f"{name}-{number}-{n}" for n in range(action)])
            writer.commit([group].copy)
            if group.error is not None:
                raise group.error
            continue
        if action == MARK:
            writer.flush_watermark()
        else:
            writer.close()
        expected.flush_watermark(group, writer)
        if action == REOPEN:
            writer = subject.open(disk)


class History:
    """One disk, what was promised on it, and whether there is news since the last look."""

    def __init__(self, explorer: Explorer, world: World) -> None:
        self.explorer = explorer
        self.world = world
        self.expected = ExpectedLog()
        self.name = "first"  # two processes with one name submit the same signals
        self._last_seen = (-1, -1)

    def has_changed(self) -> bool:
        """Whether bytes, names or promises have changed."""
        self.expected.collect()
        now = (self.world.version, self.expected.additions)
        before, self._last_seen = self._last_seen, now
        return now != before

    def go(
        self, process: int, workload: Iterable[int], step: Callable[[str], Fault | None]
    ) -> None:
        """One process does the workload; `step` is called before each of its calls."""
        disk = self.explorer.subject.disk(self.world, process, step)
        try:
            work(disk, self.expected, self.explorer.subject, workload, self.name)
        finally:
            self.world.reap(process)

    def look(self, states: Callable[[], Iterable[State]]) -> None:
        """If there is news, power fails here, and a reader looks too. Raises Failure."""
        if not self.has_changed():
            return
        try:
            self._acknowledge_what_a_reader_sees()
        except (Violation, EventLogError, OSError) as error:
            raise Failure(f"a reader: {error}", self.explorer.states) from error
        self.explorer.try_all(states(), self.expected)

    def _acknowledge_what_a_reader_sees(self) -> None:
        """What a reader gives out now must be there after any later power loss."""
        twin = World(dict(self.world.inodes), boot=self.world.boot)
        _, seq, chain = read_all(self.explorer.subject.disk(twin, 9))
        if seq and twin.inodes == self.world.inodes:  # else it synced, and this world did not
            self.expected.acknowledge(seq, chain)
