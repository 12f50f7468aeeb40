"""Commands and projections of other packages, found by their entry points.

Our own `projections` package joins by the same two groups. A plug-in that cannot be loaded is
said and left out: it never takes down what works without it.

Invariant: nothing is imported from a plug-in before somebody asks for it.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

COMMANDS = "eventlog.commands"
PROJECTIONS = "eventlog.projections"

logger = logging.getLogger(__name__)

_entry_points = cache(entry_points)  # it looks at each package that is installed


def plugin_names(group: str) -> list[str]:
    """Names that are registered in `group`, sorted."""
    return sorted({point.name for point in _entry_points().select(group=group)})


def load_plugin(group: str, name: str) -> object | None:
    """What is registered under `name`, or None, with a warning, when it cannot be loaded."""
    for point in _entry_points().select(group=group, name=name):
        found = _load_entry_point(point)
        if found is not None:
            return found
    return None


def _load_entry_point(point: EntryPoint) -> object | None:
    load: Callable[[], object] = point.load
    try:
        return load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # somebody else's code
        logger.warning(
            "plugin_broken name=%s object=%s error=%s: %s",
            point.name,
            point.value,
            type(error).__name__,
            error,
        )
        return None
