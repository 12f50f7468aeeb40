"""Runs a command on a terminal of its own, with keys and sizes from the test.

    with terminal(COMMAND, "top", columns=80, lines=24) as t:
        t.until("text to wait for")
        t.press("\\x03")                  Ctrl-C
        assert t.wait() == 130

Invariant: no process outlives the test that started it.
"""

import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.deadline import DEADLINE_S, until

CTRL_C = "\x03"
WHOLE_SCREEN, SCREEN_BACK = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A terminal and the process on it."""

    def __init__(self, process: "subprocess.Popen[bytes]", ours: int, theirs: int) -> None:
        self.process = process
        self._ours, self._theirs = ours, theirs
        self._received = b""
        self._reader_thread = threading.Thread(target=self._receive, daemon=True)
        self._reader_thread.start()

    @property
    def text(self) -> str:
        """The output so far, control sequences included."""
        return self._received.decode(errors="replace")

    @property
    def settings(self) -> list[object]:
        """The settings of the terminal: echo, line editing ..."""
        return termios.tcgetattr(self._theirs)

    def until(self, text: str, *, after: int = 0) -> None:
        """Waits until `text` appears after the first `after` characters."""
        until(lambda: text in self.text[after:], lambda: f"{text!r} after {self.text[-5_000:]!r}")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, *, columns: int, lines: int) -> None:
        _set_size(self._ours, columns, lines)

    def wait(self) -> int:
        """Waits for the end of the process; returns the exit code."""
        return self.process.wait(DEADLINE_S)

    def _receive(self) -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(self._ours, 1 << 16):
                self._received += data


@contextmanager
def terminal(
    *words: object,
    columns: int = 100,
    lines: int = 30,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Terminal]:
    """Runs the command on a new terminal; kills it at the end if it is still running."""
    ours, theirs = os.openpty()
    _set_size(ours, columns, lines)
    unset = ("COLUMNS", "LINES", "NO_COLOR")  # they would override the terminal
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    process = subprocess.Popen(
        ["setsid", "--ctty", *map(str, words)],  # so that Ctrl-C becomes a signal
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **(env or {})},
        cwd=cwd,
    )
    running = Terminal(process, ours, theirs)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(theirs)
        running._reader_thread.join(DEADLINE_S)
        os.close(ours)


def _set_size(fd: int, columns: int, lines: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
