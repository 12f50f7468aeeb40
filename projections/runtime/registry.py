"""The registered projections, by name.

Invariant: a projection is loaded only when it is made, and the error says why one cannot be.
"""

from eventlog.plumbing import PROJECTIONS, import_plugin, plugin_names
from projections.errors import ProjectionError
from projections.projection import Projection


def projection_names() -> list[str]:
    """Names in the entry-point group `eventlog.projections`, sorted."""
    return plugin_names(PROJECTIONS)


def make_projection(name: str) -> Projection:
    """A new projection of that name. Raises what loading or making it raises."""
    factory = import_plugin(PROJECTIONS, name)
    if not callable(factory):
        raise ProjectionError(
            f"{type(factory).__name__} is registered, which makes no projection",
            do="register a class, or a function without arguments: see docs/extending.md",
        )
    projection: Projection = factory()
    return projection
