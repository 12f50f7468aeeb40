"""The registered projections, by name.

Invariant: a projection is loaded only when it is made, and the error names one that cannot be.
"""

from eventlog.plumbing import PROJECTIONS, load_plugin, plugin_names
from projections.errors import ProjectionError
from projections.projection import Projection


def projection_names() -> list[str]:
    """Names in the entry-point group `eventlog.projections`, sorted."""
    return plugin_names(PROJECTIONS)


def make_projection(name: str) -> Projection:
    """A new projection of that name. Raises ProjectionError."""
    names = projection_names()
    factory = load_plugin(PROJECTIONS, name) if name in names else None
    if not callable(factory):
        others = ", ".join(other for other in names if other != name)
        raise ProjectionError(
            f"the projection {name!r} cannot be loaded, or is not registered",
            do=f"choose one of: {others}",
        )
    projection: Projection = factory()
    return projection
