"""A snapshot of the log and of the projections of one daemon, for /health and /metrics.

Invariant: a lag is measured against the real end of the log, read from its files, and never against
the end that a tail has seen.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eventlog import EventLogError
from eventlog.plumbing import log_status, run_in_thread
from projections.delivery.outbox import NAME as ALPINE
from projections.monitoring.drill_record import last_drill
from projections.monitoring.status import alpine_status, lag
from projections.projection import Drainable, RequestCounters, RequestMetered
from projections.runtime.projector import BatchCounters, Projector


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSnapshot:
    """The log on disk."""

    last_seq: int
    bytes: int
    segments: int
    backup_age_seconds: float | None = None  # since the last successful restore drill


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySnapshot:
    """The state in `data/alpine.db`, whichever process delivers, and this process's requests."""

    delivered: int
    refused: int  # parked signals of each kind
    failing: int
    state: str
    requests: RequestCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSnapshot:
    """One projection. None means not known (yet)."""

    name: str
    checkpoint: int | None
    lag_entries: int | None
    lag_seconds: float | None
    is_watched: bool | None  # whether it gets file events for new entries
    stalled: str | None  # why the last attempt at a batch failed
    is_external: bool  # it depends on an external service: see Drainable
    is_stopping: bool
    has_failed: bool
    counters: BatchCounters
    delivery: DeliverySnapshot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The log and its projections. If the log could not be read, `problem` says why."""

    log: LogSnapshot | None
    problem: str | None
    projections: tuple[ProjectionSnapshot, ...]


async def take_snapshot(home: Path, projectors: Sequence[Projector]) -> Snapshot:
    """Takes a snapshot. Files are read in a thread."""
    # Checkpoints are read before the log, so that an entry appended meanwhile counts as lag and the
    # lag is never negative.
    seqs = {p.projection.name: p.checkpoint.seq if p.checkpoint else None for p in projectors}
    log, problem, figures = await run_in_thread(lambda: _read(home, seqs))
    projections = tuple(
        _projection_snapshot(p, seqs, figures.get(p.projection.name, {})) for p in projectors
    )
    return Snapshot(log=log, problem=problem, projections=projections)


def _projection_snapshot(
    projector: Projector, seqs: Mapping[str, int | None], figures: Mapping[str, object]
) -> ProjectionSnapshot:
    projection = projector.projection
    name = projection.name
    return ProjectionSnapshot(
        name=name,
        checkpoint=_int(figures.get("checkpoint", seqs[name])),
        lag_entries=_int(figures.get("lag_entries")),
        lag_seconds=_float(figures.get("lag_seconds")),
        is_watched=projector.is_watched,
        stalled=projector.stalled,
        is_external=isinstance(projection, Drainable),
        is_stopping=projector.is_stopping,
        has_failed=projector.has_failed,
        counters=projector.counters,
        delivery=_delivery_snapshot(projection, figures)
        if figures.get("delivered") is not None
        else None,
    )


def _delivery_snapshot(projection: object, figures: Mapping[str, object]) -> DeliverySnapshot:
    parked, failing = _int(figures["parked"]) or 0, _int(figures["failing"]) or 0
    return DeliverySnapshot(
        delivered=_int(figures["delivered"]) or 0,
        refused=parked - failing,
        failing=failing,
        state=str(figures["state"]),
        requests=projection.requests
        if isinstance(projection, RequestMetered)
        else RequestCounters(),
    )


def _read(
    home: Path, seqs: Mapping[str, int | None]
) -> tuple[LogSnapshot | None, str | None, dict[str, Mapping[str, object]]]:
    figures: dict[str, Mapping[str, object]] = {}
    try:
        for name, seq in seqs.items():
            if name == ALPINE:  # its checkpoint in memory covers signals that are still in flight
                figures[name] = alpine_status(home)
            elif seq is not None:
                figures[name] = lag(home, seq)
        found = log_status(os.fspath(home), count=False)
    except (EventLogError, OSError, sqlite3.Error) as error:
        return None, str(error), figures
    last_seq, size, segments = (_int(found[key]) for key in ("last_seq", "bytes", "segments"))
    log = LogSnapshot(
        last_seq=last_seq or 0,
        bytes=size or 0,
        segments=segments or 0,
        backup_age_seconds=_float((last_drill(home) or {}).get("age_seconds")),
    )
    return log, None, figures


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _float(value: object) -> float | None:
    return value if isinstance(value, float) else None
