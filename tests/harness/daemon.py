"""A running daemon: started, stopped, killed, with the notify socket of systemd.

    with daemon(home, "sqlite") as d:
        d.send(signal.SIGTERM)
        assert d.wait() == 0

Invariant: no daemon outlives the test that started it.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.harness.command import command_line
from tests.harness.deadline import DEADLINE_S, until

LIFECYCLE = re.compile(r" INFO projections\.(?:runtime\.daemon|replication\.(?:follow|serve)) ")


def read_shared(file: IO[bytes]) -> str:
    """What a process has written to a file so far. It shares the offset, so nothing seeks."""
    fd = file.fileno()
    return os.pread(fd, os.fstat(fd).st_size, 0).decode()


class Daemon:
    """One process of a daemon."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self.process = process
        self._stderr = stderr

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code; fails if it does not end."""
        return self.process.wait(DEADLINE_S)

    def catches(self, number: signal.Signals) -> bool:
        """Whether it has installed a handler for a signal; before that, the signal kills it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(mask, 16) >> (number - 1) & 1)

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    @property
    def err(self) -> str:
        """Its stderr so far."""
        return read_shared(self._stderr)

    @property
    def complaints(self) -> str:
        """Its stderr so far, without the lines that each daemon logs of its life."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if LIFECYCLE.search(line) is None)

    @property
    def steps(self) -> list[str]:
        """The steps of its life so far, such as `ready`."""
        found = ((line, LIFECYCLE.search(line)) for line in self.err.splitlines())
        return [line[match.end() :].split()[0] for line, match in found if match is not None]


@contextmanager
def daemon(
    home: Path,
    *words: object,
    command: str = "project",
    options: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    under: Sequence[object] = (),
) -> Iterator[Daemon]:
    """A running `eventlog OPTIONS COMMAND WORDS`, killed at the end if it is still running.

    It may still be starting: see `ready`.
    """
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command_line((*options, command, *words), home, under),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # children, as of strace, are killed with it
        )
        try:
            yield Daemon(process, stderr)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def listening(
    home: Path,
    *words: object,
    host: str = "127.0.0.1",
    env: Mapping[str, str] | None = None,
    under: Sequence[object] = (),
) -> Iterator[tuple[Daemon, str]]:
    """A daemon that listens on a port that the system chose, and its URL."""
    words = (*words, "--listen", f"{host}:0")
    with daemon(home, *words, options=["-v"], env=env, under=under) as d:
        until(lambda: d.process.poll() is not None or "listening url=" in d.err, "listening")
        assert d.process.poll() is None, d.err
        yield d, d.err.partition("listening url=")[2].split()[0]


def abstract_name() -> str:
    """A unique abstract address: abstract addresses are shared by the whole machine."""
    return f"@eventlog-{os.getpid()}-{time.monotonic_ns()}"


@contextmanager
def ready(home: Path, *words: object) -> Iterator[Daemon]:
    """A daemon that has sent READY=1, and so handles SIGTERM."""
    name = abstract_name()
    with NotifySocket(name) as systemd, daemon(home, *words, env={"NOTIFY_SOCKET": name}) as d:
        until(lambda: systemd.has_received("READY=1"), "READY")
        yield d


@contextmanager
def lock_held(home: Path) -> Iterator[None]:
    """Another process holds the lock of the database, and hangs."""
    lock = home / "run" / "signals.lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    words = ["flock", str(lock), "sh", "-c", "echo held; exec sleep 600"]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


class NotifySocket:
    """The socket on which systemd listens for a service of Type=notify."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0.05)
        self.messages: list[str] = []

    def __enter__(self) -> "NotifySocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def has_received(self, text: str) -> bool:
        """Whether a line that begins with `text` has arrived."""
        try:
            while True:
                self.messages += self._socket.recv(65_536).decode().split("\n")
        except TimeoutError:
            return any(line.startswith(text) for line in self.messages)
