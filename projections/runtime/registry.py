"""The projections that are registered, by name.

Invariant: a projection that cannot be loaded is named in the error; the others are not affected.
"""

from eventlog.plumbing import PROJECTIONS, load_plugin, plugin_names
from projections.errors import ProjectionError
from projections.projection import Projection


def projection_names() -> list[str]:
    """Names in the entry-point group `eventlog.projections`, sorted."""
    return plugin_names(PROJECTIONS)


def make_projection(name: str) -> Projection:
    """A new projection of that name. Raises ProjectionError."""
    factory = load_plugin(PROJECTIONS, name) if name in projection_names() else None
    if not callable(factory):
        known = ", ".join(projection_names())
        raise ProjectionError(
            f"there is no projection {name!r}, or it cannot be loaded",
            do=f"registered are: {known}",
        )
    made: Projection = factory()
    return made
