"""The settings of a stream, read from the environment.

Invariant: keys stay in their files; only the paths are read here.
"""

import os
from collections.abc import Sequence

from eventlog.cli.command import unquote
from eventlog.errors import EventLogError
from eventlog.replica.stream_rules import StreamSettings


def stream_settings(urls: Sequence[str] = ()) -> StreamSettings:
    """The stream and how to reach it. An empty variable is unset. Raises EventLogError.

    `urls` take the place of EVENTLOG_NATS_URL.
    """
    name = _setting("EVENTLOG_STREAM")
    if not name:
        raise EventLogError(
            "EVENTLOG_STREAM is not set",
            do="set it to the name of the stream, and EVENTLOG_NATS_URL to its servers",
        )
    return StreamSettings(
        name=name,
        urls=tuple(urls) or _list("EVENTLOG_NATS_URL"),
        nkey_file=_setting("EVENTLOG_NATS_NKEY_FILE"),
        creds_file=_setting("EVENTLOG_NATS_CREDS_FILE"),
        ca_file=_setting("EVENTLOG_NATS_CA_FILE"),
        monitor_urls=_list("EVENTLOG_NATS_MONITOR_URL"),
    )


def _setting(name: str) -> str:
    """A variable of the environment; empty if it is unset."""
    return unquote(os.environ.get(name, ""))


def _list(name: str) -> tuple[str, ...]:
    return tuple(part.strip().rstrip("/") for part in _setting(name).split(",") if part.strip())
