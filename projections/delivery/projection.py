"""The projection that delivers signals to Alpine: at least once, with the hash as idempotency key.

It shares the daemon loop with the others, but its effect takes longer than `apply`: `apply` only
takes a batch over, in memory, and returns. What is stored is a checkpoint below which all is done
(delivered, parked, or no signal), and the seqs above it that are done. The checkpoint that `open`
returns is that one, so after a restart the loop gives the entries above it again, and those that
are done already are passed over. There is one sender a home; a second daemon stands by until the
first one ends.

Invariant: no entry is below the stored checkpoint before Alpine has answered for it, or parked it.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog import Entry
from projections.alpine.client import Alpine, AlpineClient
from projections.alpine.credentials import KeySource
from projections.alpine.metered_client import MeteredClient
from projections.alpine.retry import DeliveryTiming
from projections.delivery.lease import DeliveryLease
from projections.delivery.outbox import DISABLED, NAME, STOPPED, Outbox, outbox_path
from projections.delivery.worker import DeliveryWorker
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint, RequestCounters
from projections.sqlite.file import is_transient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpineConfig:
    """Where Alpine is; `disabled` says why nothing is sent."""

    url: str
    key: KeySource
    disabled: str | None = None


class AlpineProjection:
    """Delivers the signals of one home.

    `make_client` makes what talks to Alpine. `on_failure` is told when delivery ends by an error while
    nobody waits for it; without it the next call of a method raises that error.
    """

    name = NAME

    def __init__(
        self,
        config: AlpineConfig,
        *,
        timing: DeliveryTiming | None = None,
        make_client: Callable[[AlpineConfig], Alpine] | None = None,
        on_failure: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._config = config
        self._timing = timing or DeliveryTiming()
        self._make_client = make_client or (lambda config: AlpineClient(config.url, config.key))
        self._on_failure = on_failure
        self.requests = RequestCounters()
        self._home = Path()
        self._has_warned = False  # that it is disabled
        self._lock: DeliveryLease | None = None
        self._worker: DeliveryWorker | None = None  # None while it is closed, or disabled

    async def open(self, home: Path) -> Checkpoint:
        """The checkpoint below which all is done.

        Raises ProjectionStalled while another daemon sends, or the file cannot be opened for now,
        ProjectionError for a wrong address.
        """
        self._home = home
        if self._config.disabled is not None:
            if not self._has_warned:  # also where it stalls, and is opened again and again
                logger.warning("delivery_disabled reason=%s", self._config.disabled)
            self._has_warned = True
            return self._store_disabled(DISABLED, self._config.disabled)
        lock = DeliveryLease.take(home)
        if lock is None:
            raise ProjectionStalled("another process delivers; this one stands by", where=str(home))
        try:
            outbox = open_outbox(home)
            try:
                client = MeteredClient(self._make_client(self._config), self.requests)
                worker = DeliveryWorker(
                    home, outbox, client, self._config.key, self._timing, self._on_failure
                )
            except BaseException:
                outbox.close()
                raise
        except BaseException:
            lock.release()
            raise
        self._lock, self._worker = lock, worker
        worker.start()
        return worker.ack_tracker.checkpoint

    async def apply(
        self,
        entries: Sequence[Entry],
        *,
        before: Checkpoint,  # noqa: ARG002  # what is stored is what is done, not what was taken
        after: Checkpoint,  # noqa: ARG002
    ) -> None:
        """Takes a batch over, once not too much is undone. See the module's docstring.

        Raises ProjectionStalled where that is so and nothing passes, CheckpointMoved when the file
        was lost. Disabled, it only passes the batch by.
        """
        worker = self._worker
        if worker is None:
            return
        if worker.file_lost.is_set():
            raise CheckpointMoved("what was delivered is not known any more", where=str(self._home))
        if not await worker.wait_for_room():
            raise ProjectionStalled(f"Alpine takes nothing: {worker.description}")
        worker.take(entries)

    async def drain(self) -> None:
        """Returns when all that was taken or asked for is done; ProjectionStalled if it cannot be.

        Disabled, it returns at once: who runs all projections wants the others caught up.
        """
        if self._worker is None:
            return
        left = await self._worker.drain()
        if left:
            raise ProjectionStalled(
                f"{left} signals are not delivered: {self._worker.description}",
                where=self._config.url,
                do="see `eventlog status`; a daemon (`eventlog project alpine`) goes on trying",
            )

    async def wait_until_lost(self) -> None:
        """Returns when the file was deleted or damaged: all is to be given again."""
        never = asyncio.Event()
        await (self._worker.file_lost if self._worker is not None else never).wait()

    def stop(self) -> None:
        """Whatever waits in here returns soon."""
        if self._worker is not None:
            self._worker.stop()

    async def status(self) -> Mapping[str, object]:
        """What the file says; lags are added by `eventlog status`."""
        if self._worker is None:
            return {"state": DISABLED, "last_error": self._config.disabled}
        return self._worker.figures()

    async def close(self) -> None:
        """Ends or abandons what is under way, stores what is done, lets another daemon send."""
        worker, self._worker = self._worker, None
        lock, self._lock = self._lock, None
        try:
            if worker is not None:
                await worker.end()
            else:
                with suppress(ProjectionStalled):  # a full disk: for a word it stops nobody
                    self._store_disabled(STOPPED, None)
        finally:
            if lock is not None:
                lock.release()

    def _store_disabled(self, state: str, reason: str | None) -> Checkpoint:
        """Keeps for `eventlog status` that nothing is sent, unless somebody else sends."""
        lock = DeliveryLease.take(self._home)
        if lock is None:
            return Checkpoint(projection=NAME)
        try:
            outbox = open_outbox(self._home)
            try:
                with suppress(sqlite3.Error):
                    if state == DISABLED or outbox.state().get("state") == DISABLED:
                        outbox.write_state(state=state, last_error=reason)
                return outbox.checkpoint()
            finally:
                outbox.close()
        finally:
            lock.release()


def open_outbox(home: Path) -> Outbox:
    """`data/alpine.db`, made or set up anew where that is needed.

    Raises ProjectionStalled while the disk is full or the like, ProjectionError.
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
            do="make room, or mend the permissions of its directory; "
            "removing the file costs repeated requests, nothing else",
        ) from error
