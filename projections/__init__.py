"""The read side: what is derived from the log, disposable and rebuilt from it at any time.

The names below are imported when they are first used (PEP 562): the commands of this package must
not wait for what they do not need.

Invariant: nothing here writes to the log or enters `eventlog` but by its front door.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled, SchemaTooNew
    from projections.lifecycle import ActiveSignal, Conversion, LifecycleTracker
    from projections.projection import Checkpoint, Projection
    from projections.projector import Pace, Projector
    from projections.queries import SignalStore
    from projections.tracker import SignalTracker
    from projections.waiting import Parked, WaitTimeout, wait, wait_async

_MODULES = {
    "ActiveSignal": "lifecycle",
    "Checkpoint": "projection",
    "CheckpointMoved": "errors",
    "Conversion": "lifecycle",
    "LifecycleTracker": "lifecycle",
    "Pace": "projector",
    "Parked": "waiting",
    "Projection": "projection",
    "ProjectionError": "errors",
    "ProjectionStalled": "errors",
    "Projector": "projector",
    "SchemaTooNew": "errors",
    "SignalStore": "queries",
    "SignalTracker": "tracker",
    "WaitTimeout": "waiting",
    "wait": "waiting",
    "wait_async": "waiting",
}

__all__ = [
    "ActiveSignal",
    "Checkpoint",
    "CheckpointMoved",
    "Conversion",
    "LifecycleTracker",
    "Pace",
    "Parked",
    "Projection",
    "ProjectionError",
    "ProjectionStalled",
    "Projector",
    "SchemaTooNew",
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
