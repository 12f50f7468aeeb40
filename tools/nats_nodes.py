"""The configuration of NATS servers on this machine, and the environment of commands that use them.

Invariant: a server with a stream syncs each message before it acknowledges it, unless a test asks
for another interval: then a quorum that loses its power loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventlog.plumbing import StreamSettings

_NODE = """\
server_name: {name}
listen: "{listen}"
http: "{monitor}"
"""
_JETSTREAM = """\
jetstream {{
  store_dir: "{store}"
  sync_interval: "{sync_interval}"
  {limits}
}}
"""
_CLUSTER = """\
cluster {{
  name: eventlog
  listen: "{listen}"
  routes: [{routes}]
  {more}
}}
"""


def node_config(
    *,
    name: str,
    listen: str,
    monitor: str,
    store: Path,
    sync_interval: str = "always",
    limits: str = "",
    cluster: str = "",
) -> str:
    """The configuration of a server; its addresses are `host:port`.

    Without a `sync_interval` it has no JetStream. `limits` are further lines of JetStream, and
    `cluster` is what `cluster_config` returns.
    """
    parts = [_NODE.format(name=name, listen=listen, monitor=monitor)]
    if sync_interval:
        parts.append(_JETSTREAM.format(store=store, sync_interval=sync_interval, limits=limits))
    return "".join([*parts, cluster])


def cluster_config(listen: str, others: Sequence[str], more: str = "") -> str:
    """The part that makes a server one of a cluster.

    `listen` is its address for the other servers, `others` are theirs, `more` are further lines.
    """
    routes = ", ".join(f'"nats://{other}"' for other in others)
    return _CLUSTER.format(listen=listen, routes=routes, more=more)


def client_env(settings: StreamSettings) -> dict[str, str]:
    """The environment of commands that use the stream with these settings."""
    values = {
        "EVENTLOG_STREAM": settings.name,
        "EVENTLOG_NATS_URL": ",".join(settings.urls),
        "EVENTLOG_NATS_NKEY_FILE": settings.nkey_file,
        "EVENTLOG_NATS_CREDS_FILE": settings.creds_file,
        "EVENTLOG_NATS_CA_FILE": settings.ca_file,
        "EVENTLOG_NATS_MONITOR_URL": ",".join(settings.monitor_urls),
    }
    return {name: value for name, value in values.items() if value}
