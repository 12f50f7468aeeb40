"""EventLog: the handle through which users append to a log and read it.

Invariant: an entry whose `append` returned is durable, and in every later `read`.
"""

import os
import threading
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, cast

from eventlog.append.batch import EACH, PREFIX, AppendRequest, Receipt
from eventlog.append.dedupe import DEDUPE_ENTRIES_DEFAULT
from eventlog.clock import now_recorded, now_stored
from eventlog.errors import EventLogError, InvalidSignal, LogClosed, Unsupported
from eventlog.format.line import Entry
from eventlog.format.segment import SEGMENT_BYTES_DEFAULT, Position
from eventlog.read.existing import require_log
from eventlog.read.lines import decode_lines
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from eventlog.schema.salt import SALT_BYTES, with_salt
from eventlog.schema.signal import Signal
from eventlog.schema.validation import ValidatedItem, validate
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.durable_state import read_durable_end
from eventlog.storage.filesystem import filesystem_type, is_network_filesystem
from eventlog.storage.home import Home, home_at
from eventlog.storage.segment_disk import SegmentDisk

if TYPE_CHECKING:
    from eventlog.append.async_append import AsyncAppenders
    from eventlog.append.group_commit import GroupCommit
    from eventlog.read.watch import LogWatch

LOCK_TIMEOUT_S_DEFAULT = 30.0  # longer than any healthy sync


class Batch(list[Entry]):
    """Consecutive entries, and the position after the last one where it is known."""

    def __init__(self, entries: Iterable[Entry] = (), position: Position | None = None) -> None:
        super().__init__(entries)
        self.position = position


Item = Mapping[str, object] | Signal


class EventLog:
    """One log of signals and of the facts about them.

    Opening takes no lock and creates nothing. The first append creates the home with logs/ and
    data/, and recovers the log where that is needed; each commit takes the writer's lock. Any
    number of processes and threads may append to one home and read it.

    `segment_bytes`: a new segment starts once the active one has reached this size.
    `dedupe_entries`: among how many of the last entries a retry is recognised; all writers of a
    log must use the same number.
    `lock_timeout_s`: how long an append waits for another process before it raises LogLocked.
    `allow_network_fs`: opens a log on a network file system, whose locks and syncs may be
    unreliable.
    `salt`: adds 16 random bytes as the payload key `salt` to each item that has none, so that no
    line can be guessed from a hash that a proof of another one discloses.
    `create`: with False, a home without a log raises LogNotFound, now and at each append.

    Raises ForeignHome for a home of the old tracker, Unsupported, UnsafePath.
    """

    def __init__(
        self,
        home: str | os.PathLike[str],
        *,
        segment_bytes: int = SEGMENT_BYTES_DEFAULT,
        dedupe_entries: int = DEDUPE_ENTRIES_DEFAULT,
        lock_timeout_s: float = LOCK_TIMEOUT_S_DEFAULT,
        allow_network_fs: bool = False,
        create: bool = True,
        salt: bool = False,
        disk: Disk | None = None,
    ) -> None:
        if segment_bytes < 1 or dedupe_entries < 0 or lock_timeout_s < 0:
            raise ValueError("segment_bytes must be > 0, the other limits >= 0")
        self._disk = SegmentDisk(disk or RealDisk())
        self._home = home_at(home)
        self._validated = salted if salt else validated
        if not allow_network_fs:
            _refuse_network_fs(self._home.root)
        if not create:
            require_log(self._disk, self._home)
        # A log that was there and is not any more was moved or removed, and is not created again.
        creates_home = create and not _is_there(self._disk, self._home)
        self._writer_settings = (segment_bytes, dedupe_entries, lock_timeout_s, creates_home)
        self._mutex = threading.Lock()  # held while the committer is built, and to close
        self._committer: GroupCommit | None = None  # built by the first append
        self._async_appenders: AsyncAppenders | None = None
        self._closed: str | None = None  # why appends are refused
        _open_logs.add(self)

    def append(self, item: Item, *, timeout_s: float | None = None) -> Receipt:
        """Appends a signal, or a fact (an item with `event`), and returns when it is durable.

        Thread-safe; concurrent calls share one sync. The same content under the same signal_id,
        within the last `dedupe_entries` entries, writes nothing and returns the first receipt
        with `duplicate=True`.

        Raises InvalidSignal, HashMismatch, EntryTooLarge, SignalConflict (nothing was written);
        AppendFailed, DiskFull (the log is unchanged); LogLocked, LogBusy; LogPoisoned (a sync
        failed: open the log again and retry); AppendTimeout after `timeout_s` seconds (the outcome
        is unknown: retry with the same signal_id); LogCorrupt, LogDiverged (run `eventlog
        verify`).
        """
        request = AppendRequest((self._validated(item),))
        (self._committer or self._build_committer()).run(request, timeout_s)
        return request.receipts()[0]

    def append_many(
        self, items: Iterable[Item], *, timeout_s: float | None = None
    ) -> list[Receipt]:
        """Appends all items in order, in one durable write or, for very many, a few.

        All items are checked before any is written, and one invalid item or conflict refuses the
        call. A crash may leave the first items in the log, never a gap. Raises what `append`
        raises.
        """
        request = AppendRequest([self._validated(item) for item in items])
        if request.items:
            (self._committer or self._build_committer()).run(request, timeout_s)
        return request.receipts()

    def append_each(
        self, items: Iterable[Item], *, stop_at_refusal: bool = False
    ) -> list[Receipt | EventLogError]:
        """Appends independent items together; returns a receipt or an error for each.

        With `stop_at_refusal` the first error is the last result: the items before it are durable
        and those after it are not written. Without it, an error that concerns several items (the
        disk is full) is the result of each of them. Raises LogBusy and LogClosed.
        """
        results: list[Receipt | EventLogError] = []
        checked: list[ValidatedItem] = []
        refused: dict[int, EventLogError] = {}
        for index, item in enumerate(items):
            try:
                checked.append(self._validated(item))
            except InvalidSignal as error:
                refused[index] = error
                if stop_at_refusal:
                    break
        request = AppendRequest(checked, PREFIX if stop_at_refusal else EACH)
        if checked:
            (self._committer or self._build_committer()).run(request)
        settled = iter(request.results)
        for index in range(len(checked) + len(refused)):
            result = refused.get(index) or next(settled) or request.error
            assert result is not None, "a commit settles each item or fails its request"
            results.append(result)
            if stop_at_refusal and isinstance(result, EventLogError):
                break
        return results

    async def append_async(self, item: Item) -> Receipt:
        """`append` for asyncio.

        Shares commits with all other callers, and waits where `append` raises LogBusy. Cancelling
        the await leaves the outcome unknown; a retry with the same signal_id is idempotent.
        """
        if self._async_appenders is None:
            from eventlog.append.async_append import (
                AsyncAppenders,  # asyncio would double the start of every command
            )

            self._async_appenders = AsyncAppenders(self._committer or self._build_committer())
        return await self._async_appenders.for_running_loop().append(self._validated(item))

    def wait_replicated(self, seq: int, *, timeout_s: float | None = None) -> None:
        """Waits until entry `seq`, and each one before it, is replicated: synced by a quorum of
        three or more servers.

        The projection `mirror` must run, in this or another process. Raises WaitTimeout after
        `timeout_s`, whose text says what keeps the entry back, and NotReplicated at once where the
        stream has fewer than three replicas.
        """
        from eventlog.replica.replicated import wait_replicated  # rarely needed

        wait_replicated(self._home.root, seq, timeout_s)

    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yields the durable entries with seq > `after`, in order, up to the current end.

        Includes entries that are appended while it runs. Takes no lock, and holds at most about a
        MiB in memory. A log that does not exist yet has no entries. Raises LogCorrupt at damage,
        after the entries before it.
        """
        if after and after >= self.last_seq:
            return
        with closing(LogReader(self._disk, self._home, after=after)) as reader:
            while (found := reader.read_joined()).lines:
                yield from decode_lines(found)

    async def tail(
        self,
        after: int = 0,
        *,
        hint: Position | None = None,
        on_watch: Callable[[bool], object] | None = None,
        watch: "LogWatch | None" = None,
    ) -> AsyncGenerator[Batch, None]:
        """Yields the durable entries with seq > `after`, in order and in bounded batches, for ever.

        An entry is yielded within milliseconds of becoming durable, or within a second where the
        file system reports no changes. `hint` is the position of an earlier batch that ended with
        `after`; it is checked, and saves a search. `on_watch` is called at least each second
        while no entry comes, with whether file events arrive; without them an entry may be a second
        late. `watch` is shared by several tails of one log in one event loop; without it,
        each has its own. Waits where there is no log yet. To stop, close the iterator
        (`contextlib.aclosing`) or cancel its task. Raises LogCorrupt, LogDiverged.
        """
        from eventlog.read.tail import tail_batches  # imports watchfiles and asyncio

        batches = tail_batches(
            self._disk, self._home, after=after, hint=hint, on_watch=on_watch, watch=watch
        )
        async with aclosing(batches):
            async for found in batches:
                yield Batch(decode_lines(found), found.end)

    @property
    def last_seq(self) -> int:
        """Seq of the last durable entry; 0 where there is none."""
        end = read_durable_end(self._disk, self._home)
        if end is not None:
            return end.seq
        with closing(reader_near_end(self._disk, self._home)) as reader:
            while reader.read():
                pass
            return reader.tip.seq

    @property
    def home(self) -> str:
        """The absolute path of the home."""
        return self._home.root

    @property
    def created(self) -> bool:
        """Whether there was no log, and an append of this handle created it."""
        return self._committer is not None and self._committer.created_log

    def close(self) -> None:
        """Waits for the appends in progress, then writes the watermark. Idempotent."""
        _open_logs.discard(self)
        with self._mutex:
            self._closed = self._closed or "this log handle is closed"
        if self._committer is not None:
            self._committer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "open" if self._closed is None else "closed"
        return f"<EventLog {self._home.root!r}, {state}>"

    def __reduce__(self) -> NoReturn:
        """Refuses pickle and copy: descriptors and locks stay in their process."""
        raise LogClosed(
            "a log handle cannot be pickled, copied or passed to another process",
            where=self._home.root,
            do="pass the path of the home, and open the log there: EventLog(home)",
        )

    def _build_committer(self) -> "GroupCommit":
        """Builds the committer and its writer, for the first append. Raises LogClosed."""
        from eventlog.append.group_commit import GroupCommit, closed_error
        from eventlog.append.segment_writer import WriterSettings
        from eventlog.append.writer import Writer

        with self._mutex:
            if self._closed is not None:
                raise closed_error(self._closed)
            if self._committer is None:
                settings = WriterSettings(*self._writer_settings)
                writer = Writer(self._disk, self._home, now_recorded, settings, os.getpid())
                self._committer = GroupCommit(writer)
            return self._committer

    def _after_fork(self) -> None:
        """Refuses appends in a forked child. Takes no lock: its holder is not in the child."""
        self._mutex = threading.Lock()
        self._closed = "this log handle was opened before the process forked"
        if self._committer is not None:
            self._committer.after_fork(self._closed)


def _is_there(disk: Disk, home: Home) -> bool:
    try:
        return disk.is_dir(home.log_dir)
    except OSError:
        return False  # unknown: the first append meets the same error, and reports it


def _refuse_network_fs(root: str) -> None:
    kind = filesystem_type(root)
    if is_network_filesystem(kind):
        raise Unsupported(
            f"the home is on a network file system ({kind}), whose locks and syncs may not hold",
            where=root,
            do="use a local disk, or pass allow_network_fs=True if you know that they hold here",
        )


def _new_signal_id() -> str:
    if hasattr(uuid, "uuid7"):  # Python 3.14
        return str(uuid.uuid7())
    import uuid_utils

    return str(uuid_utils.uuid7())


def _new_salt() -> str:
    return os.urandom(SALT_BYTES).hex()


validated = partial(validate, now=now_stored, new_id=_new_signal_id)


def salted(item: Item) -> ValidatedItem:
    """What `validated` returns for the item with a salt."""
    return validated(cast("Item", with_salt(item, _new_salt)))


_open_logs: "weakref.WeakSet[EventLog]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log._after_fork()
    _open_logs.clear()


# flock is shared across fork: a child that kept the descriptor would keep a dead parent's lock.
os.register_at_fork(after_in_child=_after_fork_in_child)
