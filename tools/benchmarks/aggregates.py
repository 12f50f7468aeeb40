"""The peer of B4: an application of eventsourcing that saves each signal as an aggregate.

Invariant: each save is one durable commit: SQLite in WAL mode with synchronous=FULL.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.sqlite import SQLiteFactory

from tools.benchmarks.producers import in_one_thread
from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import SignalDict, Signals, Value, sha256_of

SYNCHRONOUS_FULL = 2


class SignalAggregate(Aggregate):
    """An aggregate whose only event is that the signal was made."""

    def __init__(self, signal_id: str, fields: dict[str, Value]) -> None:
        self.signal_id = signal_id
        self.fields = fields

    @staticmethod
    def create_id(signal_id: str) -> UUID:
        """Return the id of the aggregate: the 16 digits of the signal's id, twice."""
        return UUID(hex=signal_id * 2)


class SavedAggregates:
    """`Application.save` of one new aggregate at a time, in one thread."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self._signals = Signals(seed)
        # Its default for SQLite is a file in WAL mode with synchronous=FULL, as checked below.
        self._application: Application[UUID] = Application(
            {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        )
        assert isinstance(self._application.factory, SQLiteFactory)
        with self._application.factory.datastore.transaction(commit=False) as cursor:
            found = []
            for setting in ("journal_mode", "synchronous"):
                cursor.execute(f"PRAGMA {setting}")
                found.append(cursor.fetchone()[0])
        if found != ["wal", SYNCHRONOUS_FULL]:
            raise NotMeasured(f"SQLite is not durable in {path}: {found}; use --dir")

    def work(self, count: int) -> float:
        aggregates = [_aggregate(signal) for signal in self._signals.take(count)]
        return in_one_thread(self._application.save, aggregates)

    def append(self, signal: SignalDict) -> None:
        """Saves a signal that is not an aggregate yet; threads may call it at once."""
        self._application.save(_aggregate(signal))

    def close(self) -> None:
        self._application.close()


def _aggregate(signal: SignalDict) -> SignalAggregate:
    return SignalAggregate(str(signal["signal_id"]), {**signal, "sha256": sha256_of(signal)})
