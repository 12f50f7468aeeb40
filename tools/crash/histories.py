"""Histories: processes that append to one disk, and the entries that were acknowledged on it.

Invariant: states are checked only where bytes, names or acknowledged entries have changed.
"""

from collections.abc import Callable, Iterable

from eventlog.append.writer import Writer
from eventlog.errors import EventLogError
from tools.crash.check import Subject, read_all
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import State

# A workload lists the number of entries of each append, or one of these actions:
FLUSH = 0  # write the watermark
REOPEN = -1  # close the writer and open it again


def work(
    disk: SimulatedDisk, expected: ExpectedLog, subject: Subject, workload: Iterable[int], name: str
) -> None:
    """Runs the workload as one process without faults, and closes. Raises EventLogError."""
    writer: Writer = subject.open(disk)
    request = expected.submit([])
    for number, action in enumerate((*workload, REOPEN)):
        if action > 0:
            request = expected.submit([f"{name}-{number}-{n}" for n in range(action)])
            writer.commit([request].copy)
            if request.error is not None:
                raise request.error
            continue
        if action == FLUSH:
            writer.flush_watermark()
        else:
            writer.close()
        expected.flush_watermark(request, writer)
        if action == REOPEN:
            writer = subject.open(disk)


class History:
    """One disk, the entries acknowledged on it, and whether it changed since the last check."""

    def __init__(self, explorer: Explorer, world: World) -> None:
        self.explorer = explorer
        self.world = world
        self.expected = ExpectedLog()
        self.name = "first"  # processes of the same name submit the same signals
        self._last_seen = (-1, -1)

    def has_changed(self) -> bool:
        """Whether bytes, names or acknowledged entries have changed since the last call."""
        self.expected.collect()
        now = (self.world.version, self.expected.additions)
        before, self._last_seen = self._last_seen, now
        return now != before

    def run(
        self, process: int, workload: Iterable[int], step: Callable[[str], Fault | None]
    ) -> None:
        """Runs the workload in one process; `step` is called before each of its calls."""
        disk = self.explorer.subject.disk(self.world, process, step)
        try:
            work(disk, self.expected, self.explorer.subject, workload, self.name)
        finally:
            self.world.reap(process)

    def check_states(self, states: Callable[[], Iterable[State]]) -> None:
        """If the disk has changed, checks these states, and reads the log. Raises Failure."""
        if not self.has_changed():
            return
        try:
            self._acknowledge_what_a_reader_returns()
        except (Violation, EventLogError, OSError) as error:
            raise Failure(f"a reader: {error}", self.explorer.states) from error
        self.explorer.try_all(states(), self.expected)

    def _acknowledge_what_a_reader_returns(self) -> None:
        """Entries that a reader returns now must be in the log after any later power loss."""
        twin = World(dict(self.world.inodes), boot=self.world.boot, device=self.world.device)
        _, seq, chain = read_all(self.explorer.subject.disk(twin, 9))
        if seq and twin.inodes == self.world.inodes:  # otherwise the reader synced its copy only
            self.expected.acknowledge(seq, chain)
