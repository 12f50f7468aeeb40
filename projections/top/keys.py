"""Reads single keys from the terminal, without waiting for a line.

Invariant: leaving `open_keys` restores the settings of the terminal, also after an exception.
"""

import os
import select
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

QUIT_KEYS = b"qQ"
STDIN = 0
READ_BYTES = 1_024  # keys that were pressed meanwhile


class Keys:
    """Whether a key to quit was pressed. Without a terminal none ever is."""

    def __init__(self, *, are_readable: bool) -> None:
        self._are_readable = are_readable

    def quit_within(self, seconds: float) -> bool:
        """Waits that long, or until a key to quit is pressed: then True."""
        if not self._are_readable:
            time.sleep(seconds)
            return False
        if not select.select([STDIN], [], [], seconds)[0]:
            return False
        data = b""
        with suppress(OSError):  # the terminal is gone
            data = os.read(STDIN, READ_BYTES)
        self._are_readable = bool(data)
        return any(key in QUIT_KEYS for key in data)


@contextmanager
def open_keys() -> Iterator[Keys]:
    """Reads keys while the block runs, if this process has the terminal for itself.

    A process in the background would be stopped when it changes the terminal. Ctrl-C stays a
    signal.
    """
    if not _has_terminal():
        yield Keys(are_readable=False)
        return
    before = termios.tcgetattr(STDIN)
    try:
        tty.setcbreak(STDIN)
        yield Keys(are_readable=True)
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


def _has_terminal() -> bool:
    try:
        return os.isatty(STDIN) and os.tcgetpgrp(STDIN) == os.getpgrp()
    except OSError:
        return False
