"""A generator that appends while a block runs.

    with appending(home):
        until(lambda: len(lines_in(home)) > 20)

Invariant: the generator ends with the block, and its last append is durable then.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from eventlog import EventLog
from tests.harness.signals import a_signal

APPEND_PAUSE_S = 0.01
SEGMENT_BYTES = 20_000  # some thirty entries


@contextmanager
def appending(home: Path) -> Iterator[None]:
    """Appends signals one by one, into many segments."""
    done = threading.Event()

    def append() -> None:
        with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
            for number in count(1):
                log.append(a_signal(number))
                if done.wait(APPEND_PAUSE_S):
                    return

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
