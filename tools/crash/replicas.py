"""Power fails, or the process dies, at each step of a replica that is written from a stream.

Invariant: a state passes only if the replica keeps every line that was durable, refuses nothing,
and becomes the log of its primary, byte for byte, when it follows again. A replica that was damaged
besides refuses the damage below its watermark, and cuts only what lies beyond.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from eventlog.errors import EventLogError, LogCorrupt
from eventlog.format.line import stored_chain
from eventlog.format.scan import TIP_START
from eventlog.replica.engine import StreamLine
from eventlog.replica.replica_log import ReplicaLog
from eventlog.storage.replica_file import ReplicaState
from tools.crash.actors import Killed
from tools.crash.check import HOME, Subject, read_all
from tools.crash.expected_log import ExpectedLog, Violation, read_segments
from tools.crash.explorer import BOOTS_MAX, Explorer, Failure
from tools.crash.histories import FLUSH, work
from tools.crash.simulated_disk import SimulatedDisk, Step, World
from tools.crash.states import State, digest, everything, nothing, power_losses, segments_of
from tools.crash.states import random_power_loss as random_loss

BATCHES = (1, 3, 1, 6, 2, 1, 5)  # of the primary: some span several sectors, in three segments
# How many lines arrive together: less than a batch, and several batches. FLUSH: the watermark.
PORTIONS = (2, 4, FLUSH, 6, 1, 6)
SHORT_PORTIONS = (1, 4)
DAMAGED_PORTIONS = (14, FLUSH, 5)
STATE = ReplicaState(stream="main")
RANDOM_STATES = 2  # at each step of a second follower, besides nothing and everything


class _Primary(NamedTuple):
    """What the stream holds."""

    lines: tuple[StreamLine, ...]
    segments: tuple[tuple[str, bytes], ...]


def _primary(subject: Subject, batches: Iterable[int]) -> _Primary:
    world = World()
    work(SimulatedDisk(world), ExpectedLog(), subject, batches, "primary")
    segments = segments_of(world.inodes)
    lines: list[StreamLine] = []
    for path, data in segments:
        for line in data.splitlines(keepends=True):
            lines.append(StreamLine(len(lines) + 1, int(path[-26:-6]), line))
    return _Primary(tuple(lines), segments)


def explore_replica(explorer: Explorer, portions: Sequence[int] = PORTIONS) -> None:
    """Follows once, and loses power before each call, in every way. Raises Failure."""
    history = _History(explorer, _primary(explorer.subject, BATCHES), World())

    def step(_: str) -> None:
        if history.has_changed():
            history.check(power_losses(history.world.inodes, explorer.models))

    history.follow(1, portions, step)
    step("the end")


def explore_killed_replica(explorer: Explorer, portions: Sequence[int] = SHORT_PORTIONS) -> None:
    """Kills a follower at each change; power fails under the next one. Raises Failure."""
    primary = _primary(explorer.subject, BATCHES)
    moment = 0
    while True:
        history = _History(explorer, primary, World())
        left = moment

        def kill(_: str, history: "_History" = history) -> None:
            nonlocal left
            left -= history.has_changed()
            if left < 0:
                raise Killed

        try:
            history.follow(1, portions, kill)
            return  # the moment lies behind its end
        except Killed:
            pass

        def step(_: str, history: "_History" = history) -> None:
            if history.has_changed():
                history.check(history.few_losses())

        history.follow(2, (5,), step)
        moment += 1


def explore_damaged_replica(explorer: Explorer) -> None:
    """Damages each line of a replica that was switched off, one at a time. Raises Failure."""
    history = _History(explorer, _primary(explorer.subject, BATCHES), World())
    try:
        history.follow(1, DAMAGED_PORTIONS, lambda _: None, closes=False)
        state = nothing(history.world.inodes)
        seq = 0
        for path, data in segments_of(history.world.inodes):
            for number, line in enumerate(lines := data.splitlines(keepends=True)):
                seq += 1
                byte_offset = sum(map(len, lines[:number])) + len(line) // 2
                world = World(dict(state), boot=BOOTS_MAX + 1)
                disk = explorer.subject.disk(world, 2)
                fd = disk.open(path, writable=True)
                disk.pwrite(fd, b"\0", byte_offset)
                disk.fdatasync(fd)
                disk.close(fd)
                explorer.states += 1
                history.check_damage(world, seq)
    except Violation as error:
        raise Failure(str(error), explorer.states) from error


class _History:
    """A replica on one disk, and what was durable when its follower wrote last."""

    def __init__(self, explorer: Explorer, primary: _Primary, world: World) -> None:
        self.explorer = explorer
        self.primary = primary
        self.world = world
        self.durable_seq = 0
        self.watermark_seq = 0  # that a FLUSH has written
        self._last_seen = (-1, -1)
        self._seen: set[tuple[int, int]] = set()

    def has_changed(self) -> bool:
        """Whether the disk, or what is durable, has changed since the last call."""
        now = (self.world.version, self.durable_seq)
        before, self._last_seen = self._last_seen, now
        return now != before

    def follow(
        self, process: int, portions: Iterable[int], step: Step, *, closes: bool = True
    ) -> None:
        """Writes the stream in portions, as one process. Raises Failure.

        With `closes` it ends by itself, and writes the watermark.
        """
        disk = self.explorer.subject.disk(self.world, process, step)
        log = ReplicaLog(disk, HOME, pid=process)
        try:
            log.catch_up()
            if log.state is None:
                log.begin(STATE, TIP_START)
            start = log.tip.seq
            for count in portions:
                if count == FLUSH:
                    log.flush_watermark()
                    self.watermark_seq = self.durable_seq
                    continue
                self.durable_seq = log.write(self.primary.lines[start : start + count]).seq
                start += count
            if closes:
                log.close()
        except (EventLogError, OSError, Violation) as error:
            raise Failure(f"a follower: {error}", self.explorer.states) from error
        finally:
            self.world.reap(process)

    def few_losses(self) -> Iterator[State]:
        """A few states that a power loss may leave now."""
        yield nothing(self.world.inodes)
        yield everything(self.world.inodes)
        for _ in range(RANDOM_STATES):
            yield random_loss(self.world.inodes, self.explorer.random, self.explorer.models)

    def check(self, states: Iterable[State]) -> None:
        """Checks each state that was not checked before. Raises Failure."""
        for state in states:
            if self.explorer.is_done:
                return
            key = (digest(state), self.durable_seq)
            if key in self._seen:
                continue
            self._seen.add(key)
            self.explorer.states += 1
            try:
                self._check(state)
            except Violation as error:
                raise Failure(str(error), self.explorer.states, state) from error

    def _check(self, state: State) -> None:
        world = World(dict(state), boot=BOOTS_MAX + 1)
        subject = self.explorer.subject
        try:
            read, _, _ = read_all(subject.disk(world, 2))
            log = ReplicaLog(subject.disk(world, 3), HOME, pid=3)
            found = log.catch_up()
            self._require_prefix(world, found.seq, read)
            if log.state is None:
                if found.seq:
                    raise Violation("a home with lines is no replica any more")
                log.begin(STATE, TIP_START)
            log.write(self.primary.lines)
            if segments_of(world.inodes) != self.primary.segments:
                raise Violation("the replica differs from its primary")
            later = World(nothing(world.inodes), boot=BOOTS_MAX + 2)
            again = ReplicaLog(subject.disk(later, 4), HOME, pid=4)
            if again.catch_up().seq != len(self.primary.lines) or again.state != STATE:
                raise Violation("lines that were durable are lost")
        except (EventLogError, OSError) as error:
            raise Violation(f"a legal state is refused: {error!r}") from error

    def check_damage(self, world: World, seq: int) -> None:
        """Line `seq` is damaged: below the watermark a reader refuses it; else it is cut.

        Raises Violation.
        """
        subject = self.explorer.subject
        try:
            read_all(subject.disk(world, 3))
            if seq <= self.watermark_seq:
                raise Violation(f"line {seq} is damaged below the watermark, and is not refused")
            log = ReplicaLog(subject.disk(world, 4), HOME, pid=4)
            found = log.catch_up()
            if found.seq != seq - 1:
                raise Violation(f"line {seq} is damaged, and the log ends at {found.seq}")
            log.write(self.primary.lines)
        except LogCorrupt as error:
            if seq > self.watermark_seq:
                raise Violation(f"damage beyond the watermark is refused: {error}") from error
            return
        if segments_of(world.inodes) != self.primary.segments:
            raise Violation("the replica differs from its primary")

    def _require_prefix(self, world: World, seq: int, read: bytes) -> None:
        """The recovered log begins the primary's, holds what was durable and what was read."""
        if seq < self.durable_seq:
            raise Violation(f"line {self.durable_seq} was durable, and the log ends at {seq}")
        data = read_segments(world.inodes).data
        whole = b"".join(data for _, data in self.primary.segments)
        if not whole.startswith(data) or not data.startswith(read):
            raise Violation("the recovered log is no prefix of the primary's")
        if seq and stored_chain(self.primary.lines[seq - 1].line) != stored_chain(
            data[data.rfind(b"\n", 0, -1) + 1 :]
        ):
            raise Violation(f"the recovered log does not end with line {seq}")
