"""A snapshot of the log and of the projections of one daemon, for /health and /metrics.

Invariant: a lag is measured against the real end of the log, read from its files, and never against
the end that a tail has seen.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eventlog import EventLogError, LogNotFound
from eventlog.plumbing import MIRROR, last_kept, log_status, run_in_thread
from projections.delivery.outbox import NAME as ALPINE
from projections.monitoring.drill_record import last_drill
from projections.monitoring.evidence_status import evidence_status
from projections.monitoring.lag import lag
from projections.monitoring.status import alpine_status, mirror_status, replica_status
from projections.projection import RequestCounters
from projections.replication.follow_record import FOLLOW
from projections.run_directory import RUNNING, read_run_state
from projections.runtime.projector import BatchCounters
from projections.runtime.supervisor import Failure, Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSnapshot:
    """The log on disk."""

    last_seq: int
    last_kept: int  # the last entry that was not lost by damage that was accepted
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
class MirrorSnapshot:
    """The record of the mirror in `data/mirror.json`."""

    state: str
    replicas_current: int | None
    lost_acked: int


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
    failure: Failure | None  # it is restarted with back-off, until it has applied a batch
    counters: BatchCounters
    delivery: DeliverySnapshot | None
    mirror: MirrorSnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSnapshot:
    """The log of a replica, and the process that follows the stream into it."""

    lag_entries: int | None  # behind what the stream held when that process saw it last
    is_following: bool  # it runs, and waits for nothing but lines


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSnapshot:
    """What was signed of the log. None means that there is none, or that it cannot be read."""

    size: int | None
    checkpoint_age_seconds: float | None
    cosignature_age_seconds: float | None
    stamp_age_seconds: float | None
    lag_entries: int | None  # entries that no checkpoint covers
    lag_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The log and its projections. If the log could not be read, `problem` says why."""

    log: LogSnapshot | None
    problem: str | None
    projections: tuple[ProjectionSnapshot, ...]
    is_waiting: bool = False  # for the first entry: there is no log, and no projection has started
    replica: ReplicaSnapshot | None = None  # of a home that is one
    evidence: EvidenceSnapshot | None = None  # of a home that has `evidence/`


async def take_snapshot(home: Path, supervisors: Sequence[Supervisor]) -> Snapshot:
    """Takes a snapshot. Files are read in a thread."""
    # Checkpoints are read before the log, so that an entry appended meanwhile counts as lag and the
    # lag is never negative.
    seqs = {s.name: s.checkpoint.seq if s.checkpoint else None for s in supervisors}
    has_started = any(supervisor.has_started for supervisor in supervisors)
    found = await run_in_thread(lambda: _read(home, seqs))
    return Snapshot(
        log=found.log,
        problem=found.problem,
        projections=tuple(
            _projection_snapshot(s, seqs, found.figures.get(s.name, {})) for s in supervisors
        ),
        is_waiting=found.is_log_missing and not has_started,
        replica=found.replica,
        evidence=found.evidence,
    )


def _projection_snapshot(
    supervisor: Supervisor, seqs: Mapping[str, int | None], figures: Mapping[str, object]
) -> ProjectionSnapshot:
    name = supervisor.name
    return ProjectionSnapshot(
        name=name,
        checkpoint=_int(figures.get("checkpoint", seqs[name])),
        lag_entries=_int(figures.get("lag_entries")),
        lag_seconds=_float(figures.get("lag_seconds")),
        is_watched=supervisor.is_watched,
        stalled=supervisor.stalled,
        is_external=supervisor.is_external,
        is_stopping=supervisor.is_stopping,
        failure=supervisor.failure,
        counters=supervisor.counters,
        delivery=_delivery_snapshot(supervisor, figures)
        if figures.get("delivered") is not None
        else None,
        mirror=_mirror_snapshot(figures) if figures.get("lost_acked") is not None else None,
    )


def _delivery_snapshot(supervisor: Supervisor, figures: Mapping[str, object]) -> DeliverySnapshot:
    parked, failing = _int(figures["parked"]) or 0, _int(figures["failing"]) or 0
    return DeliverySnapshot(
        delivered=_int(figures["delivered"]) or 0,
        refused=parked - failing,
        failing=failing,
        state=str(figures["state"]),
        requests=supervisor.requests or RequestCounters(),
    )


def _mirror_snapshot(figures: Mapping[str, object]) -> MirrorSnapshot:
    return MirrorSnapshot(
        state=str(figures["state"]),
        replicas_current=_int(figures["replicas_current"]),
        lost_acked=_int(figures["lost_acked"]) or 0,
    )


class _Found(NamedTuple):
    log: LogSnapshot | None
    problem: str | None
    figures: Mapping[str, Mapping[str, object]]
    is_log_missing: bool = False
    replica: ReplicaSnapshot | None = None
    evidence: EvidenceSnapshot | None = None


def _read(home: Path, seqs: Mapping[str, int | None]) -> _Found:
    figures: dict[str, Mapping[str, object]] = {}
    try:
        for name, seq in seqs.items():
            if name == ALPINE:  # its checkpoint in memory covers signals that are still in flight
                figures[name] = alpine_status(home)
            elif name == MIRROR:
                figures[name] = mirror_status(home) or {}
            elif seq is not None:
                figures[name] = lag(home, seq)
        found = log_status(os.fspath(home), count=False)
        last_seq, size, segments = (
            _int(found[key]) or 0 for key in ("last_seq", "bytes", "segments")
        )
        kept = last_kept(home, until=last_seq)
        evidence = _evidence_snapshot(home)
    except (EventLogError, OSError, sqlite3.Error) as error:
        return _Found(None, str(error), figures, isinstance(error, LogNotFound))
    log = LogSnapshot(
        last_seq=last_seq,
        last_kept=kept,
        bytes=size,
        segments=segments,
        backup_age_seconds=_float((last_drill(home) or {}).get("age_seconds")),
    )
    replica = _replica_snapshot(home, log.last_seq)
    return _Found(log, None, figures, replica=replica, evidence=evidence)


def _evidence_snapshot(home: Path) -> EvidenceSnapshot | None:
    found = evidence_status(home)
    if found is None:
        return None
    return EvidenceSnapshot(
        size=_int(found["size"]),
        checkpoint_age_seconds=_float(found["checkpoint_age_seconds"]),
        cosignature_age_seconds=_float(found["cosignature_age_seconds"]),
        stamp_age_seconds=_float(found["stamp_age_seconds"]),
        lag_entries=_int(found["lag_entries"]),
        lag_seconds=_float(found["lag_seconds"]),
    )


def _replica_snapshot(home: Path, last_seq: int) -> ReplicaSnapshot | None:
    found = replica_status(home, last_seq)
    if found is None:
        return None
    run = read_run_state(home, FOLLOW)
    return ReplicaSnapshot(
        lag_entries=_int(found["lag_entries"]),
        is_following=run.state == RUNNING and run.reason is None,
    )


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _float(value: object) -> float | None:
    return value if isinstance(value, float) else None
