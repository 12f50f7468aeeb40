"""SIGTERM and SIGINT end a process: the first one stops it, and those that follow change nothing.

Invariant: a handler only sets an event; nothing is interrupted.
"""

import asyncio
import signal
from contextlib import suppress
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_by_signal(stop: asyncio.Event) -> None:
    """Sets `stop` on a signal. The loop's own handlers are removed before the process ends."""
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop.set)

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)


def ignore_stop_signals() -> None:
    """All is closed: a second signal must not change the exit."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
