"""The projection protocol, which third parties implement too, and the checkpoint.

Invariant: a checkpoint changes in the same transaction as the effect of its entries.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from eventlog import Entry


@dataclass(slots=True)
class RequestCounters:
    """Counters of requests to another service."""

    in_flight: int = 0
    by_outcome: Counter[str] = field(default_factory=Counter)


CHAIN_START = "0" * 64  # the chain before the first entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The position up to which a projection has applied the log.

    (seq, chain) identifies a whole prefix of one log, so a checkpoint proves which log it is from.
    """

    projection: str  # its name
    seq: int = 0  # the last entry applied; 0 means none yet
    chain: str = CHAIN_START  # the chain of that entry
    segment: int | None = None  # start of the next line: a hint that is re-checked
    byte_offset: int | None = None


@runtime_checkable
class Drainable(Protocol):
    """A projection whose effect takes longer than `apply`, such as delivery."""

    def stop(self) -> None:
        """The daemon stops: calls that wait must return soon."""

    async def drain(self) -> None:
        """Returns when all applied batches are done; raises when they cannot be now."""

    async def wait_until_lost(self) -> None:
        """Returns when its stored checkpoint is lost, and it must be opened again.

        Raises what ends it between two calls of its other methods.
        """


@runtime_checkable
class Gathering(Protocol):
    """A projection that says how long entries may gather in the log before the next batch.

    Others pause for some milliseconds at a high rate, so that a commit holds more entries.
    """

    gather_s: float  # 0: a batch begins as soon as there is an entry


@runtime_checkable
class RequestMetered(Protocol):
    """A projection that sends requests to another service, such as delivery."""

    requests: RequestCounters


class Projection(Protocol):
    """Derives something from the log. Registered in the entry-point group `eventlog.projections`.

    The registered factory is called without arguments and returns the projection. The daemon calls
    `open` once, then `apply` for each batch in the order of the log, one at a time.
    """

    name: str

    async def open(self, home: Path) -> Checkpoint:
        """Creates its files in `home`/data; returns the stored checkpoint, or a new one.

        It may be called again after CheckpointMoved, and by `eventlog status` beside a daemon.
        """

    async def apply(
        self, entries: "Sequence[Entry]", *, before: Checkpoint, after: Checkpoint
    ) -> None:
        """Applies a batch: stores its effect and `after` in one transaction.

        Raises CheckpointMoved when the stored checkpoint is no longer `before`, and
        ProjectionStalled to get the same batch again later. An entry that it cannot apply must not
        stop it. Seqs ascend; damage that an operator accepted leaves a gap.
        """

    async def status(self) -> Mapping[str, object]:
        """Figures for `eventlog status`: JSON values by name."""

    async def close(self) -> None:
        """Releases what `open` acquired. It is not called twice."""
