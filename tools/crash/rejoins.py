"""Power fails, or the process dies, at each step of a rejoin that cuts the log of an old primary.

Invariant: a state passes only if a reader and a writer refuse nothing, each line is in the log or
in a file beside it, and another run leaves exactly the lines up to the fork, durably.
"""

from collections.abc import Iterable
from contextlib import closing

from eventlog.errors import EventLogError
from eventlog.format.line import stored_chain
from eventlog.replica.rejoin import cut_log
from eventlog.replica.replica_log import ReplicaLog
from eventlog.storage.fence_file import FenceState, write_fence
from eventlog.storage.replica_file import ReplicaState
from tools.crash.check import HOME, read_all, recover
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import BOOTS_MAX, Explorer, Failure
from tools.crash.histories import work
from tools.crash.inodes import File, Inodes
from tools.crash.simulated_disk import SimulatedDisk, World
from tools.crash.states import (
    State,
    digest,
    everything,
    files_of,
    nothing,
    power_losses,
    segments_of,
)

BATCHES = (1, 3, 1, 6, 2, 1, 5)  # of the old primary, in three segments or more
STATE = ReplicaState(stream="main", epoch=2, primary="b")


def explore_rejoin(explorer: Explorer) -> None:
    """Cuts within the first segment, and at its end. Raises Failure."""
    world = World()
    work(SimulatedDisk(world), ExpectedLog(), explorer.subject, BATCHES, "old")
    second = int(segments_of(world.inodes)[1][0][-26:-6])
    for fork in (second - 1, second - 2):
        _Rejoin(explorer, world, fork).run()


class _Rejoin:
    """One cut of the log on a copy of a disk."""

    def __init__(self, explorer: Explorer, old: World, fork: int) -> None:
        self.explorer = explorer
        self.world = World(dict(everything(old.inodes)))
        self.fork = fork
        lines = b"".join(data for _, data in segments_of(old.inodes)).splitlines(keepends=True)
        self.kept, self.cut = lines[:fork], b"".join(lines[fork:])
        self.chain = stored_chain(lines[fork - 1])
        self._last_seen = -1
        self._seen: set[tuple[int, int]] = set()
        disk = SimulatedDisk(self.world)
        write_fence(disk, HOME, FenceState(stream="main", seq=fork, primary="b", epoch=2))

    def run(self) -> None:
        """Cuts once, and checks what a crash before each call leaves. Raises Failure."""

        def step(_: str) -> None:
            if self.world.version != self._last_seen:
                self._last_seen = self.world.version
                inodes = self.world.inodes
                self._try_all([everything(inodes)], boot=self.world.boot)  # only killed
                self._try_all(power_losses(inodes, self.explorer.models), boot=BOOTS_MAX + 1)

        try:
            self._cut(self.explorer.subject.disk(self.world, 1, step))
        except (EventLogError, OSError, Violation) as error:
            raise Failure(f"a rejoin: {error}", self.explorer.states) from error
        step("the end")

    def _cut(self, disk: SimulatedDisk) -> None:
        cut_log(HOME.root, self.fork, self.chain, STATE, disk=disk, pid=disk.process)

    def _try_all(self, states: Iterable[State], boot: int) -> None:
        for state in states:
            key = (digest(state), boot)
            if self.explorer.is_done or key in self._seen:
                continue
            self._seen.add(key)
            self.explorer.states += 1
            try:
                self._check(state, boot, recovers=bool(self.explorer.states % 2))
            except Violation as error:
                raise Failure(f"fork {self.fork}: {error}", self.explorer.states, state) from error

    def _check(self, state: State, boot: int, *, recovers: bool) -> None:
        world = World(dict(state), boot=boot)
        subject = self.explorer.subject
        whole = b"".join(self.kept) + self.cut
        try:
            read, _, _ = read_all(subject.disk(world, 2))
            if not whole.startswith(read) or not read.startswith(b"".join(self.kept)):
                raise Violation("a reader returned other lines than those of the log")
            if recovers:
                recover(subject.open(subject.disk(world, 3)))
            if len(read) < len(whole) and not self._is_kept(world.inodes):
                raise Violation("lines were cut that no file holds")
            self._cut(subject.disk(world, 4))
            self._require_cut(world)
            self._require_cut(World(nothing(world.inodes), boot=boot + 1))
        except (EventLogError, OSError) as error:
            raise Violation(f"a legal state is refused: {error!r}") from error

    def _require_cut(self, world: World) -> None:
        """The log ends at the fork, what is behind it is in a file, and the home is a replica."""
        found = b"".join(data for _, data in segments_of(world.inodes))
        if found != b"".join(self.kept):
            raise Violation("the log does not end at the fork")
        if not self._is_kept(world.inodes):
            raise Violation("no file holds the lines that were cut")
        log = ReplicaLog(self.explorer.subject.disk(world, 5), HOME, pid=5)
        with closing(log):
            if log.catch_up().chain != self.chain or log.state != STATE:
                raise Violation("the home is no replica that ends at the fork")

    def _is_kept(self, inodes: Inodes) -> bool:
        path = f"{HOME.log_dir}/forked-{self.fork + 1}.aside"
        return dict(files_of(inodes)).get(path) is not None and any(
            isinstance(inode, File) and inode.cache == self.cut
            for found, inode in files_of(inodes)
            if found.startswith(path)
        )
