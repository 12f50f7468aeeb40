"""Plug-ins: commands and projections of other packages, found by their entry points.

A third group holds functions that `repair --accept` calls before entries count as lost. Our own
`projections` package uses the same groups. A plug-in that cannot be loaded is logged
and left out; everything else works without it.

Invariant: a plug-in is imported only when it is used.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from eventlog.errors import EventLogError

COMMANDS = "eventlog.commands"
PROJECTIONS = "eventlog.projections"
BEFORE_LOSS = "eventlog.before_loss"  # (home, first and last seqs) -> what to report, in lines

logger = logging.getLogger(__name__)

_entry_points = cache(entry_points)  # it reads the metadata of each installed package


def plugin_names(group: str) -> list[str]:
    """Names that are registered in `group`, sorted."""
    return sorted({point.name for point in _entry_points().select(group=group)})


def load_plugin(group: str, name: str) -> object | None:
    """The object registered under `name`; None, with a warning, where it cannot be loaded."""
    for point in _entry_points().select(group=group, name=name):
        found = _load_entry_point(point)
        if found is not None:
            return found
    return None


def import_plugin(group: str, name: str) -> object:
    """The object registered under `name`. Raises what loading it raises.

    Raises EventLogError for a name that is not registered.
    """
    points = _entry_points().select(group=group, name=name)
    if not points:
        raise EventLogError(
            f"{name!r} is not registered in {group}",
            do=f"choose one of: {', '.join(plugin_names(group))}",
        )
    load: Callable[[], object] = next(iter(points)).load
    return load()


def _load_entry_point(point: EntryPoint) -> object | None:
    load: Callable[[], object] = point.load
    try:
        return load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of another package
        logger.warning(
            "plugin_broken name=%s object=%s error=%s: %s",
            point.name,
            point.value,
            type(error).__name__,
            error,
        )
        return None
