"""The registered projections, by name.

Invariant: a projection is loaded only when it is made, and the error says why one cannot be.
"""

from pathlib import Path

from eventlog.plumbing import PROJECTIONS, import_plugin, plugin_names, replica_state
from projections.errors import ProjectionError
from projections.projection import Projection


def projection_names() -> list[str]:
    """Names in the entry-point group `eventlog.projections`, sorted."""
    return plugin_names(PROJECTIONS)


def names_in_all(home: Path, *, has_stream: bool) -> list[str]:
    """The projections that `all` means for a home, sorted.

    Some only make sense once they are configured. `has_stream` says whether a stream is named.
    """
    is_replica = replica_state(home) is not None
    is_wanted = {
        "alpine": not is_replica,  # the primary delivers and publishes
        "mirror": not is_replica and has_stream,
        "tree": (home / "evidence" / "key").exists(),
    }
    return [name for name in projection_names() if is_wanted.get(name, True)]


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
