"""Recovers the log on a disk after a power loss, and compares the result with the expected log.

Invariant: a state passes only if recovery keeps every acknowledged entry, refuses nothing, saves
what it cuts, gives the same result when it runs again, and appends continue after it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

from eventlog.append.batch import AppendRequest, Receipt
from eventlog.append.segment_writer import WriterSettings
from eventlog.append.writer import Writer
from eventlog.errors import EventLogError
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from eventlog.storage.home import Home
from tools.crash.expected_log import ExpectedLog, Found, Violation
from tools.crash.inodes import Inodes, Link
from tools.crash.simulated_disk import SimulatedDisk, Step, World
from tools.crash.states import State, files_of, nothing, segments_of

HOME = Home("/simulated")
RECORDED_AT = "2025-11-18T02:00:00.000000Z"
READS_MAX = 1000  # of one reader; it reaches the durable end long before


class Subject(NamedTuple):
    """The parts of the log under test; a mutant replaces one of them."""

    writer: type[Writer] = Writer
    disk: type[SimulatedDisk] = SimulatedDisk
    settings: WriterSettings = WriterSettings(
        segment_bytes=4000, dedupe_entries=100, lock_timeout_s=1.0
    )

    def open(self, disk: SimulatedDisk) -> Writer:
        """Opens a writer as a new process does."""
        return self.writer(disk, HOME, lambda: RECORDED_AT, self.settings, disk.process)


class _FrozenTime:
    """Replaces the module `time`: no process sleeps, the scheduler decides who runs."""

    @staticmethod
    def sleep(seconds: float) -> None:
        assert seconds >= 0

    @staticmethod
    def monotonic() -> float:
        return 0.0


@contextmanager
def simulation() -> Iterator[None]:
    """Keeps the log from sleeping and from logging for as long as the block lasts."""
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
    """Does what an append does before it writes. Raises EventLogError, OSError."""
    writer._lock_and_catch_up()
    writer._lock.release()


def append(writer: Writer, request: AppendRequest) -> None:
    """Commits a request that must succeed. Raises Violation."""
    writer.commit([request].copy)
    if request.error is not None:
        raise Violation(f"an append failed: {request.error}")
    for result in request.results:
        if not isinstance(result, Receipt):
            raise Violation(f"an append returned {result} in place of a receipt")


def read_all(disk: SimulatedDisk) -> tuple[bytes, int, str]:
    """The bytes that a new reader returns, and its tip."""
    return _read_to_end(LogReader(disk, HOME))


def _read_to_end(reader: LogReader) -> tuple[bytes, int, str]:
    lines: list[bytes] = []
    try:
        for _ in range(READS_MAX):
            some = reader.read()
            if not some:
                return b"".join(lines), reader.tip.seq, reader.tip.chain
            lines += some
        raise Violation("a reader does not reach an end")
    finally:
        reader.close()


Observer = Callable[[Inodes, ExpectedLog], None]  # receives the disk at each step of a recovery


def check(
    state: State,
    expected: ExpectedLog,
    subject: Subject,
    boot: int,
    observer: Observer | None = None,
    *,
    device: int = 1,
) -> None:
    """Recovers the state, appends two entries, loses power, recovers again. Raises Violation."""
    world = World(dict(state), boot=boot, device=device)
    step = _observing_step(world, expected, observer) if observer is not None else None
    expected.check_watermark(state)
    try:
        _read_early(subject.disk(world, 2), expected)
        writer = subject.open(subject.disk(world, 1, step))
        recover(writer)
        found = expected.check(world.inodes)
        _check_kept(state, found)
        _check_link(world.inodes)
        if found.chains:  # readers return these entries from here on
            expected.acknowledge(len(found.chains), found.chains[-1])
        keys = [f"boot{boot}-{len(found.chains)}-{n}" for n in (1, 2)]
        request = expected.submit(keys)
        append(writer, request)
        expected.collect()
        if step is not None:
            writer.flush_watermark()
            expected.flush_watermark(request, writer)
        after = _recovered_again(world, expected, subject)
    except (EventLogError, OSError) as error:
        raise Violation(f"a legal state is refused: {error!r}") from error
    if after.keys != (*found.keys, *keys) or not after.data.startswith(found.data):
        raise Violation("the second recovery gives another result than the first one")
    if len(after.kept) > len(found.kept):
        raise Violation("the second recovery cuts again")


def _read_early(disk: SimulatedDisk, expected: ExpectedLog) -> None:
    """Reads before any writer: from the start, after the last acknowledged entry, near the end."""
    _, seq, chain = read_all(disk)
    resumed = LogReader(disk, HOME, after=max(expected.acknowledged, default=0))
    for reader in (resumed, reader_near_end(disk, HOME)):
        if _read_to_end(reader)[1:] != (seq, chain):
            raise Violation(f"a reader from the start ends at {seq}, another reader does not")
    if seq:
        expected.acknowledge(seq, chain)


def _recovered_again(world: World, expected: ExpectedLog, subject: Subject) -> Found:
    """Loses power, keeps only what was synced, recovers, and reads the result."""
    later = World(nothing(world.inodes), boot=world.boot + 1, device=world.device)
    disk = subject.disk(later, 2)
    recover(subject.open(disk))
    found = expected.check(later.inodes)
    data, seq, _ = read_all(subject.disk(later, 3))
    if data != found.data or seq != len(found.chains):
        raise Violation(f"a reader returns {seq} entries of {len(found.chains)}")
    return found


def _check_kept(state: State, found: Found) -> None:
    """Checks that the bytes that recovery cut are in a .torn file."""
    before = b"".join(data for _, data in segments_of(state))
    cut = before[len(found.data) :]
    if before[: len(found.data)] != found.data:
        raise Violation("recovery changed bytes that it kept")
    if cut and cut not in found.kept:
        raise Violation(f"recovery cut {len(cut)} bytes and did not save them")


def _check_link(inodes: Inodes) -> None:
    """Checks that `signals.log` links to the active segment."""
    paths = dict(files_of(inodes))
    segments = [path for path in paths if path.endswith(".jsonl")]
    link = paths.get(HOME.link_path)
    if segments and (not isinstance(link, Link) or not segments[-1].endswith(link.target)):
        raise Violation("signals.log does not link to the active segment")


def _observing_step(world: World, expected: ExpectedLog, observer: Observer) -> Step:
    """Returns a step that calls the observer whenever the disk or the expected log has changed."""
    last_seen = (-1, -1)

    def step(_: str) -> None:
        nonlocal last_seen
        expected.collect()
        if last_seen != (world.version, expected.additions):
            last_seen = (world.version, expected.additions)
            observer(dict(world.inodes), expected)

    return step
