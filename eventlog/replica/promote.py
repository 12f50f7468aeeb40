"""Promotion: a replica becomes the primary by the next line of the stream, by compare-and-set.

    follow to the end            the replica has all that a quorum acknowledged
    note the line in .replica    before it is published: after a crash it is known to be ours
    publish it                   only if the stream still ends where the replica does
    follow to the end            the line that is there says who was promoted
    remove .replica              if it is ours

Each step may be repeated, and so may the whole: an attempt whose outcome is unknown publishes the
same bytes again.

Invariant: of several homes that aim at one epoch exactly one is promoted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, cast

from eventlog.clock import now_recorded
from eventlog.errors import EventLogError
from eventlog.format.line import decode
from eventlog.format.promotion import Promotion
from eventlog.replica.engine import StreamEngine, StreamUnavailable, WrongLastSequence
from eventlog.replica.follower import Follower, in_thread
from eventlog.replica.replica_log import ReplicaLog

PROMOTE_S_MAX = 30.0  # a new leader is elected within seconds
RETRY_S = 0.1


class Promoted(NamedTuple):
    """This home is the primary now."""

    seq: int  # of the promotion: the first line of this primary
    epoch: int


class Overtaken(NamedTuple):
    """Another home was promoted. This one stays a replica."""

    host: str
    epoch: int


async def promote(
    open_stream: Callable[[], Awaitable[StreamEngine]],
    log: ReplicaLog,
    *,
    host: str,
    epoch: int | None = None,
    timeout_s: float = PROMOTE_S_MAX,
) -> Promoted | Overtaken:
    """Promotes the home of `log`, which nothing else follows into meanwhile.

    `epoch`: the one to reach; by default the one after the last that this home knows. Where the
    stream has it already, another home was promoted.

    Raises EventLogError where the home is no replica or the stream keeps growing, StreamUnavailable
    where the outcome is not known after `timeout_s`, and what `Follower.run` raises.
    """
    state = await in_thread(lambda: log.state)
    if state is None:
        raise EventLogError(
            "this home is no replica, and is not promoted",
            where=log.home,
            do="nothing was published: a home that takes appends needs no promotion; "
            "`eventlog follow` makes a replica",
        )
    target = state.epoch + 1 if epoch is None else epoch
    gives_up_s = time.monotonic() + timeout_s
    while True:
        await Follower(open_stream, log, stream=state.stream).run(asyncio.Event(), once=True)
        line = await in_thread(log.finish_promotion)
        if line is not None:
            entry = decode(line)
            return Promoted(entry.seq, cast("int", entry.payload["epoch"]))
        state = await in_thread(lambda: log.state)
        assert state is not None, "it is removed by a promotion of this process only"
        if state.epoch >= target:
            return Overtaken(state.primary or "another home", state.epoch)
        if time.monotonic() > gives_up_s:
            raise StreamUnavailable(
                "the promotion could not be published: the stream grows, or does not answer",
                where=log.home,
                do="stop the old primary if it still runs, then run `eventlog promote` again: it "
                "says whether this home was promoted",
            )
        await _publish(open_stream, log, Promotion(target, host))


async def _publish(
    open_stream: Callable[[], Awaitable[StreamEngine]], log: ReplicaLog, promotion: Promotion
) -> None:
    """Publishes the line once. What comes of it shows when the stream is followed again."""
    line = await in_thread(lambda: log.prepare_promotion(promotion, now_recorded()))
    with suppress(WrongLastSequence, StreamUnavailable):
        engine = await open_stream()
        try:
            await engine.append([line], lambda _seq: None)
            return
        finally:
            await engine.close()
    await asyncio.sleep(RETRY_S)
