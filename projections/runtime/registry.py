"""The registered projections, by name.

Invariant: the error names a projection that cannot be loaded; the others are not affected.
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
            f"the projection {name!r} is not registered, or cannot be loaded",
            do=f"choose one of: {known}",
        )
    projection: Projection = factory()
    return projection
