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
from projections.alpine.metered_client import Counted
from projections.alpine.retry import Timing
from projections.delivery.lease import SenderLock
from projections.delivery.outbox import DISABLED, NAME, STOPPED, Outbox, outbox_path
from projections.delivery.worker import Shift
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.projection import Checkpoint, Requests
from projections.sqlite.file import may_pass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpineConfig:
    """Where Alpine is; `disabled` says why nothing is sent."""

    url: str
    key: KeySource
    disabled: str | None = None


class AlpineProjection:
    """Delivers the signals of one home.

    `make_client` makes what talks to Alpine. `died` is told when delivery ends by an error while
    nobody waits for it; without it the next call of a method raises that error.
    """

    name = NAME

    def __init__(
        self,
        config: AlpineConfig,
        *,
        timing: Timing | None = None,
        make_client: Callable[[AlpineConfig], Alpine] | None = None,
        died: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._config = config
        self._timing = timing or Timing()
        self._make_client = make_client or (lambda config: AlpineClient(config.url, config.key))
        self._died = died
        self.requests = Requests()
        self._home = Path()
        self._has_warned = False  # that it is disabled
        self._lock: SenderLock | None = None
        self._shift: Shift | None = None  # None while it is closed, or disabled

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
            return self._tell_disabled(DISABLED, self._config.disabled)
        lock = SenderLock.take(home)
        if lock is None:
            raise ProjectionStalled("another process delivers; this one stands by", where=str(home))
        try:
            outbox = open_outbox(home)
            try:
                client = Counted(self._make_client(self._config), self.requests)
                shift = Shift(home, outbox, client, self._config.key, self._timing, self._died)
            except BaseException:
                outbox.close()
                raise
        except BaseException:
            lock.release()
            raise
        self._lock, self._shift = lock, shift
        shift.start()
        return shift.ledger.checkpoint

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
        shift = self._shift
        if shift is None:
            return
        if shift.file_lost.is_set():
            raise CheckpointMoved("what was delivered is not known any more", where=str(self._home))
        if not await shift.is_there_room():
            raise ProjectionStalled(f"Alpine takes nothing: {shift.described}")
        shift.take(entries)

    async def drain(self) -> None:
        """Returns when all that was taken or asked for is done; ProjectionStalled if it cannot be.

        Disabled, it returns at once: who runs all projections wants the others caught up.
        """
        if self._shift is None:
            return
        left = await self._shift.drain()
        if left:
            raise ProjectionStalled(
                f"{left} signals are not delivered: {self._shift.described}",
                where=self._config.url,
                do="see `eventlog status`; a daemon (`eventlog project alpine`) goes on trying",
            )

    async def lost(self) -> None:
        """Returns when the file was deleted or damaged: all is to be given again."""
        never = asyncio.Event()
        await (self._shift.file_lost if self._shift is not None else never).wait()

    def stop(self) -> None:
        """Whatever waits in here returns soon."""
        if self._shift is not None:
            self._shift.stop()

    async def status(self) -> Mapping[str, object]:
        """What the file says; lags are added by `eventlog status`."""
        if self._shift is None:
            return {"state": DISABLED, "last_error": self._config.disabled}
        return self._shift.figures()

    async def close(self) -> None:
        """Ends or abandons what is under way, stores what is done, lets another daemon send."""
        shift, self._shift = self._shift, None
        lock, self._lock = self._lock, None
        try:
            if shift is not None:
                await shift.end()
            else:
                with suppress(ProjectionStalled):  # a full disk: for a word it stops nobody
                    self._tell_disabled(STOPPED, None)
        finally:
            if lock is not None:
                lock.release()

    def _tell_disabled(self, state: str, reason: str | None) -> Checkpoint:
        """Keeps for `eventlog status` that nothing is sent, unless somebody else sends."""
        lock = SenderLock.take(self._home)
        if lock is None:
            return Checkpoint(projection=NAME)
        try:
            outbox = open_outbox(self._home)
            try:
                with suppress(sqlite3.Error):
                    if state == DISABLED or outbox.state().get("state") == DISABLED:
                        outbox.say(state=state, last_error=reason)
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
        is_passing = isinstance(error, sqlite3.Error) and may_pass(error)
        kind = ProjectionStalled if is_passing else ProjectionError
        raise kind(
            f"the delivery state cannot be opened: {error}",
            where=str(path),
            do="make room, or mend the permissions of its directory; "
            "removing the file costs repeated requests, nothing else",
        ) from error
