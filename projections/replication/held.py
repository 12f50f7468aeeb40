"""What a stream still holds of the lines of this log that it has acknowledged.

It may have lost its last lines, and others may have come in their place before the mirror looks. It
may have been created again too: where others filled it as far as the old one went, the lines of
this log follow theirs, and its last line shows nothing.

Invariant: nothing is changed.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eventlog.plumbing import (
    MirrorRecord,
    StreamEnd,
    StreamEngine,
    StreamForeign,
    find_fork,
    own_chain,
    run_in_thread,
)


class Held(NamedTuple):
    """What a stream holds of the lines of this log that it has acknowledged."""

    seq: int  # of the last one
    has_others: bool  # lines of others are before those that this log published


async def held_lines(
    engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: Path
) -> Held:
    """Compares a stream that ends there with what it has acknowledged by the record."""
    path, seq = os.fspath(home), 0
    has_others = not await _has_own_lines(engine, end, record, path)
    with suppress(StreamForeign):
        if has_others:
            end = StreamEnd(record.looked, await engine.line(record.looked))
        seq = await _held_seq(engine, end, record, path)
    return Held(seq, has_others)


def is_created_again(end: StreamEnd, record: MirrorRecord) -> bool:
    """Whether it is another stream than at the last look."""
    return record.created not in (None, end.created)


async def _has_own_lines(
    engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: str
) -> bool:
    """Whether a stream holds the line of this log where the one of the last look ended."""
    looked = record.looked
    if not is_created_again(end, record) or not 0 < looked <= end.seq:
        return True
    with suppress(StreamForeign):
        own = await run_in_thread(lambda: own_chain(home, looked))
        return await _chain_at(engine, end, looked) == own
    return False


async def _held_seq(engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: str) -> int:
    """The last seq up to `end` that the stream has acknowledged and holds. Raises StreamForeign."""
    if end.seq < record.acked:
        if await run_in_thread(lambda: own_chain(home, end.seq)) == end.chain:
            return end.seq
    elif record.acked_chain is None or (
        await _chain_at(engine, end, record.acked) == record.acked_chain
    ):
        return record.acked
    return min(record.acked, (await find_fork(engine, home, end)).seq)


async def _chain_at(engine: StreamEngine, end: StreamEnd, seq: int) -> str:
    """The chain of message `seq`. Raises StreamForeign."""
    if seq in (0, end.seq):
        return StreamEnd(seq, end.line).chain
    return StreamEnd(seq, await engine.line(seq)).chain
