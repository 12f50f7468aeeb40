"""SignalTracker: the interface of the old tracker on top of the log.

Code written for the old tracker changes one import. A logged signal is durable when the call
returns; there is no queue to flush. `flush_pending` and the queries first bring the table up to
date in this process, so a caller reads its own writes with or without a daemon. Where an older
version made the table, they raise SchemaTooOld, and logging goes on.

Invariant: a returned signal_id names a durable entry of the log.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from eventlog import EventLog
from eventlog.plumbing import starting_thread, unquote
from projections.errors import ProjectionError
from projections.legacy.times import parsed_time
from projections.queries.store import SignalStore
from projections.runtime.projector import Projector
from projections.sqlite.projection import SqliteProjection

T = TypeVar("T")

LATEST_KEYS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "timestamp", "outcome", "profit_loss_pct"),
)
OPTIONAL_KEYS = ("signal_id", "asset_type", "data_source", "timestamp")  # None means left out
EMPTY_STATS: Mapping[str, object] = {
    "total_signals": 0,
    "wins": 0,
    "losses": 0,
    "win_rate": 0.0,
    "average_return": 0.0,
    "last_updated": None,
}


class SignalTracker:
    """Logs signals and queries them, from threads and from asyncio.

    `home` is the directory of log and database; default: EVENTLOG_HOME, else the current directory.
    Raises ForeignHome for a home of the old tracker; import its signals with
    `eventlog import-legacy`.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = Path(home or unquote(os.environ.get("EVENTLOG_HOME", "")) or ".").absolute()
        self._log = EventLog(self._home)
        self._projection = SqliteProjection(replace_older=False)
        self._loop_thread = _LoopThread()

    def log_signal(self, signal: Mapping[str, object]) -> str:
        """Appends a signal and returns its signal_id once it is durable.

        As in the old tracker, a timestamp without an offset is UTC, and signal_id, asset_type,
        data_source and timestamp may be missing. Raises InvalidSignal, SignalConflict and the other
        errors of `EventLog.append`.
        """
        signal_id = self._log.append(_normalized(signal)).signal_id
        assert signal_id is not None, "every signal has one"
        return signal_id

    async def log_signal_async(self, signal: Mapping[str, object]) -> str:
        """`log_signal` for asyncio; concurrent calls share one sync."""
        receipt = await self._log.append_async(_normalized(signal))
        assert receipt.signal_id is not None, "every signal has one"
        return receipt.signal_id

    def flush_pending(self) -> None:
        """Brings the table up to the end of the log. Logged signals are durable without it."""
        self._loop_thread.run(self._catch_up)

    async def flush_pending_async(self) -> None:
        """`flush_pending` for asyncio."""
        await self._loop_thread.run_async(self._catch_up)

    def get_latest_signals(
        self, symbol: str | None = None, limit: int = 10
    ) -> list[dict[str, object]]:
        """The newest signals, newest first, as dicts with the keys of LATEST_KEYS."""
        return self._loop_thread.run(lambda: self._latest(symbol, limit))

    def get_stats(self) -> dict[str, object]:
        """Totals, wins, losses and returns, as the old tracker counted them."""
        return self._loop_thread.run(self._stats)

    def close(self) -> None:
        """Releases all resources. Logged signals are durable already. Idempotent."""
        self._log.close()
        self._loop_thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _catch_up(self) -> bool:
        """Brings the table up to date. Returns False if the log is empty."""
        if self._log.last_seq == 0:
            return False
        await Projector(self._home, self._projection).run(once=True)
        return True

    async def _latest(self, symbol: str | None, limit: int) -> list[dict[str, object]]:
        if not await self._catch_up():
            return []
        async with SignalStore(self._home) as store:
            rows = await store.latest(symbol, limit)
        return [{key: row[key] for key in LATEST_KEYS} for row in rows]

    async def _stats(self) -> dict[str, object]:
        if not await self._catch_up():
            return dict(EMPTY_STATS)
        async with SignalStore(self._home) as store:
            return await store.totals()


class _LoopThread:
    """An event loop in its own daemon thread that runs one job at a time.

    A ThreadPoolExecutor would refuse jobs of other threads once the main thread has ended.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._job_lock = asyncio.Lock()

    def run(self, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the job and returns its result; blocks the calling thread."""
        return self._submit(job).result()

    async def run_async(self, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the job and returns its result."""
        return await asyncio.wrap_future(self._submit(job))

    def close(self) -> None:
        """Ends the thread after the jobs that were submitted before."""
        with self._mutex:
            loop, self._loop = self._loop, None
            if loop is None or self._thread is None or self._pid != os.getpid():
                return
            asyncio.run_coroutine_threadsafe(
                _run_locked(self._job_lock, _do_nothing), loop
            ).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def _submit(self, job: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        if self._pid != os.getpid():
            raise ProjectionError(
                "this SignalTracker was created before the process forked",
                do="create one in the process that uses it",
            )
        with self._mutex:
            if self._loop is None:
                self._loop, self._job_lock = asyncio.new_event_loop(), asyncio.Lock()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._loop,), name="signal-tracker", daemon=True
                )
                with starting_thread():
                    self._thread.start()
            return asyncio.run_coroutine_threadsafe(_run_locked(self._job_lock, job), self._loop)


async def _run_locked(lock: asyncio.Lock, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async with lock:
        return await job()


async def _do_nothing() -> None:
    """A job that runs after all jobs submitted before it."""


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _normalized(signal: Mapping[str, object]) -> dict[str, object]:
    """The signal in the form that `append` accepts.

    Text that `datetime.fromisoformat` accepts is a time, cut to microseconds; without an offset it
    is UTC.
    """
    fields = {
        key: value for key, value in signal.items() if value is not None or key not in OPTIONAL_KEYS
    }
    timestamp = fields.get("timestamp")
    if isinstance(timestamp, str):
        fields["timestamp"] = parsed_time(timestamp) or timestamp
    elif isinstance(timestamp, datetime) and timestamp.tzinfo is None:
        fields["timestamp"] = timestamp.replace(tzinfo=UTC)
    return fields
