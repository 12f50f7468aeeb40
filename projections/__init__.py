"""The read side: what is derived from the log, disposable and rebuilt from it at any time.

The names below are imported when they are first used (PEP 562): the commands of this package must
not wait for what they do not need.

Invariant: nothing here writes to the log or enters `eventlog` but by its front door.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled, SchemaTooNew
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
    "SignalParked": "queries.wait",
    "Projection": "projection",
    "ProjectionError": "errors",
    "ProjectionStalled": "errors",
    "Projector": "runtime.projector",
    "SchemaTooNew": "errors",
    "SignalStore": "queries.store",
    "SignalTracker": "legacy.tracker",
    "WaitTimeout": "queries.wait",
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
    "SignalParked",
    "SignalStore",
    "SignalTracker",
    "WaitTimeout",
    "wait",
    "wait_async",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"projections.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
