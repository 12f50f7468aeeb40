"""Failover: promotes the replica of a home, and lets an old primary come back as a replica.

Invariant: nothing else follows into the home meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import (
    FenceState,
    Follower,
    Fork,
    Overtaken,
    Promoted,
    ReplicaLog,
    StreamEngine,
    StreamSettings,
    aside_paths,
    cut_log,
    end_fence,
    fence_home,
    fence_state,
    find_fork,
    open_stream,
    own_chain,
    replica_state,
    require_home,
    state_of_log,
)
from eventlog.plumbing import promote as promote_log
from projections.errors import ProjectionError
from projections.replication.follow import Opener, require_stream
from projections.replication.follow_record import FollowFigures, FollowRecord, read_follow_figures
from projections.replication.forks import OLDER_STREAM_DO, older_stream_text


def promote(
    home: Path,
    settings: StreamSettings,
    *,
    host: str,
    epoch: int | None = None,
    open_engine: Opener = open_stream,
) -> Promoted | Overtaken:
    """Makes the replica at `home` the primary of its stream, unless another one is faster.

    Raises ProjectionError where the home is fenced, follows another stream, or another process
    follows into it, and what `eventlog.replica.promote.promote` raises.
    """
    fence, state = fence_state(home), replica_state(home)
    if fence is not None:
        raise ProjectionError(
            f"this home is fenced: {fence.to_text()}",
            where=str(home),
            do="run `eventlog rejoin` first",
        )
    if state is not None:
        require_stream(state, settings, str(home))
    log = ReplicaLog.open(home)
    try:
        with _following(home):
            return asyncio.run(
                promote_log(lambda: open_engine(settings), log, host=host, epoch=epoch)
            )
    finally:
        log.drop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoined:
    """How an old primary came back."""

    fence: FenceState | None  # None: the home was a replica already
    entries: int  # that this run has cut
    aside: tuple[str, ...]  # files with the entries that only this home had
    discarded: tuple[str, ...]  # what became of projections
    last_seq: int


def rejoin(
    home: Path,
    settings: StreamSettings,
    *,
    discard: Callable[[int], Sequence[str]],
    open_engine: Opener = open_stream,
) -> Rejoined:
    """Makes the home of an old primary a replica of the stream that left it.

    `discard` gets the seq of the fork, and discards the projections that have applied entries after
    it, before the log is cut. Raises ProjectionError where the stream has not left this home.
    """
    require_home(home)

    async def opener() -> StreamEngine:
        return await open_engine(settings)

    with _following(home):
        fence, state = fence_state(home), replica_state(home)
        entries, discarded = 0, tuple[str, ...]()
        if state is None:
            fork = asyncio.run(_find_fork(opener, home))
            _require_left(fork, home, settings)
            fence = fence_home(home, settings.name, fork)
            discarded = tuple(discard(fork.seq))
            chain = own_chain(str(home), fork.seq)
            state = state_of_log(str(home), settings.name, fork.seq)
            entries = cut_log(home, fork.seq, chain, state).entries
        require_stream(state, settings, str(home))
        follower = Follower(opener, ReplicaLog.open(home), stream=settings.name)
        asyncio.run(follower.run(asyncio.Event(), once=True))
        aside = tuple(aside_paths(home, None if fence is None else fence.seq))
        if fence is not None:
            end_fence(home)
    return Rejoined(
        fence=fence,
        entries=entries,
        aside=aside,
        discarded=discarded,
        last_seq=follower.checkpoint,
    )


async def _find_fork(opener: Callable[[], Awaitable[StreamEngine]], home: Path) -> Fork:
    engine = await opener()
    try:
        return await find_fork(engine, str(home), await engine.last())
    finally:
        await engine.close()


def _require_left(fork: Fork, home: Path, settings: StreamSettings) -> None:
    """Raises ProjectionError unless the stream goes on after a line of this log."""
    if fork.seq == 0:
        raise ProjectionError(
            f"the stream {settings.stream} has no line in common with this log",
            where=str(home),
            do="nothing was changed: check EVENTLOG_STREAM and --home",
        )
    if fork.stream_end == fork.seq:
        raise ProjectionError(
            f"the stream ends at seq {fork.seq} with a line of this log: no other home continues "
            "it",
            where=str(home),
            do="nothing was changed: this home may be the primary",
        )
    if fork.is_stream_older:
        raise ProjectionError(
            older_stream_text(fork), where=str(home), do=f"nothing was changed: {OLDER_STREAM_DO}"
        )


@contextmanager
def _following(home: Path) -> Iterator[None]:
    """Keeps other followers out. Raises ProjectionError where one runs."""
    record = FollowRecord(home)
    try:
        yield
    finally:
        record.close(read_follow_figures(home) or FollowFigures())
