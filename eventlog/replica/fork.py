"""The fork: the last line that a log shares with a stream; and the fence of a log left behind.

(seq, chain) names a log up to and including that line, so the fork is found by bisection.

Invariant: a log that has no line in common with the stream is never fenced: the stream is another
log's, and EVENTLOG_STREAM names the wrong one. Neither is a log that holds a newer promotion than
the stream: an older primary has filled a stream that was created again.
"""

import os
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import NamedTuple

from eventlog.format.line import CHAIN_START, parse_header, stored_chain
from eventlog.format.promotion import Promotion, promotion_of
from eventlog.read.inspect import end_seq, raw_lines
from eventlog.replica.engine import StreamEnd, StreamEngine
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.fence_file import FenceState, read_fence, remove_fence, write_fence
from eventlog.storage.home import Home, home_at
from eventlog.storage.locks import WriterLock
from eventlog.storage.replica_file import EPOCH_FIRST, ReplicaState, read_replica_state
from eventlog.threads import run_in_thread

LOCK_TIMEOUT_S = 10.0  # of a backup, a compress, or a writer that recovers the log


class Fork(NamedTuple):
    """Where a log and a stream part."""

    seq: int  # the last one that both have; 0: they share nothing
    own_end: int  # the last seq of the log
    stream_end: int
    promotion: Promotion | None = None  # the line of the stream after the fork, if it is one
    own_epoch: int = 0  # of the newest promotion after the fork in the log; 0: there is none
    stream_epoch: int = 0  # the same in the stream

    @property
    def is_stream_older(self) -> bool:
        """Whether an older primary continues the stream: the log holds a newer promotion."""
        return self.own_epoch > self.stream_epoch

    @property
    def is_left_behind(self) -> bool:
        """Whether the stream holds other lines than this log, or was continued by a promotion."""
        is_behind = self.own_end > self.seq or self.promotion is not None
        return 0 < self.seq < self.stream_end and is_behind and not self.is_stream_older


async def find_fork(engine: StreamEngine, home: str, end: StreamEnd) -> Fork:
    """Compares the log of a home with the stream that ends at `end`, by about 20 requests.

    Where the log holds a promotion after the fork, the stream is read from there to its end.
    Raises what the engine raises, and LogCorrupt.
    """
    own_end = await run_in_thread(lambda: end_seq(home))
    low, high = 0, min(own_end, end.seq)
    while low < high:
        middle = (low + high + 1) // 2
        found = StreamEnd(middle, await engine.line(middle))
        own = await run_in_thread(lambda seq=middle: own_chain(home, seq))  # type: ignore[misc]
        low, high = (middle, high) if found.chain == own else (low, middle - 1)
    promotion = promotion_of(await engine.line(low + 1)) if low < end.seq else None
    own_epoch = await run_in_thread(lambda: _newest_epoch_of_log(home, low))
    stream_epoch = promotion.epoch if promotion is not None else 0
    if own_epoch > stream_epoch and low < end.seq:
        stream_epoch = await _newest_epoch(engine, low, end.seq)
    return Fork(low, own_end, end.seq, promotion, own_epoch, stream_epoch)


def _newest_epoch_of_log(home: str, after: int) -> int:
    found = (promotion_of(line) for lines in raw_lines(home, after=after) for line in lines)
    return max((promotion.epoch for promotion in found if promotion is not None), default=0)


async def _newest_epoch(engine: StreamEngine, after: int, end: int) -> int:
    newest = 0
    async with aclosing(engine.follow(after)) as batches:
        async for lines in batches:
            found = (promotion_of(each.line) for each in lines)
            newest = max(newest, *(each.epoch for each in found if each is not None), 0)
            if lines[-1].seq >= end:
                break
    return newest


def own_chain(home: str, seq: int) -> str:
    """The chain of entry `seq` of a home; of the start where it is 0; empty where it has none."""
    if seq == 0:
        return CHAIN_START
    for lines in raw_lines(home, after=seq - 1, limit=1):
        if parse_header(lines[0]).seq == seq:  # else damage was accepted there
            return stored_chain(lines[0])
    return ""


def state_of_log(home: str, stream: str, last_seq: int) -> ReplicaState:
    """What a home with a log follows from then on: epoch and primary are those of its lines.

    It reads the lines up to `last_seq` once. Raises LogCorrupt.
    """
    found: Promotion | None = None
    for lines in raw_lines(home, limit=last_seq) if last_seq else ():
        for line in lines:
            promotion = promotion_of(line)
            # Where damage was accepted, the last of so many lines has a higher seq.
            if promotion is not None and parse_header(line).seq <= last_seq:
                found = promotion
    if found is None:
        return ReplicaState(stream=stream, epoch=EPOCH_FIRST)
    return ReplicaState(stream=stream, epoch=found.epoch, primary=found.host)


def fence_home(
    home: str | os.PathLike[str], stream: str, fork: Fork, *, disk: Disk | None = None
) -> FenceState:
    """Fences a home that the stream has left at `fork`, durably, where it is not fenced there yet.

    Returns its fence. Raises LogLocked, LogNotFound, UnsafePath, OSError.
    """
    primary, epoch = fork.promotion[::-1] if fork.promotion is not None else (None, None)
    with _locked(home, disk) as (at_disk, at):
        found = read_fence(at_disk, at)
        if found is None or found.seq != fork.seq:
            found = FenceState(stream=stream, seq=fork.seq, primary=primary, epoch=epoch)
            write_fence(at_disk, at, found)
        return found


def end_fence(home: str | os.PathLike[str], *, disk: Disk | None = None) -> None:
    """Removes the fence of a home that is a replica, durably. Raises LogLocked, OSError."""
    with _locked(home, disk) as (at_disk, at):
        assert read_replica_state(at_disk, at) is not None, "it would take appends"
        remove_fence(at_disk, at)


@contextmanager
def _locked(home: str | os.PathLike[str], disk: Disk | None) -> Iterator[tuple[Disk, Home]]:
    disk = disk or RealDisk()
    at = home_at(home)
    lock = WriterLock(disk, at, pid=os.getpid(), timeout_s=LOCK_TIMEOUT_S, creates_home=False)
    try:
        lock.take()
        yield disk, at
    finally:
        lock.drop()
