"""Waits for the log of a home: a daemon may be started before the first append.

Invariant: nothing is created while it waits.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from eventlog import EventLog, EventLogError, LogNotFound
from eventlog.plumbing import is_shortage, require_home
from projections.runtime.pause import wait_for_event

POLL_S = 0.2  # a first append is seen so late; a daemon starts within a second of it


def require_log(home: Path) -> None:
    """Raises LogNotFound where there is no log, and the error of a home that cannot be used."""
    require_home(home)
    EventLog(home).close()


async def wait_for_log(home: Path, stop: asyncio.Event, on_wait: Callable[[], object]) -> bool:
    """Waits until the home holds a log; False when stopped before.

    `on_wait` is called each time there is none. Raises the error of a home that cannot be used,
    such as LogCorrupt where the segments of a log are gone.
    """
    while not stop.is_set():
        try:
            require_log(home)
            return True
        except LogNotFound:
            on_wait()
        except (EventLogError, OSError) as error:
            if not is_shortage(error):
                raise
        await wait_for_event(stop, POLL_S)
    return False
