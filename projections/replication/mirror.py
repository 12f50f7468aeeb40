"""The projection `mirror`: publishes each durable line of the log to a stream, byte for byte.

The stream holds the checkpoint: the seq and the chain of its last message. Lines are appended
behind that message only if it is a line of this log, and only if it is still the last one. So two
mirrors do no harm, and neither does a crash at any point.

    mirroring   lines are published as they become durable
    waiting     the servers do not answer, or have no quorum, or refuse a request
    unfit       the stream or a server breaks a rule, or the log has lost a line; nothing is
                published
    fenced      the stream ends beyond this log or holds another line; nothing is published
    short       messages are missing from the stream; nothing is published

An outage is waited for, and stops no other projection. In the last three states the projection has
failed, and is tried again with back-off.

Invariant: message N of the stream is line N of the log.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from eventlog import Entry, EventLog, LogDiverged, UnsafePath
from eventlog.plumbing import (
    FENCED,
    MIRROR,
    MIRRORING,
    SHORT,
    UNFIT,
    WAITING,
    StreamEnd,
    StreamEngine,
    StreamForeign,
    StreamLine,
    StreamSettings,
    StreamShort,
    StreamUnavailable,
    StreamUnfit,
    WrongLastSequence,
    fence_home,
    fence_state,
    find_fork,
    open_stream,
    own_chain,
    replica_state,
    run_in_thread,
    segment_starts,
)
from projections.errors import CheckpointMoved, ProjectionStalled
from projections.projection import Checkpoint
from projections.replication.forks import OLDER_STREAM_DO, older_stream_text
from projections.replication.held import held_lines, is_created_again
from projections.replication.mirror_record import MirrorRecorder
from projections.replication.same_log import (
    lost_error,
    others_error,
    require_line_of_log,
    require_lines,
)
from projections.runtime.home_log import entry_at

logger = logging.getLogger(__name__)

# Between two looks at the end of the stream while nothing is published: so late it is noticed that
# the stream was created again, that another home continues it, or that the servers are back.
LOOK_S = 2.0
# A leader that has just been elected may not have applied all that was acknowledged. A stream that
# still ends below that after this time has lost it.
SETTLE_S = 2.0
STOP_GRACE_S = 2.0  # for the batch in progress at a stop; usually it takes milliseconds

Opener = Callable[[StreamSettings], Awaitable[StreamEngine]]


class MirrorProjection:
    """Mirrors one home to one stream."""

    name = MIRROR
    gather_s = 0.0  # lines gather while a publication is in progress

    def __init__(
        self,
        settings: StreamSettings,
        *,
        open_engine: Opener = open_stream,
        look_s: float = LOOK_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._settings = settings
        self._open_engine = open_engine
        self._look_s = look_s
        self._settle_s = settle_s
        self._home = Path()
        self._stop = asyncio.Event()
        self._turn = asyncio.Lock()  # held by the one task that uses the engine
        self._engine: StreamEngine | None = None  # None after an error: it is opened again
        self._at = Checkpoint(projection=MIRROR)  # where the stream ends
        self._segments: list[int] = []  # first seqs, as they were last listed
        self._recorder: MirrorRecorder | None = None

    async def open(self, home: Path) -> Checkpoint:
        """The end of the stream as checkpoint.

        While the servers do not answer, it is what the stream has acknowledged before; `apply` then
        compares it with the stream. Raises StreamUnfit, StreamShort, StreamForeign and, where the
        stream does not hold a part of this log, LogDiverged.
        """
        self._home = home
        self._recorder = MirrorRecorder(home, self._settings.stream)
        self._recorder.start()
        try:
            self._at = await self._opened()
        except BaseException:
            await self.close()
            raise
        return self._at

    async def _opened(self) -> Checkpoint:
        try:
            async with self._using_stream():
                return await self._connect()
        except ProjectionStalled:
            return await run_in_thread(self._acknowledged)

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        """Publishes a batch, and returns when the stream has acknowledged all of it.

        Raises ProjectionStalled where there is no answer, CheckpointMoved where the stream does not
        end at `before`, and what `open` raises.
        """
        async with self._using_stream():
            lines = await self._lines(entries, before, after)
            await self._until_stopped(self._publish(lines, before))
            self._at = after

    async def _lines(
        self, entries: Sequence[Entry], before: Checkpoint, after: Checkpoint
    ) -> list[StreamLine]:
        """The stored lines of a batch, each with the segment that holds it.

        Raises StreamUnfit where damage that an operator accepted left a gap in the log.
        """
        if entries[-1].seq - before.seq != len(entries):
            found = (seq for seq, entry in enumerate(entries, before.seq + 1) if entry.seq != seq)
            raise lost_error(self._home, next(found))
        if before.segment is not None and before.segment == after.segment:
            return [StreamLine(entry.seq, before.segment, entry.line) for entry in entries]
        starts = await run_in_thread(lambda: segment_starts(self._home))
        return [
            StreamLine(entry.seq, starts[bisect_right(starts, entry.seq) - 1], entry.line)
            for entry in entries
        ]

    async def _publish(self, lines: Sequence[StreamLine], before: Checkpoint) -> None:
        engine = self._engine
        if engine is None:
            _require_unmoved(await self._connect(), before)
            engine = self._engine
            assert engine is not None, "it was just opened"
        try:
            await engine.append(lines, lambda seq: self._set_acked(lines[seq - before.seq - 1]))
        except WrongLastSequence as error:
            # The server may have counted a proposal that it never committed: only the end of the
            # stream shows whether another process has appended to it.
            await self._drop()
            _require_unmoved(await self._connect(), before)
            raise StreamUnavailable(error.what, where=error.where, do=error.do) from error

    async def _connect(self) -> Checkpoint:
        """Opens the stream, checks that its lines are those of this log, returns its end."""
        engine = await self._open_engine(self._settings)
        try:
            end = await self._settled_end(engine)
            record = self._recording.record
            held = await held_lines(engine, end, record, self._home)
            try:
                await run_in_thread(lambda: require_lines(self._home, end.seq))
                await self._require_line_of_log(engine, end)
                if held.has_others:
                    raise others_error(record.looked, self._settings.where)
            finally:  # whatever ends the mirror: what the stream has lost is replicated no more
                if held.seq < record.acked:
                    await self._report_lost(held.seq)
        except BaseException:
            await engine.close()
            raise
        self._engine = engine
        self._note_end(end)
        return Checkpoint(projection=MIRROR, seq=end.seq, chain=end.chain)

    async def _require_line_of_log(self, engine: StreamEngine, end: StreamEnd) -> None:
        """Raises LogDiverged unless the stream ends with a line of this log.

        Where another home continued it, this one is fenced first: it takes no more appends.
        """
        home, where = self._home, self._settings.where
        try:
            await run_in_thread(lambda: require_line_of_log(home, end, where))
        except LogDiverged:
            if await run_in_thread(lambda: replica_state(home)) is not None:
                raise
            fork = await find_fork(engine, str(home), end)
            if fork.is_stream_older:
                raise LogDiverged(
                    older_stream_text(fork), where=where, do=OLDER_STREAM_DO
                ) from None
            if not fork.is_left_behind:
                raise
            is_new = await run_in_thread(lambda: fence_state(home)) is None
            fence = await run_in_thread(lambda: fence_home(home, self._settings.name, fork))
            if is_new:
                logger.error("home_fenced home=%s: %s", home, fence.to_text())
            raise LogDiverged(
                f"this home is fenced: {fence.to_text()}",
                where=where,
                do="append to the new primary, and run `eventlog rejoin` on this home",
            ) from None

    async def _settled_end(self, engine: StreamEngine) -> StreamEnd:
        """The end of the stream. Below what it has acknowledged, only if that is no passing state.

        Raises StreamUnavailable while it changes.
        """
        end = await engine.last()
        if end.seq >= self._recording.record.acked:
            return end
        await asyncio.sleep(self._settle_s)
        if (await engine.last()).seq != end.seq:
            raise StreamUnavailable(
                "the stream ends below what it has acknowledged, and grows: it recovers",
                where=self._settings.where,
                do="wait: this is tried again",
            )
        return end

    async def _report_lost(self, held: int) -> None:
        """Notes the loss before the lines are published again: later nothing would show it.

        Raises StreamUnavailable where it cannot be noted.
        """
        acked, home = self._recording.record.acked, str(self._home)
        chain = await run_in_thread(lambda: own_chain(home, held))
        try:
            await self._recording.add_lost(held, chain)
        except (OSError, UnsafePath) as error:
            raise StreamUnavailable(
                f"the stream has lost lines {held + 1} to {acked}, which cannot be noted: {error}",
                where=str(self._home / "data"),
                do="free space on this disk: then the loss is noted, and the lines are published "
                "again",
            ) from error
        logger.error(
            "mirror_lost_acknowledged stream=%s from=%d to=%d: they are no longer replicated",
            self._settings.stream,
            held + 1,
            acked,
        )

    def _set_acked(self, last: StreamLine) -> None:
        self._recording.set_acked(last.seq, StreamEnd(last.seq, last.line).chain)

    def _note_end(self, end: StreamEnd) -> None:
        self._recording.set_acked(end.seq, end.chain)
        self._recording.set_looked(end)
        self._recording.set_state(MIRRORING)

    async def wait_until_lost(self) -> None:
        """Returns when the stream ends elsewhere than at the last line published.

        Raises what `open` raises. It looks while nothing is published, so that a stream that was
        created again is refilled, and one that another home continues is noticed.
        """
        while True:
            await asyncio.sleep(self._look_s)
            with suppress(ProjectionStalled):  # the record shows it
                async with self._using_stream():
                    if not _is_same(await self._look(), self._at):
                        await self._drop()  # so that `apply` compares first
                        return

    async def _look(self) -> Checkpoint:
        if self._engine is None:
            return await self._connect()
        end = await self._engine.last()
        if is_created_again(end, self._recording.record):
            await self._drop()
            return await self._connect()
        found = Checkpoint(projection=MIRROR, seq=end.seq, chain=end.chain)
        if _is_same(found, self._at):  # else nothing shows yet that the lines are those of this log
            self._note_end(end)
        return found

    async def drain(self) -> None:
        """Returns if the stream ends with the last batch. Raises ProjectionStalled if not."""
        async with self._using_stream():
            found = await self._look()
        if not _is_same(found, self._at):
            raise ProjectionStalled(
                f"the stream ends at seq {found.seq}, and was expected to end at {self._at.seq}",
                where=self._settings.where,
                do="run this again: another process may publish to the stream",
            )

    def stop(self) -> None:
        """Ends a publication in progress soon: its lines are published again at the next start."""
        self._stop.set()

    async def status(self) -> Mapping[str, object]:
        """The state; `eventlog status` reads the record of the home instead."""
        record = self._recording.record
        return {"stream": record.stream, "state": record.state, "last_error": record.last_error}

    async def close(self) -> None:
        """Closes the connection, and writes the record."""
        await self._drop()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            await recorder.close()

    @property
    def _recording(self) -> MirrorRecorder:
        assert self._recorder is not None, "it is open"
        return self._recorder

    async def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    @asynccontextmanager
    async def _using_stream(self) -> AsyncIterator[None]:
        """Uses the engine alone. After an error it is closed, and the state notes the error.

        An outage becomes ProjectionStalled.
        """
        async with self._turn:
            try:
                yield
            except BaseException as error:
                await self._drop()
                state = next((state for kind, state in _STATES if isinstance(error, kind)), None)
                if state is not None:
                    self._recording.set_state(state, str(error))
                if isinstance(error, StreamUnfit) and error.replicas is not None:
                    self._recording.set_too_few_replicas(error.replicas)
                if isinstance(error, StreamUnavailable):
                    raise ProjectionStalled(error.what, where=error.where, do=error.do) from error
                raise

    async def _until_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Awaits `work`. Once stopped, it gets STOP_GRACE_S to end, and is cancelled then."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=STOP_GRACE_S)
            if not working.done():
                raise StreamUnavailable(
                    "the stream did not acknowledge the last lines before the stop",
                    where=self._settings.where,
                    do="they are published at the next start",
                )
            working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    def _acknowledged(self) -> Checkpoint:
        """The last line of this log that the stream has acknowledged, by the record."""
        with EventLog(self._home) as log:
            entry = entry_at(log, min(self._recording.record.acked, log.last_seq))
        if entry is None:
            return Checkpoint(projection=MIRROR)
        return Checkpoint(projection=MIRROR, seq=entry.seq, chain=entry.chain)


def _is_same(found: Checkpoint, other: Checkpoint) -> bool:
    return (found.seq, found.chain) == (other.seq, other.chain)


def _require_unmoved(found: Checkpoint, before: Checkpoint) -> None:
    """Raises CheckpointMoved unless the stream ends at `before`."""
    if not _is_same(found, before):
        raise CheckpointMoved(f"the stream ends at seq {found.seq}, not at {before.seq}")


_STATES = (
    (StreamUnavailable, WAITING),
    (StreamUnfit, UNFIT),
    (StreamShort, SHORT),
    (StreamForeign, FENCED),
    (LogDiverged, FENCED),
)
