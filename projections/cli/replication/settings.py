"""Settings of replication, read from the environment.

Invariant: keys stay in their files; only the paths are read here.
"""

import os
from typing import TYPE_CHECKING

from eventlog.plumbing import unquote

if TYPE_CHECKING:
    from eventlog.plumbing import StreamSettings
    from projections.replication.mirror import MirrorProjection


def stream_settings() -> "StreamSettings":
    """The stream and how to reach it. An empty variable is unset. Raises EventLogError."""
    from eventlog.plumbing import StreamSettings
    from projections.errors import ProjectionError

    name = setting("EVENTLOG_STREAM")
    if not name:
        raise ProjectionError(
            "EVENTLOG_STREAM is not set",
            do="set it to the name of the stream, and EVENTLOG_NATS_URL to its servers",
        )
    return StreamSettings(
        name=name,
        urls=_list("EVENTLOG_NATS_URL"),
        nkey_file=setting("EVENTLOG_NATS_NKEY_FILE"),
        creds_file=setting("EVENTLOG_NATS_CREDS_FILE"),
        ca_file=setting("EVENTLOG_NATS_CA_FILE"),
        monitor_urls=_list("EVENTLOG_NATS_MONITOR_URL"),
    )


def mirror_projection() -> "MirrorProjection":
    """The entry point `mirror`, configured by the environment."""
    from eventlog.plumbing import require_client
    from projections.replication.mirror import MirrorProjection

    require_client()
    return MirrorProjection(stream_settings())


def setting(name: str) -> str:
    """A variable of the environment; empty if it is unset."""
    return unquote(os.environ.get(name, ""))


def _list(name: str) -> tuple[str, ...]:
    return tuple(part.strip().rstrip("/") for part in setting(name).split(",") if part.strip())
