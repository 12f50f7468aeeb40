"""Asks the monitoring endpoints of the servers whether they sync each message.

No client sees it in another way.

Invariant: one server that answers and breaks the rule is enough to refuse the stream.
"""

import asyncio
import json
import urllib.request

from eventlog.replica.answers import unfit_error
from eventlog.replica.engine import StreamUnavailable
from eventlog.replica.stream_rules import StreamSettings, sync_rule
from eventlog.threads import run_in_thread

MONITOR_S_MAX = 2.0  # a server answers within milliseconds
MONITOR_BYTES_MAX = 1 << 20


async def check_monitors(settings: StreamSettings) -> None:
    """Checks `sync_interval` of the servers that answer. Raises StreamUnfit, StreamUnavailable."""
    answers = await read_monitors(settings)
    monitored = [answer for answer in answers if isinstance(answer, dict)]
    broken = [rule for rule in map(sync_rule, monitored) if rule is not None]
    if broken:
        raise unfit_error(broken, settings)
    if answers and not monitored:
        raise StreamUnavailable(
            f"no server answers at EVENTLOG_NATS_MONITOR_URL: {answers[0]}",
            where=settings.where,
            do="check that the servers run, and their option http_port",
        )


async def read_monitors(settings: StreamSettings) -> list[dict[str, object] | str]:
    """What each server says about itself at `/varz`, or why it does not."""
    return await asyncio.gather(
        *(run_in_thread(lambda url=url: _monitored(url)) for url in settings.monitor_urls)  # type: ignore[misc]
    )


def _monitored(url: str) -> dict[str, object] | str:
    """What a server says about itself, or why it does not."""
    try:
        with urllib.request.urlopen(f"{url}/varz", timeout=MONITOR_S_MAX) as answer:
            return dict(json.loads(answer.read(MONITOR_BYTES_MAX)))
    except (OSError, ValueError, TypeError) as error:
        return str(getattr(error, "reason", error))
