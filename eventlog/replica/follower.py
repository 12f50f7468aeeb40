"""Follows a stream: keeps a replica up to date through lost connections and other servers.

Each time the stream is opened, its line at the end of the replica is compared first. Lines that the
replica has are passed over, since a consumer whose server died begins again at its start; a gap, a
silence or a lost connection opens the stream anew after the last durable line. Only a line that is
the next one by its sequence is judged by its chain.

Invariant: a replica holds a prefix of one log, byte for byte; a stream that does not continue it
ends the run with LogDiverged.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from eventlog.errors import AppendFailed, EventLogError, LogDiverged, LogLocked
from eventlog.format.scan import Tip
from eventlog.replica.batches import batches
from eventlog.replica.engine import (
    StreamEnd,
    StreamEngine,
    StreamLine,
    StreamUnavailable,
    StreamUnfit,
    WrongLastSequence,
    line_bytes,
)
from eventlog.replica.fork import own_chain, state_of_log
from eventlog.replica.replica_log import ReplicaLog
from eventlog.threads import is_shortage, run_in_thread, uncancelled

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0  # between two tries: a new leader is there within seconds
ONCE_WAIT_S_MAX = 10.0  # without progress; then a run that is to end gives up
# Of one write, for which a stop waits. A backlog in few writes: each one takes turns with the loop
# that receives lines, and waits for it some milliseconds.
WRITE_LINES_MAX, WRITE_BYTES_MAX = 2000, 8 << 20
WATERMARK_AFTER_S = 0.8  # the watermark is durable within a second of the last line

FOLLOWING, WAITING = "following", "waiting"

# The stream or the disk may be back at the next try.
_PASSING = (StreamUnavailable, StreamUnfit, WrongLastSequence, AppendFailed, LogLocked)


class Follower:
    """Follows one stream into one home. `on_change` is called when a figure changes."""

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[StreamEngine]],
        log: ReplicaLog,
        *,
        stream: str,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._open_stream = open_stream
        self._log = log
        self._stream = stream
        self._on_change = on_change
        self.state = WAITING
        self.reason: str | None = None  # why it waits
        self.stream_seq = 0  # the last seq that the stream is known to hold
        self.checkpoint = 0  # the last seq that is durable here
        self.resets = 0  # how often the stream was opened anew
        self.write_started_s: float | None = None  # of time.monotonic, while it writes
        self._progress_s = 0.0
        self._watermark_s = 0.0  # when it was last written, or not due
        self._waits_since_s: float | None = None
        self._waits_for_disk = False  # until a write succeeds, also where the stream is open

    def __str__(self) -> str:
        """One line of status."""
        if self.state == WAITING:
            return f"waiting at seq {self.checkpoint}: {self.reason or 'not connected yet'}"
        return f"following at seq {self.checkpoint}, lag {self.lag_entries}"

    @property
    def is_following(self) -> bool:
        """Whether the stream is open, and nothing is waited for but its lines."""
        return self.state == FOLLOWING

    @property
    def lag_entries(self) -> int:
        """How many entries the stream is known to hold that the replica does not."""
        return max(0, self.stream_seq - self.checkpoint)

    async def run(self, stop: asyncio.Event, *, once: bool = False) -> None:
        """Follows until `stop` is set; with `once` until the end that the stream has now.

        Waits while the stream or the disk is not available; with `once` for a few seconds only.
        Raises LogDiverged where the stream holds another log, StreamShort where lines are missing
        from it, LogCorrupt and LogPoisoned.
        """
        self._progress_s = time.monotonic()
        delay_s = RETRY_S_MIN
        try:
            while not stop.is_set():
                checkpoint = self.checkpoint
                try:
                    await self._follow(stop, once=once)
                    return
                except (EventLogError, OSError) as error:
                    if not (isinstance(error, _PASSING) or is_shortage(error)):
                        raise
                    if once and time.monotonic() - self._progress_s > ONCE_WAIT_S_MAX:
                        raise
                    self._wait_because(error)
                delay_s = RETRY_S_MIN if self.checkpoint > checkpoint else delay_s
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), delay_s)
                delay_s = min(2 * delay_s, RETRY_S_MAX)
        finally:
            await in_thread(self._log.close)

    async def _follow(self, stop: asyncio.Event, *, once: bool) -> None:
        engine = await self._open_stream()
        try:
            end = await engine.last()
            tip = await self._begin(engine, end)
            self.stream_seq, self.checkpoint = end.seq, tip.seq
            if not self._waits_for_disk or tip.seq >= end.seq:
                self._goes_on()
            if once and tip.seq >= end.seq:
                return
            try:
                await self._copy(engine, stop, until=end.seq if once else None)
            finally:
                await in_thread(self._log.flush_watermark)
        finally:
            await engine.close()

    async def _begin(self, engine: StreamEngine, end: StreamEnd) -> Tip:
        """Compares the log with the stream, and makes the home a replica where it is none yet."""
        tip = await in_thread(self._log.catch_up)
        await self._check_same(engine, end, tip)
        if await in_thread(lambda: self._log.state) is None:
            state = await in_thread(lambda: state_of_log(self._log.home, self._stream, tip.seq))
            await in_thread(lambda: self._log.begin(state, tip))
        return tip

    async def _check_same(self, engine: StreamEngine, end: StreamEnd, tip: Tip) -> None:
        """Compares the newest line that both have. Raises LogDiverged, StreamUnavailable."""
        if 0 < tip.seq <= end.seq:
            known = end if end.seq == tip.seq else StreamEnd(tip.seq, await engine.line(tip.seq))
            if known.chain != tip.chain:
                raise self._diverged_error(tip.seq)
        elif end.seq < tip.seq:
            own = await in_thread(lambda: own_chain(self._log.home, end.seq))
            if end.chain != own:
                raise self._diverged_error(end.seq)
            raise StreamUnavailable(
                f"the stream ends at seq {end.seq}, before this replica, which has {tip.seq}",
                where=self._log.home,
                do="wait: the primary's mirror fills it again",
            )

    def _diverged_error(self, seq: int) -> LogDiverged:
        return LogDiverged(
            f"at seq {seq} the stream holds another line than this replica",
            where=self._log.home,
            do="nothing was written: find out which log the stream holds, and follow it with a new "
            "home",
        )

    async def _copy(self, engine: StreamEngine, stop: asyncio.Event, *, until: int | None) -> None:
        """Writes the lines of the stream as they come; returns at `until` or when stopped."""
        stopping = asyncio.ensure_future(stop.wait())
        async with aclosing(engine.follow(self.checkpoint)) as batches:
            try:
                while not stop.is_set() and (until is None or self.checkpoint < until):
                    coming = asyncio.ensure_future(anext(batches))
                    try:
                        await self._wait_for({coming, stopping})
                        if not coming.done():
                            return
                        await self._write(coming.result(), stop)
                    finally:
                        if not coming.done():
                            coming.cancel()
                            with suppress(asyncio.CancelledError, EventLogError):
                                await coming
            finally:
                stopping.cancel()

    async def _wait_for(self, waited: set[asyncio.Future[Any]]) -> None:
        """Waits for one of these, and writes the watermark meanwhile."""
        while True:
            timeout_s = WATERMARK_AFTER_S if self._log.needs_watermark else None
            done, _ = await asyncio.wait(
                waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
            await self._flush_watermark()

    async def _write(self, lines: Sequence[StreamLine], stop: asyncio.Event) -> None:
        """Writes the lines that are new, in parts between which it can be stopped."""
        new = [line for line in lines if line.seq > self.checkpoint]
        for seq, line in enumerate(new, start=self.checkpoint + 1):
            if line.seq != seq:
                raise StreamUnavailable(
                    f"line {line.seq} came where {seq} is next",
                    where=self._log.home,
                    do="wait: the stream is read again from the last line",
                )
        for part in batches(new, line_bytes, count_max=WRITE_LINES_MAX, bytes_max=WRITE_BYTES_MAX):
            if stop.is_set():
                return
            self.stream_seq = max(self.stream_seq, new[-1].seq)
            self.write_started_s = time.monotonic()
            try:
                await in_thread(lambda part=part: self._log.write(part))  # type: ignore[misc]
            finally:
                self.write_started_s = None
                self.checkpoint = self._log.tip.seq
            if self._waits_for_disk:
                self._goes_on()
            self._progress_s = time.monotonic()
            if self._progress_s - self._watermark_s > WATERMARK_AFTER_S:
                await self._flush_watermark()
            self._on_change()

    async def _flush_watermark(self) -> None:
        await in_thread(self._log.flush_watermark)
        self._watermark_s = time.monotonic()

    # -- what it says

    def _wait_because(self, error: Exception) -> None:
        """Notes why it waits; the log says so at the start and at the end of a wait."""
        self.resets += self.state == FOLLOWING
        self.state, self.reason = WAITING, str(error)
        self._waits_for_disk = isinstance(error, AppendFailed)
        if self._waits_since_s is None:
            self._waits_since_s = time.monotonic()
            logger.warning("follow_waits seq=%d reason=%s", self.checkpoint, error)
        self._on_change()

    def _goes_on(self) -> None:
        self.state, self.reason, self._waits_for_disk = FOLLOWING, None, False
        if self._waits_since_s is not None:
            waited_s = time.monotonic() - self._waits_since_s
            self._waits_since_s = None
            logger.warning("follow_goes_on seq=%d waited_s=%.1f", self.checkpoint, waited_s)
        self._on_change()


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, run in a new thread.

    Also when the run is cancelled, the log is used by one thread at a time.
    """
    return await uncancelled(run_in_thread(work))
