"""RemoteLog: the handle through which users append to a log on another machine.

    with eventlog.connect("nats://10.0.0.1:4222", "main") as log:
        receipt = log.append({"symbol": "AAPL", "action": "BUY", ...})

`eventlog serve` answers at the primary. Only its writer stamps lines: seq, recorded_at and chain of
a receipt are its own. All threads and event loops share one connection, which a thread of its own
serves.

Invariant: an entry whose `append` returned is durable at the primary, and was written once.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from itertools import repeat
from types import TracebackType
from typing import NoReturn, Self, cast

from eventlog.append.batch import ALL, EACH, PREFIX, Receipt
from eventlog.errors import EventLogError, InvalidSignal, LogClosed, Unsupported
from eventlog.log import Item, salted, validated
from eventlog.replica.append_client import AppendClient, Opener
from eventlog.replica.append_wire import (
    REQUEST_BYTES_MAX,
    REQUEST_ITEMS_MAX,
    Result,
    item_bytes,
)
from eventlog.replica.batches import batches
from eventlog.replica.opening import open_append_connection, require_client
from eventlog.replica.stream_rules import StreamSettings
from eventlog.schema.validation import ValidatedItem
from eventlog.threads import run_in_thread, starting_thread

TIMEOUT_S_DEFAULT = 30.0  # longer than the restart of a server takes
CLOSE_S_MAX = 5.0  # for the thread to end once all appends have


def connect(
    url: str | Sequence[str],
    stream: str,
    *,
    nkey_file: str | os.PathLike[str] = "",
    creds_file: str | os.PathLike[str] = "",
    ca_file: str | os.PathLike[str] = "",
    timeout_s: float = TIMEOUT_S_DEFAULT,
    salt: bool = False,
) -> "RemoteLog":
    """A handle that appends to the primary of a stream. It connects at the first append.

    `url`: the address of a server of NATS, such as nats://10.0.0.1:4222; several as a list or
    separated by commas. `nkey_file` or `creds_file` is the login, `ca_file` the certificate
    authorities for `tls://`. `timeout_s`: how long an append waits for an answer, and retries.
    `salt`: as of EventLog.

    Raises EventLogError for a setting that cannot be, and Unsupported without the extra `nats`.
    """
    require_client()
    urls = url.split(",") if isinstance(url, str) else url
    settings = StreamSettings(
        name=stream,
        urls=tuple(part.strip() for part in urls if part.strip()),
        nkey_file=os.fspath(nkey_file),
        creds_file=os.fspath(creds_file),
        ca_file=os.fspath(ca_file),
    )
    return RemoteLog(settings, timeout_s=timeout_s, salt=salt)


class RemoteLog:
    """The log of the primary of a stream; see `connect`. Thread-safe.

    Its receipts and errors are those of EventLog. An append without an answer is sent again with
    the same signal_id, which finds the first entry: its receipt then has `duplicate=True`. Two more
    errors can be raised: StreamUnavailable, if for `timeout_s` there was nothing that could answer,
    and nothing was written; StreamRefused, if the server denies this account a login or a request.
    """

    def __init__(
        self,
        settings: StreamSettings,
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        salt: bool = False,
        open_connection: Opener = open_append_connection,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError("timeout_s must be > 0")
        self._settings = settings
        self._timeout_s = timeout_s
        self._validated = salted if salt else validated
        self._client = AppendClient(settings, open_connection)
        self._mutex = threading.Lock()  # held while the thread is started, and to close
        self._closed: str | None = None  # why appends are refused
        self._thread: _ConnectionThread | None = None  # started by the first append
        self._parents_thread: _ConnectionThread | None = None
        self._in_flight: set[Future[Sequence[Result]]] = set()
        _open_logs.add(self)

    def append(self, item: Item, *, timeout_s: float | None = None) -> Receipt:
        """Appends a signal or a fact, and returns when it is durable at the primary.

        Raises what `EventLog.append` raises, and StreamUnavailable and StreamRefused.
        """
        return _receipts(self._start([self._validated(item)], ALL, timeout_s).result())[0]

    def append_many(
        self, items: Iterable[Item], *, timeout_s: float | None = None
    ) -> list[Receipt]:
        """Appends all items in order; see `EventLog.append_many`.

        One call takes at most 1,000 items and 512 KiB, since it is one request: Unsupported is
        raised for more, and nothing is written.
        """
        checked = [self._validated(item) for item in items]
        parts = [*_parts(checked)]
        if not parts:
            return []
        if len(parts) > 1:
            raise Unsupported(
                f"{len(checked):,} items are too many or too long for one request",
                where=self._settings.where,
                do=f"append at most {REQUEST_ITEMS_MAX:,} items and {REQUEST_BYTES_MAX >> 10} KiB"
                " in one call",
            )
        return _receipts(self._start(checked, ALL, timeout_s).result())

    async def append_async(self, item: Item) -> Receipt:
        """`append` for asyncio. Cancelling the await leaves the outcome unknown."""
        future = self._start([self._validated(item)], ALL, None)
        return _receipts(await asyncio.wrap_future(future))[0]

    def append_each(
        self, items: Iterable[Item], *, stop_at_refusal: bool = False
    ) -> list[Receipt | EventLogError]:
        """Appends independent items; returns a receipt or an error for each.

        With `stop_at_refusal` the first error is the last result: the items before it are durable
        and those after it are not written. Many items are several requests. An error that concerns
        all of a request is also the result of the items after it, which are not sent.
        """
        checked: list[ValidatedItem | InvalidSignal] = []
        for item in items:
            try:
                checked.append(self._validated(item))
            except InvalidSignal as error:
                checked.append(error)
                if stop_at_refusal:
                    break
        valid = [each for each in checked if isinstance(each, ValidatedItem)]
        sent = self._send_parts(valid, PREFIX if stop_at_refusal else EACH)
        results: list[Receipt | EventLogError] = []
        for each in checked:
            result = each if isinstance(each, InvalidSignal) else next(sent, None)
            if result is None:
                break  # an item was refused, and those after it were not tried
            results.append(result)
        return results

    def _send_parts(self, items: Sequence[ValidatedItem], policy: str) -> Iterator[Result]:
        for part in _parts(items):
            try:
                results = self._start(part, policy, None).result()
            except LogClosed:
                raise
            except EventLogError as error:
                yield from repeat(error, 1 if policy == PREFIX else len(items))
                return
            yield from results
            if policy == PREFIX and isinstance(results[-1], EventLogError):
                return

    def stop_waiting(self) -> None:
        """Lets appends that wait for a server end at once, and further ones within two seconds.

        One that was sent gets two seconds for its answer. It may be called by a signal handler, as
        `close` may not, and does not close the handle.
        """
        thread = self._thread
        if thread is None:  # the first append starts it
            self._client.is_stopping = True
        else:
            thread.loop.call_soon_threadsafe(self._client.stop_waiting)

    @property
    def epoch(self) -> int:
        """The epoch of the primary that has answered; 0 before the first answer."""
        return self._client.epoch

    def close(self) -> None:
        """Waits for the appends in progress, then closes the connection. Idempotent."""
        _open_logs.discard(self)
        with self._mutex:
            self._closed = self._closed or "this log handle is closed"
            thread, self._thread = self._thread, None
        if thread is not None:
            wait_for_all(self._in_flight.copy())
            thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await run_in_thread(self.close)

    def __repr__(self) -> str:
        state = "open" if self._closed is None else "closed"
        return f"<RemoteLog {self._settings.where!r}, {state}>"

    def __reduce__(self) -> NoReturn:
        """Refuses pickle and copy: the connection stays in its process."""
        raise LogClosed(
            "a log handle cannot be pickled, copied or passed to another process",
            where=self._settings.where,
            do="pass the address, and connect there: eventlog.connect(url, stream)",
        )

    def _start(
        self, items: Sequence[ValidatedItem], policy: str, timeout_s: float | None
    ) -> "Future[Sequence[Result]]":
        """Starts a request. Raises LogClosed, ThreadUnavailable."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with self._mutex:
            if self._closed is not None:
                raise LogClosed(
                    self._closed,
                    where=self._settings.where,
                    do="connect again: eventlog.connect(url, stream)",
                )
            if self._thread is None:
                self._thread = _ConnectionThread(self._client)
            future = asyncio.run_coroutine_threadsafe(
                self._client.append(items, policy, timeout_s), self._thread.loop
            )
            self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return future

    def _after_fork(self) -> None:
        """Refuses appends in a forked child, which has not the thread of the connection."""
        self._mutex = threading.Lock()
        self._closed = "this log handle was opened before the process forked"
        # Kept: a loop that is collected while it runs warns, and its descriptors are the parent's.
        self._parents_thread, self._thread = self._thread, None


class _ConnectionThread:
    """A thread with an event loop, which serves the connection of one handle."""

    def __init__(self, client: AppendClient) -> None:
        self._client = client
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(started)), name="eventlog-remote", daemon=True
        )
        with starting_thread():
            self._thread.start()
        self.loop = started.result()

    async def _run(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._client.close()

    def stop(self) -> None:
        """Closes the connection, and ends the thread."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_S_MAX)


def _parts(items: Sequence[ValidatedItem]) -> Iterator[Sequence[ValidatedItem]]:
    """Cuts items into requests of bounded count and size."""
    return batches(items, item_bytes, count_max=REQUEST_ITEMS_MAX, bytes_max=REQUEST_BYTES_MAX)


def _receipts(results: Sequence[Result]) -> list[Receipt]:
    """The results of a request with the policy ALL. Raises the first error."""
    for result in results:
        if isinstance(result, EventLogError):
            raise result
    return cast("list[Receipt]", list(results))


_open_logs: "weakref.WeakSet[RemoteLog]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log._after_fork()
    _open_logs.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
