"""What a stream still holds of the lines of this log that it has acknowledged.

It may have lost its last lines, and others may have come in their place before the mirror looks. It
may have been created again too: where others filled it as far as the old one went, the lines of
this log follow theirs, and its last line shows nothing.

Invariant: nothing is changed.
"""

import os
from contextlib import suppress
from pathlib import Path

from eventlog import LogDiverged
from eventlog.plumbing import (
    MirrorRecord,
    StreamEnd,
    StreamEngine,
    StreamForeign,
    find_fork,
    own_chain,
    run_in_thread,
)


async def held_seq(engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: Path) -> int:
    """The last seq that the stream has acknowledged and still holds."""
    path = os.fspath(home)
    try:
        if not await _has_own_lines(engine, end, record, home):
            before = StreamEnd(record.looked, await engine.line(record.looked))
            return min(record.acked, (await find_fork(engine, path, before)).seq)
        if end.seq < record.acked:
            if await run_in_thread(lambda: own_chain(path, end.seq)) == end.chain:
                return end.seq
        elif record.acked_chain is None or (
            await _chain_at(engine, end, record.acked) == record.acked_chain
        ):
            return record.acked
        return min(record.acked, (await find_fork(engine, path, end)).seq)
    except StreamForeign:
        return 0


def is_created_again(end: StreamEnd, record: MirrorRecord) -> bool:
    """Whether it is another stream than at the last look."""
    return record.created not in (None, end.created)


async def require_own_lines(
    engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: Path, where: str
) -> None:
    """Raises LogDiverged where lines of others are before those that this log published."""
    if not await _has_own_lines(engine, end, record, home):
        raise LogDiverged(
            f"the stream was created again, and at seq {record.looked} it holds another line than "
            "this log",
            where=where,
            do="find out what else publishes to it, delete the stream, and create it again: the "
            "mirror fills it",
        )


async def _has_own_lines(
    engine: StreamEngine, end: StreamEnd, record: MirrorRecord, home: Path
) -> bool:
    """Whether a stream holds the line of this log where the one of the last look ended."""
    looked = record.looked
    if not is_created_again(end, record) or not 0 < looked <= end.seq:
        return True
    with suppress(StreamForeign):
        own = await run_in_thread(lambda: own_chain(os.fspath(home), looked))
        return await _chain_at(engine, end, looked) == own
    return False


async def _chain_at(engine: StreamEngine, end: StreamEnd, seq: int) -> str:
    """The chain of message `seq`. Raises StreamForeign."""
    if seq in (0, end.seq):
        return StreamEnd(seq, end.line).chain
    return StreamEnd(seq, await engine.line(seq)).chain
