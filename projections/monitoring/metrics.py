"""Formats a snapshot as Prometheus metrics. The only module that uses prometheus-client.

Units are seconds, bytes and counts. Label values are names of registered projections, of classes of
errors and of fixed sets below, so their number is bounded.

Invariant: no metric contains text of a payload, a key, or an answer of Alpine.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from eventlog.plumbing import MIRROR_STATES
from projections.monitoring.snapshot import (
    DeliverySnapshot,
    EvidenceSnapshot,
    LogSnapshot,
    MirrorSnapshot,
    ProjectionSnapshot,
    ReplicaSnapshot,
    Snapshot,
)
from projections.runtime.projector import COMMIT_S_BUCKETS

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(snapshot: Snapshot) -> bytes:
    """The body of an answer to /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector(Collector):
    """Adapts a snapshot to the interface of prometheus-client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Each metric with its samples."""
        if self._snapshot.log is not None:
            yield from _log_metrics(self._snapshot.log)
        if self._snapshot.replica is not None:
            yield from _replica_metrics(self._snapshot.replica)
        if self._snapshot.evidence is not None:
            yield from _evidence_metrics(self._snapshot.evidence)
        yield from _projection_metrics(self._snapshot.projections)
        for projection in self._snapshot.projections:
            if projection.delivery is not None:
                yield from _delivery_metrics(projection.delivery)
            if projection.mirror is not None:
                yield from _mirror_metrics(projection.mirror)


def _log_metrics(log: LogSnapshot) -> Iterator[Metric]:
    yield _gauge("eventlog_log_last_seq", "Seq of the last durable entry", log.last_seq)
    yield _gauge("eventlog_log_bytes", "Size of all segments", log.bytes)
    yield _gauge("eventlog_log_segments", "Number of segments", log.segments)
    if log.backup_age_seconds is not None:
        help_text = "Time since a restore drill of a backup last succeeded"
        yield _gauge("eventlog_backup_age_seconds", help_text, log.backup_age_seconds)


_EVIDENCE_GAUGES: dict[str, tuple[str, Callable[[EvidenceSnapshot], float | None]]] = {
    "eventlog_evidence_size": (
        "Entries that the newest checkpoint covers",
        lambda evidence: evidence.size,
    ),
    "eventlog_evidence_checkpoint_age_seconds": (
        "Time since the newest checkpoint was signed",
        lambda evidence: evidence.checkpoint_age_seconds,
    ),
    "eventlog_evidence_cosignature_age_seconds": (
        "Time since a witness last cosigned a checkpoint",
        lambda evidence: evidence.cosignature_age_seconds,
    ),
    "eventlog_evidence_stamp_age_seconds": (
        "Time since a checkpoint last got a time stamp",
        lambda evidence: evidence.stamp_age_seconds,
    ),
    "eventlog_evidence_lag_entries": (
        "Entries that no checkpoint covers",
        lambda evidence: evidence.lag_entries,
    ),
    "eventlog_evidence_lag_seconds": (
        "Age of the oldest entry that no checkpoint covers",
        lambda evidence: evidence.lag_seconds,
    ),
}


def _evidence_metrics(evidence: EvidenceSnapshot) -> Iterator[Metric]:
    for name, (help_text, value_of) in _EVIDENCE_GAUGES.items():
        value = value_of(evidence)
        if value is not None:
            yield _gauge(name, help_text, value)


# Gauges whose value may be unknown; then the metric has no sample.
_GAUGES: dict[str, tuple[str, Callable[[ProjectionSnapshot], float | None]]] = {
    "eventlog_projection_checkpoint_seq": (
        "Seq of the last entry applied",
        lambda projection: projection.checkpoint,
    ),
    "eventlog_projection_lag_entries": (
        "Entries not applied yet, against the real end of the log",
        lambda projection: projection.lag_entries,
    ),
    "eventlog_projection_lag_seconds": (
        "Age of the oldest entry not applied yet",
        lambda projection: projection.lag_seconds,
    ),
    "eventlog_projection_watched": (
        "1 if file events announce new entries, 0 if only a timer polls for them",
        lambda projection: projection.is_watched,
    ),
}


def _projection_metrics(snapshot: tuple[ProjectionSnapshot, ...]) -> Iterator[Metric]:
    label = ["projection"]
    for metric, (help_text, value_of) in _GAUGES.items():
        gauge = GaugeMetricFamily(metric, help_text, labels=label)
        for projection in snapshot:
            value = value_of(projection)
            if value is not None:
                gauge.add_metric([projection.name], float(value))
        yield gauge
    stalled = GaugeMetricFamily(
        "eventlog_projection_stalled", "1 if the last attempt at a batch failed", labels=label
    )
    batches = CounterMetricFamily(
        "eventlog_projection_batches_applied", "Batches applied by this process", labels=label
    )
    entries = CounterMetricFamily(
        "eventlog_projection_entries_applied", "Entries applied by this process", labels=label
    )
    commits = HistogramMetricFamily(
        "eventlog_projection_commit_seconds", "Time to apply a batch", labels=label
    )
    failed = GaugeMetricFamily(
        "eventlog_projection_failed",
        "1 if the projection has failed and is being restarted; reason: the class of the error",
        labels=["projection", "reason"],
    )
    ends = [*map(str, COMMIT_S_BUCKETS), "+Inf"]
    for projection in snapshot:
        name, counters = [projection.name], projection.counters
        stalled.add_metric(name, float(projection.stalled is not None))
        failure = projection.failure
        failed.add_metric([*name, failure.kind if failure else ""], float(failure is not None))
        batches.add_metric(name, counters.batches)
        entries.add_metric(name, counters.entries)
        buckets = zip(ends, map(float, accumulate(counters.buckets)), strict=True)
        commits.add_metric(name, buckets=list(buckets), sum_value=counters.commit_s)
    yield from (stalled, failed, batches, entries, commits)


def _delivery_metrics(delivery: DeliverySnapshot) -> Iterator[Metric]:
    # Imported here, because a process without delivery does not load these modules.
    from projections.alpine.metered_client import OUTCOMES
    from projections.delivery.outbox import DISABLED, STOPPED
    from projections.delivery.state import DeliveryState

    yield CounterMetricFamily(
        "eventlog_delivery_delivered",
        "Signals delivered to Alpine, by all processes",
        value=delivery.delivered,
    )
    parked = GaugeMetricFamily(
        "eventlog_delivery_parked", "Parked signals, by kind", labels=["kind"]
    )
    parked.add_metric(["refused"], delivery.refused)
    parked.add_metric(["failing"], delivery.failing)
    state = GaugeMetricFamily(
        "eventlog_delivery_state", "1 for the current state of delivery", labels=["state"]
    )
    for name in (*map(str, DeliveryState), DISABLED, STOPPED):
        state.add_metric([name], float(name == delivery.state))
    requests = CounterMetricFamily(
        "eventlog_delivery_requests", "Requests of this process, by outcome", labels=["outcome"]
    )
    for outcome in OUTCOMES:
        requests.add_metric([outcome], delivery.requests.by_outcome[outcome])
    yield from (parked, state, requests)
    yield _gauge(
        "eventlog_delivery_requests_in_flight",
        "Requests in flight",
        delivery.requests.in_flight,
    )


def _mirror_metrics(mirror: MirrorSnapshot) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "eventlog_mirror_state", "1 for the current state of the mirror", labels=["state"]
    )
    for name in MIRROR_STATES:
        state.add_metric([name], float(name == mirror.state))
    yield state
    help_text = "Lines that the stream had acknowledged and did not hold later"
    yield _gauge("eventlog_mirror_lost_acked", help_text, mirror.lost_acked)
    if mirror.replicas_current is not None:
        help_text = "Servers that were up to date with the stream when the mirror last checked it"
        yield _gauge("eventlog_mirror_replicas_current", help_text, mirror.replicas_current)


def _replica_metrics(replica: ReplicaSnapshot) -> Iterator[Metric]:
    help_text = "1 if a process follows the stream, and waits for nothing but lines"
    yield _gauge("eventlog_replica_following", help_text, float(replica.is_following))
    if replica.lag_entries is not None:
        help_text = "Entries that the stream held when it was last read, and the replica does not"
        yield _gauge("eventlog_replica_lag_entries", help_text, replica.lag_entries)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)
