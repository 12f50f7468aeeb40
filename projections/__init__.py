"""The read side: projections derived from the log, which can be rebuilt from it at any time.

Each name below is imported when it is first used (PEP 562), so that a command loads only the
modules it needs.

Invariant: this package enters `eventlog` through `eventlog` and `eventlog.plumbing` alone, and
changes the log only by appending through `EventLog`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projections.errors import (
        CheckpointMoved,
        ProjectionError,
        ProjectionStalled,
        SchemaTooNew,
        SchemaTooOld,
    )
    from projections.export.signals_table import signals_table
    from projections.legacy.tracker import SignalTracker
    from projections.projection import Checkpoint, Projection
    from projections.queries.active_signals import ActiveSignal, Conversion, LifecycleTracker
    from projections.queries.store import SignalStore
    from projections.queries.wait import SignalParked, WaitTimeout, wait, wait_async
    from projections.runtime.batcher import Pace
    from projections.runtime.projector import Projector

_MODULES = {
    "ActiveSignal": "queries.active_signals",
    "Checkpoint": "projection",
    "CheckpointMoved": "errors",
    "Conversion": "queries.active_signals",
    "LifecycleTracker": "queries.active_signals",
    "Pace": "runtime.batcher",
    "Projection": "projection",
    "ProjectionError": "errors",
    "ProjectionStalled": "errors",
    "Projector": "runtime.projector",
    "SchemaTooNew": "errors",
    "SchemaTooOld": "errors",
    "SignalParked": "queries.wait",
    "SignalStore": "queries.store",
    "SignalTracker": "legacy.tracker",
    "WaitTimeout": "queries.wait",
    "signals_table": "export.signals_table",
    "wait": "queries.wait",
    "wait_async": "queries.wait",
}

__all__ = [
    "ActiveSignal",
    "Checkpoint",
    "CheckpointMoved",
    "Conversion",
    "LifecycleTracker",
    "Pace",
    "Projection",
    "ProjectionError",
    "ProjectionStalled",
    "Projector",
    "SchemaTooNew",
    "SchemaTooOld",
    "SignalParked",
    "SignalStore",
    "SignalTracker",
    "WaitTimeout",
    "signals_table",
    "wait",
    "wait_async",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"projections.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
