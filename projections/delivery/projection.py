"""The projection that delivers signals to Alpine: at least once, with the hash as idempotency key.

It shares the daemon loop with the other projections, but its effect takes longer than `apply`,
which only queues a batch in memory. The outbox stores a checkpoint up to which all entries are done
(delivered, parked, or no signal), and the seqs of those done above it. `open` returns that
checkpoint, so after a restart the loop gives the entries above it again, and those that are done
are skipped. One process delivers for a home; a second daemon stands by until the first one ends.

Invariant: an entry at or below the stored checkpoint is delivered, parked, or no signal.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog import Entry
from eventlog.plumbing import count_text
from projections.alpine.client import Alpine, AlpineClient
from projections.alpine.credentials import KeySource
from projections.alpine.metered_client import MeteredClient
from projections.alpine.retry import DeliveryTiming
from projections.delivery.lease import DeliveryLease, holder, lock_path
from projections.delivery.outbox import DISABLED, NAME, STOPPED, Outbox, outbox_path
from projections.delivery.worker import DeliveryWorker
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint, RequestCounters
from projections.sqlite.file import is_transient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpineConfig:
    """Address and key of Alpine; `disabled` is the reason why nothing is sent."""

    url: str
    key: KeySource
    disabled: str | None = None
    is_refused: bool = False  # the reason is a mistake, and delivery must not start

    def require_valid(self) -> None:
        """Raises ProjectionError if a setting is refused."""
        if self.is_refused:
            raise ProjectionError(
                f"delivery does not start: {self.disabled}",
                do="set the variable to true or false, or unset it",
            )


class AlpineProjection:
    """Delivers the signals of one home.

    `make_client` builds the client. Delivery may end with an error between two calls of a method:
    `wait_until_lost` raises it, and so does the next call.
    """

    name = NAME

    def __init__(
        self,
        config: AlpineConfig,
        *,
        timing: DeliveryTiming | None = None,
        make_client: Callable[[AlpineConfig], Alpine] | None = None,
    ) -> None:
        self._config = config
        self._timing = timing or DeliveryTiming()
        self._make_client = make_client or (lambda config: AlpineClient(config.url, config.key))
        self.requests = RequestCounters()
        self._home = Path()
        self._has_warned = False  # that delivery is disabled
        self._lock: DeliveryLease | None = None
        self._worker: DeliveryWorker | None = None  # None while closed or disabled

    async def open(self, home: Path) -> Checkpoint:
        """Starts delivery, and returns the checkpoint up to which all entries are done.

        Raises ProjectionStalled while another daemon delivers or the outbox cannot be opened for
        now, ProjectionError for a wrong address or setting.
        """
        self._home = home
        self._config.require_valid()
        if self._config.disabled is not None:
            if not self._has_warned:  # once, even if it is opened again and again
                logger.warning("delivery_disabled reason=%s", self._config.disabled)
            self._has_warned = True
            return self._store_disabled(DISABLED, self._config.disabled)
        lock = DeliveryLease.take(home)
        if lock is None:
            raise ProjectionStalled(
                f"another process delivers ({holder(home)}); this one stands by",
                where=str(lock_path(home)),
                do="stop that process first, or let it deliver: a daemon takes over when it ends",
            )
        with ExitStack() as undo:
            undo.callback(lock.release)
            outbox = open_outbox(home)
            undo.callback(outbox.close)
            client = MeteredClient(self._make_client(self._config), self.requests)
            worker = DeliveryWorker(home, outbox, client, self._config.key, self._timing)
            undo.pop_all()  # from here on `close` does it
        self._lock, self._worker = lock, worker
        worker.start()
        return worker.ack_tracker.checkpoint

    async def apply(
        self,
        entries: Sequence[Entry],
        *,
        before: Checkpoint,  # noqa: ARG002  # stored is what is done, not what was taken
        after: Checkpoint,  # noqa: ARG002
    ) -> None:
        """Queues a batch, once the backlog has room. While disabled, it skips the batch.

        Raises ProjectionStalled when the backlog is full and the circuit is open, CheckpointMoved
        when the outbox was lost.
        """
        worker = self._worker
        if worker is None:
            return
        if worker.file_lost.is_set():
            raise CheckpointMoved("the delivery state was lost", where=str(self._home))
        if not await worker.wait_for_room():
            raise ProjectionStalled(f"Alpine takes nothing: {worker.description}")
        worker.take(entries)

    async def drain(self) -> None:
        """Returns when all batches and operator requests are done. While disabled, at once.

        Raises ProjectionStalled when the circuit is open and signals are left.
        """
        if self._worker is None:
            return
        left = await self._worker.drain()
        if left:
            raise ProjectionStalled(
                f"{count_text(left, 'signal')} {'is' if left == 1 else 'are'} not delivered:"
                f" {self._worker.description}",
                where=self._config.url,
                do="see `eventlog status`; a daemon (`eventlog project alpine`) goes on trying",
            )

    async def wait_until_lost(self) -> None:
        """Returns when the outbox was deleted or damaged, and all entries must be given again.

        Raises the error that ended delivery.
        """
        if self._worker is not None:
            await self._worker.wait_until_lost()
        else:
            await asyncio.Event().wait()  # nothing is delivered, and nothing can be lost

    def stop(self) -> None:
        """Ends sending; calls that wait return soon."""
        if self._worker is not None:
            self._worker.stop()

    async def status(self) -> Mapping[str, object]:
        """The figures of the outbox; `eventlog status` adds the lags."""
        if self._worker is None:
            return {"state": DISABLED, "last_error": self._config.disabled}
        return self._worker.figures()

    async def close(self) -> None:
        """Ends or abandons requests in flight, stores outcomes, releases the lease."""
        worker, self._worker = self._worker, None
        lock, self._lock = self._lock, None
        try:
            if worker is not None:
                await worker.end()
            else:
                # Neither a full disk nor a home that was moved fails the close.
                with suppress(ProjectionError):
                    if outbox_path(self._home).exists():
                        self._store_disabled(STOPPED, None)
        finally:
            if lock is not None:
                lock.release()

    def _store_disabled(self, state: str, reason: str | None) -> Checkpoint:
        """Stores for `eventlog status` that nothing is sent, unless another process delivers."""
        lock = DeliveryLease.take(self._home)
        if lock is None:
            return Checkpoint(projection=NAME)
        try:
            with closing(open_outbox(self._home)) as outbox:
                with suppress(sqlite3.Error):
                    if state == DISABLED or outbox.state().get("state") == DISABLED:
                        outbox.write_state(state=state, last_error=reason)
                return outbox.checkpoint()
        finally:
            lock.release()


def open_outbox(home: Path) -> Outbox:
    """Opens `data/alpine.db`, and creates it if it is missing or damaged.

    Raises ProjectionStalled for a passing reason such as a full disk, else ProjectionError.
    """
    path = outbox_path(home)
    try:
        return Outbox.open(path)
    except (sqlite3.Error, OSError) as error:
        is_passing = isinstance(error, sqlite3.Error) and is_transient(error)
        kind = ProjectionStalled if is_passing else ProjectionError
        raise kind(
            f"the delivery state cannot be opened: {error}",
            where=str(path),
            do="free some space, or fix the permissions of its directory; "
            "deleting the file costs repeated requests, nothing else",
        ) from error
