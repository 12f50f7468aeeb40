"""What the commands of replication read from the environment, and the projection `mirror`.

Invariant: keys stay in their files; only the paths are read here.
"""

import os
from typing import TYPE_CHECKING

from eventlog.plumbing import stream_settings, unquote

if TYPE_CHECKING:
    from projections.replication.mirror import MirrorProjection


def mirror_projection() -> "MirrorProjection":
    """The entry point `mirror`, configured by the environment."""
    from eventlog.plumbing import require_client
    from projections.replication.mirror import MirrorProjection

    require_client()
    return MirrorProjection(stream_settings())


def setting(name: str) -> str:
    """A variable of the environment; empty if it is unset."""
    return unquote(os.environ.get(name, ""))
