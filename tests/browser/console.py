"""A running `eventlog web`: started, stopped, killed, and started again at the same port.

    with console(home) as c:
        page.goto(c.enter_url)
        c.restart(signal.SIGKILL)

Invariant: no console outlives the test that started it.
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.harness.command import command_line
from tests.harness.deadline import DEADLINE_S, until

PRINTED_URL = re.compile(rb"(http://\S+?:(\d+)/)((?:enter\?\S+)?)")


class Console:
    """One `eventlog web` at a time, with its options."""

    def __init__(
        self, home: Path, options: tuple[object, ...], env: Mapping[str, str], output: IO[bytes]
    ) -> None:
        self.home = home  # of the next start
        self._options = options
        self._env = {**os.environ, **env}
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.enter_url = ""  # of the last start: opens once

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, at the same port as before; returns once it listens."""
        begin = self._size()
        words = ("web", "--listen", f"127.0.0.1:{self.port}", *self._options)
        process = self._process = subprocess.Popen(
            command_line(words, self.home, ()),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=self._env,
            start_new_session=True,
        )
        until(lambda: process.poll() is not None or self._printed(begin), "listening")
        found = self._printed(begin)
        assert found is not None, self.output
        self.port = int(found[2])
        self.enter_url = found[0].decode()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to it and to its children, unless it has ended."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal; returns the exit code."""
        self.send(number)
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    @property
    def output(self) -> str:
        """The output of all its starts."""
        return os.pread(self._output.fileno(), self._size(), 0).decode()

    def _size(self) -> int:
        return os.fstat(self._output.fileno()).st_size

    def _printed(self, begin: int) -> re.Match[bytes] | None:
        return PRINTED_URL.search(os.pread(self._output.fileno(), 1 << 20, begin))


@contextmanager
def console(
    home: Path, *options: object, env: Mapping[str, str] | None = None
) -> Iterator[Console]:
    """`eventlog web OPTIONS` until the end of the block."""
    with tempfile.TemporaryFile() as output:
        found = Console(home, options, env or {}, output)
        try:
            found.start()
            yield found
        finally:
            found.end(signal.SIGKILL)
