"""The answers to `/health` and `/metrics`.

Invariant: an answer depends on the path of the request alone, and on one snapshot.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict

import orjson

from projections.monitoring import metrics
from projections.monitoring.health import UNHEALTHY, HealthResult, failure_reason
from projections.monitoring.snapshot import ProjectionSnapshot, Snapshot
from projections.run_directory import FAILED, RUNNING
from projections.serving.app import Request, Response, Route, Starlette


def make_app(sample: Callable[[], Awaitable[tuple[Snapshot, HealthResult]]]) -> Starlette:
    """The application of both endpoints; `sample` gives a fresh snapshot and its health."""

    async def health(_request: Request) -> Response:
        return health_response(*await sample())

    async def expose_metrics(_request: Request) -> Response:
        snapshot, _ = await sample()
        headers = {"Content-Type": metrics.CONTENT_TYPE}
        return Response(metrics.exposition(snapshot), headers=headers)

    return Starlette(routes=[Route("/health", health), Route("/metrics", expose_metrics)])


def health_response(snapshot: Snapshot, result: HealthResult) -> Response:
    """The answer to /health: status 200 or 503, the reasons and the lag of each projection."""
    body = {
        "status": result.status,
        "reasons": result.reasons,
        "log": asdict(snapshot.log) if snapshot.log is not None else None,
        "projections": {
            projection.name: {
                "checkpoint": projection.checkpoint,
                "lag_entries": projection.lag_entries,
                "lag_seconds": projection.lag_seconds,
                "state": _state(snapshot, projection),
                "reason": failure_reason(projection),
            }
            for projection in snapshot.projections
        },
    }
    status = 503 if result.status == UNHEALTHY else 200
    return Response(orjson.dumps(body) + b"\n", status, media_type="application/json")


def _state(snapshot: Snapshot, projection: ProjectionSnapshot) -> str | None:
    """The state of a projection in this process; None while it waits for the log."""
    if snapshot.is_waiting:
        return None
    return RUNNING if projection.failure is None else FAILED
