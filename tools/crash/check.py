"""Recovers the log on a disk that a power loss left, and holds the result against the ledger.

Invariant: a state passes only if recovery keeps what is owed, refuses nothing, cuts nothing without
keeping it, is the same when it is run again, and appends go on behind it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

from eventlog.append.batch import AppendRequest, Receipt
from eventlog.append.writer import Writer, WriterSettings
from eventlog.errors import EventLogError
from eventlog.read.reader import LogReader, reader_near_end
from eventlog.storage.home import Home
from tools.crash.expected_log import ExpectedLog, Found, Violation
from tools.crash.inodes import File, Inodes, Link
from tools.crash.simulated_disk import SimulatedDisk, Step, World
from tools.crash.states import State, files_of, nothing

HOME = Home("/simulated")
RECORDED_AT = "2025-11-18T02:00:00.000000Z"
READS_MAX = 1000  # of one reader; it ends at the durable end long before


class Subject(NamedTuple):
    """What is under test; a mutant replaces a part of it."""

    writer: type[Writer] = Writer
    disk: type[SimulatedDisk] = SimulatedDisk
    settings: WriterSettings = WriterSettings(
        segment_bytes=4000, dedupe_entries=100, lock_timeout_s=1.0
    )

    def open(self, disk: SimulatedDisk) -> Writer:
        """A writer as a new process opens it."""
        return self.writer(disk, HOME, lambda: RECORDED_AT, self.settings, disk.process)


class _FrozenTime:
    """Stands in for the module `time`: nobody waits in here, the scheduler decides."""

    @staticmethod
    def sleep(seconds: float) -> None:
        assert seconds >= 0

    @staticmethod
    def monotonic() -> float:
        return 0.0


@contextmanager
def simulation() -> Iterator[None]:
    """While a simulation runs, the log neither sleeps nor talks."""
    logger = logging.getLogger("eventlog")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with (
            mock.patch("eventlog.storage.locks.time", _FrozenTime),
            mock.patch("eventlog.storage.durable_state.time", _FrozenTime),
        ):
            yield
    finally:
        logger.setLevel(level)


def recover(writer: Writer) -> None:
    """What an append does before it appends. EventLogError, OSError."""
    writer._lock_and_catch_up()
    writer._lock.release()


def append(writer: Writer, group: AppendRequest) -> None:
    """Commits a group that nothing stands in the way of. Violation."""
    writer.commit([group].copy)
    if group.error is not None:
        raise Violation(f"an append failed: {group.error}")
    for result in group.results:
        if not isinstance(result, Receipt):
            raise Violation(f"an append got no receipt but {result}")


def read_all(disk: SimulatedDisk) -> tuple[bytes, int, str]:
    """What a new reader gives out, and its tip."""
    return _read_on(LogReader(disk, HOME))


def _read_on(reader: LogReader) -> tuple[bytes, int, str]:
    lines: list[bytes] = []
    try:
        for _ in range(READS_MAX):
            some = reader.read()
            if not some:
                return b"".join(lines), reader.tip.seq, reader.tip.chain
            lines += some
        raise Violation("a reader does not come to an end")
    finally:
        reader.close()


Witness = Callable[[Inodes, ExpectedLog], None]  # sees each moment of a recovery


def check(
    state: State, expected: ExpectedLog, subject: Subject, boot: int, witness: Witness | None = None
) -> None:
    """Recovers the state, appends two entries, loses power and recovers again. Violation."""
    world = World(dict(state), boot=boot)
    step = _telling(world, expected, witness) if witness is not None else None
    expected.check_watermark(state)
    try:
        _read_early(subject.disk(world, 2), expected)
        writer = subject.open(subject.disk(world, 1, step))
        recover(writer)
        found = expected.check(world.inodes)
        _check_kept(state, found)
        _check_link(world.inodes)
        if found.chains:  # readers see it from here on
            expected.acknowledge(len(found.chains), found.chains[-1])
        keys = [f"boot{boot}-{len(found.chains)}-{n}" for n in (1, 2)]
        group = expected.submit(keys)
        append(writer, group)
        expected.collect()
        if step is not None:
            writer.flush_watermark()
            expected.flush_watermark(group, writer)
        after = _recovered_again(world, expected, subject)
    except (EventLogError, OSError) as error:
        raise Violation(f"a legal state is refused: {error!r}") from error
    if after.keys != (*found.keys, *keys) or not after.data.startswith(found.data):
        raise Violation("a second recovery does not give what the first one gave")
    if len(after.kept) > len(found.kept):
        raise Violation("a second recovery cuts again")


def _read_early(disk: SimulatedDisk, expected: ExpectedLog) -> None:
    """Readers come before any writer: a new one, one that goes on, one that wants the end only."""
    _, seq, chain = read_all(disk)
    going_on = LogReader(disk, HOME, after=max(expected.acknowledged, default=0))
    for reader in (going_on, reader_near_end(disk, HOME)):
        if _read_on(reader)[1:] != (seq, chain):
            raise Violation(f"a reader from the start comes to {seq}, another one does not")
    if seq:
        expected.acknowledge(seq, chain)


def _recovered_again(world: World, expected: ExpectedLog, subject: Subject) -> Found:
    """Loses power, keeping only what was synced; recovers, and reads as a reader does."""
    later = World(nothing(world.inodes), boot=world.boot + 1)
    disk = subject.disk(later, 2)
    recover(subject.open(disk))
    found = expected.check(later.inodes)
    data, seq, _ = read_all(subject.disk(later, 3))
    if data != found.data or seq != len(found.chains):
        raise Violation(f"a reader sees {seq} entries of {len(found.chains)}")
    return found


def _check_kept(state: State, found: Found) -> None:
    """What recovery cut stands in a .torn file."""
    before = b"".join(
        inode.cache
        for path, inode in files_of(state)
        if isinstance(inode, File) and path.endswith(".jsonl")
    )
    cut = before[len(found.data) :]
    if before[: len(found.data)] != found.data:
        raise Violation("recovery changed what it kept")
    if cut and cut not in found.kept:
        raise Violation(f"recovery cut {len(cut)} bytes and kept them nowhere")


def _check_link(inodes: Inodes) -> None:
    """`signals.log` leads to the active segment."""
    paths = dict(files_of(inodes))
    segments = [path for path in paths if path.endswith(".jsonl")]
    link = paths.get(HOME.link_path)
    if segments and (not isinstance(link, Link) or not segments[-1].endswith(link.target)):
        raise Violation("signals.log does not lead to the active segment")


def _telling(world: World, expected: ExpectedLog, witness: Witness) -> Step:
    """A step that shows the witness each moment at which something has changed."""
    told = (-1, -1)

    def step(_: str) -> None:
        nonlocal told
        expected.collect()
        if told != (world.version, expected.additions):
            told = (world.version, expected.additions)
            witness(dict(world.inodes), expected)

    return step
