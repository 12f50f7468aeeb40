"""Random histories: writers and readers that die, fail to sync and lose power repeatedly.

Invariant: a history depends on its seed alone, so the seed repeats a failure.
"""

import errno
from collections import deque
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from eventlog.append.batch import AppendRequest
from eventlog.append.segment_writer import WriterSettings
from eventlog.append.writer import Writer
from eventlog.errors import AppendFailed, EventLogError, LogPoisoned
from eventlog.format.segment import Position
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from tools.crash.actors import Actor
from tools.crash.check import HOME
from tools.crash.expected_log import CHAIN_BEFORE_FIRST, ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.histories import FLUSH, REOPEN
from tools.crash.inodes import File
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import inode_named, random_content, random_power_loss

STEPS_MAX = 20_000  # of one boot; a history that needs more does not end
POWER_LOSSES_MAX = 4
WRITERS_MAX, READERS_MAX = 4, 2
ACTIONS_MAX = 5
BATCH_ENTRIES_MAX = 6
READS_MAX = 30
REOPEN_SHARE = 0.1
SYNCED_SHARE = 0.2  # of the commits of a projection: SQLite syncs at a WAL checkpoint
RETRIES_MAX = 50  # of one append, while faults are injected
STATES_PER_CHECK = 3
TRACE_CALLS = 60  # printed after a failure


class Odds(NamedTuple):
    """The probability of each event at a step."""

    fault: float
    kill: float
    evict: float  # the kernel drops clean pages of a file
    lose: float  # a write in the background fails
    stay: float  # the same process continues
    check: float  # power fails on a copy of the disk


class Version(NamedTuple):
    """What a projection has committed: its checkpoint, and a position as a hint.

    Rows and `chain` both result from all lines up to `seq`: if the chain is right, the rows are.
    """

    seq: int = 0
    chain: str = CHAIN_BEFORE_FIRST
    position: Position | None = None


class Register:
    """A database: after a power loss it holds any version since the last synced one.

    Several projectors share it; each continues from the version that it finds when it opens it.
    """

    def __init__(self) -> None:
        self._versions = [Version()]

    @property
    def latest(self) -> Version:
        return self._versions[-1]

    def commit(self, version: Version, *, is_synced: bool) -> None:
        """Commits rows and checkpoint in one transaction."""
        self._versions = [*([] if is_synced else self._versions), version]

    def lose_power(self, random: Random) -> None:
        """Keeps one of the versions that a power loss may leave."""
        self._versions = [random.choice(self._versions)]


class RandomHistory:
    """One history, from an empty disk to its last power loss."""

    def __init__(self, explorer: Explorer, seed: str) -> None:
        self.random = random = Random(seed)
        explorer.begin(f"{seed}/recoveries")
        self.explorer = explorer
        self.expected = ExpectedLog()
        self.trace: deque[str] = deque(maxlen=TRACE_CALLS)
        self._odds = Odds(
            fault=random.choice((0.0, 0.01, 0.05, 0.2)),
            kill=random.choice((0.0, 0.002, 0.02)),
            evict=random.choice((0.0, 0.02, 0.2)),
            lose=random.choice((0.0, 0.0, 0.02)),
            stay=random.choice((0.5, 0.9, 0.99)),
            check=random.choice((0.02, 0.1)),
        )
        segment_bytes = random.choice((1, 1000, 3000, 10_000))
        self._may_fail = self._odds.fault > 0 or self._odds.lose > 0
        # With a small dedupe window a retry would be written twice, so then nothing is retried.
        self._retries = random.random() < 0.8
        dedupe_entries = 10_000 if self._retries else random.choice((0, 3))
        settings = WriterSettings(segment_bytes, dedupe_entries, 30.0)
        self._subject = explorer.subject._replace(settings=settings)
        explorer.subject = self._subject
        self._world = World(page_bytes=random.choice((512, 4096)))
        self._submitted = 0
        self._register = Register()

    def run(self) -> None:
        """Runs the history. Raises Failure."""
        for _ in range(self.random.randint(1, POWER_LOSSES_MAX)):
            actors = self._new_actors()
            try:
                self._run(actors)
            except Violation as error:
                raise Failure(str(error), self.explorer.states) from error
            finally:
                for actor in actors:
                    actor.kill()
            self._try_power_losses()
            state = random_power_loss(self._world.inodes, self.random)
            self._register.lose_power(self.random)
            page_bytes = self._world.page_bytes
            self._world = World(state, boot=self._world.boot + 1, page_bytes=page_bytes)
            self.trace.append("power loss")

    def _new_actors(self) -> list[Actor]:
        random = self.random
        writers = random.randint(1, WRITERS_MAX)
        actors = [Actor(n + 1, self._writing()) for n in range(writers)]
        readers = random.randint(0, READERS_MAX)
        return actors + [Actor(writers + n + 1, self._reading()) for n in range(readers)]

    def _run(self, actors: list[Actor]) -> None:
        odds, random = self._odds, self.random
        alive = list(actors)
        actor = alive[0]
        for _ in range(STEPS_MAX):
            if random.random() > odds.stay or actor.is_done:
                actor = random.choice(alive)
            self._disturb()
            if random.random() < odds.kill:
                if actor.call == "pwrite":  # a kill may also come in the middle of a write
                    actor.advance(Fault(taken=random.uniform(0.1, 0.9)))
                self._note(actor, f"is killed before {actor.call}")
                actor.kill()
                self._world.reap(actor.number)
            else:
                fault = self._fault(actor.call) if random.random() < odds.fault else None
                self._note(actor, f"{actor.call}{' fails' if fault else ''}")
                actor.advance(fault)
            self.expected.collect()
            if actor.is_done:
                self._world.reap(actor.number)
                alive.remove(actor)
                self._check_actor(actor)
            if random.random() < odds.check:
                self._try_power_losses()
            if not alive:
                return
        raise Violation(f"after {STEPS_MAX} calls {len(alive)} processes have not ended")

    def _note(self, actor: Actor, what: str) -> None:
        self.trace.append(f"process {actor.number} {what}")

    def _check_actor(self, actor: Actor) -> None:
        error = actor.error
        if isinstance(error, Violation):
            raise error
        if error is not None and not (self._may_fail and isinstance(error, OSError)):
            raise Violation(f"process {actor.number} ended with {error!r}") from error

    def _try_power_losses(self) -> None:
        """Checks a few random power losses, each on a copy of the disk."""
        for _ in range(STATES_PER_CHECK):
            if not self.explorer.is_done:
                state = random_power_loss(self._world.inodes, self.random)
                self.explorer.try_one(state, self.expected)

    # -- faults

    def _fault(self, call: str) -> Fault | None:
        random = self.random
        match call:
            case "fdatasync":
                return Fault(survived=lambda file: random_content(file, random))
            case "pwrite":
                return Fault(errno.ENOSPC, taken=random.choice((0.0, 0.0, random.random())))
            case "create" | "make_dir" | "link":
                return Fault(errno.ENOSPC)
            case "fsync_dir" | "truncate":
                return Fault()
            case _:
                return None

    def _disturb(self) -> None:
        """Lets the kernel evict clean pages, or fail to write a page in the background."""
        random, world = self.random, self._world
        evicts, loses = random.random() < self._odds.evict, random.random() < self._odds.lose
        if not (evicts or loses):
            return
        lock_ino = inode_named(".lock", world.inodes)  # without its page no promise holds
        files = [
            n for n, inode in world.inodes.items() if isinstance(inode, File) and n != lock_ino
        ]
        if files and evicts:
            world.evict(random.choice(files))
        if files and loses:
            ino = random.choice(files)
            file = world.inodes[ino]
            if isinstance(file, File) and file.pending:
                self.trace.append("the kernel fails to write a file in the background")
                survived = random_content(file, random)
                world.lose(ino, survived, is_reported_later=random.random() < 0.5)

    # -- processes

    def _writing(self) -> Callable[[Actor], None]:
        plan = [
            self.random.choice((FLUSH, REOPEN, 1, 1, self.random.randint(2, BATCH_ENTRIES_MAX)))
            for _ in range(self.random.randint(1, ACTIONS_MAX))
        ]

        def work(actor: Actor) -> None:
            disk = self._subject.disk(self._world, actor.number, actor.step)
            writer, request = self._subject.open(disk), self.expected.submit([])
            keys: list[str] = []
            for action in plan:
                if action > 0:
                    # At times the same items again, as a generator retries acknowledged ones.
                    keys = keys if self._retries and action == len(keys) else self._new_keys(action)
                    writer, request = self._append(disk, writer, keys)
                    continue
                try:
                    writer.flush_watermark() if action == FLUSH else writer.close()
                    self.expected.flush_watermark(request, writer)
                except EventLogError as error:
                    self._check_error(error)
                    is_over = True
                else:
                    is_over = action == REOPEN
                if is_over:
                    writer.drop()
                    writer, request = self._subject.open(disk), self.expected.submit([])
            writer.drop()

        return work

    def _new_keys(self, entries: int) -> list[str]:
        self._submitted += entries
        return [f"s{self._submitted - n}" for n in range(entries)]

    def _append(
        self, disk: SimulatedDisk, writer: Writer, keys: list[str]
    ) -> tuple[Writer, AppendRequest]:
        """Appends, with retries; returns the writer and its last request."""
        request = self.expected.submit([])
        for _ in range(RETRIES_MAX if self._retries else 1):
            request = self.expected.submit(keys)
            writer.commit([request].copy)
            if request.error is None:
                break
            self._check_error(request.error)
            if isinstance(request.error, LogPoisoned):
                self.expected.mark_uncertain(request)
                writer.drop()
                writer, request = self._subject.open(disk), self.expected.submit([])
            else:
                self.expected.withdraw(request)
        return writer, request

    def _check_error(self, error: EventLogError) -> None:
        """Checks that an append failed because of an injected fault, and for no other reason."""
        if not (self._may_fail and isinstance(error, AppendFailed | LogPoisoned)):
            raise Violation(f"an append failed: {error}") from error

    def _reading(self) -> Callable[[Actor], None]:
        reads = self.random.randint(1, READS_MAX)
        random = Random(self.random.random())

        def work(actor: Actor) -> None:
            disk = self._subject.disk(self._world, actor.number, actor.step)
            at = random.choice((Version(), self._register.latest))
            reader = LogReader(disk, HOME, after=at.seq, hint=at.position)
            try:
                if reader.tip.chain != at.chain:
                    raise Violation("a projection finds another log than the one it was built from")
                for _ in range(reads):
                    if reader.read():
                        self.expected.acknowledge(reader.tip.seq, reader.tip.chain)
                        version = Version(reader.tip.seq, reader.tip.chain, reader.position)
                        self._register.commit(version, is_synced=random.random() < SYNCED_SHARE)
                    if random.random() < REOPEN_SHARE:
                        reader.close()
                        reader = self._reopen_reader(disk, reader, random)
            finally:
                reader.close()

        return work

    def _reopen_reader(self, disk: SimulatedDisk, old: LogReader, random: Random) -> LogReader:
        """Opens a reader as a projector does after a restart, or one near the end."""
        if random.random() < 0.3:
            return reader_near_end(disk, HOME)
        hint = random.choice((None, old.position))
        reader = LogReader(disk, HOME, after=old.tip.seq, hint=hint)
        if reader.tip.chain != old.tip.chain:
            raise Violation("a reopened reader finds another chain")
        return reader
