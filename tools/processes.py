"""Starts the processes of the demo, or of the cluster, and ends them.

Each process has a session of its own, so Ctrl-C in the terminal reaches only the program, which
then ends the processes in order. The output of a process goes to a file. Processes that they start
in turn inherit a token in the environment, by which they are found: PostgreSQL is a daemon without
a parent.

Invariant: after a `ProcessGroup`, however it is left, no process that it started is running.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

import psutil  # type: ignore[import-untyped]  # the extra `alpine` brings it; it is untyped

CHECKOUT = Path(__file__).resolve().parents[1]
STEP_S = 0.05  # the longest time until Ctrl-C is noticed
START_S_MAX = 90.0  # a start takes one or two seconds; a machine under load may need much longer
END_S_MAX = 40.0  # the daemon takes up to ten, and the PostgreSQL of the backend up to thirty
ERROR_TAIL_CHARS = 4_000  # of a log, searched for the reason why a process ended
TOKEN_VARIABLE = "EVENTLOG_DEMO"

# Settings of the user that would lead a process to another log, backend or supervisor.
_NOT_INHERITED = re.compile(
    r"(EVENTLOG|ALPINE|ARGO)_.*|EXTERNAL_SIGNAL_API_KEY|DATABASE_URL|NOTIFY_SOCKET"
)


class Stopped(Exception):
    """A signal asked the program to end."""


class ProcessFailed(Exception):
    """A process failed. `code` is the exit code of the program that started it."""

    def __init__(self, what: str, *, code: int, log: Path | None = None) -> None:
        super().__init__(f"{what}; its log is {log}" if log is not None else what)
        self.code = code


class StopRequest:
    """A signal handler that notes the signal; the program checks it at points of its own."""

    name = ""

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(signum).name

    def check(self) -> None:
        """Raises Stopped if a signal has arrived."""
        if self.name:
            raise Stopped(self.name)

    def sleep(self, seconds: float) -> None:
        """Waits for `seconds`. Raises Stopped."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left_s, STEP_S))
        self.check()


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    output: str  # stdout and stderr


class ManagedProcess(NamedTuple):
    """A process that is running or has ended."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What the process has printed so far."""
        return self.log.read_text(errors="replace")

    def failed(self, what: str) -> ProcessFailed:
        """Returns the error for this process, with the last line that it printed."""
        lines = self.output[-ERROR_TAIL_CHARS:].strip().splitlines()
        code = self.process.poll()
        last_line = f" ({lines[-1].strip()})" if lines else ""
        return ProcessFailed(
            f"{self.name} {what}{last_line}", code=code if code in (1, 3) else 1, log=self.log
        )


class ProcessGroup:
    """The running processes of one program. A context manager."""

    def __init__(self, logs: Path, stop: StopRequest) -> None:
        self._logs = logs
        self._stop = stop
        self._token = secrets.token_hex(8)
        self._members: list[ManagedProcess] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(mode=0o700, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in reversed(self._members):
            _end(member.process)
        self._wait_until_all_ended()

    def start(
        self, name: str, *words: object, env: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        """Starts a process that runs concurrently with this program."""
        log = self._logs / f"{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not _NOT_INHERITED.fullmatch(k)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(map(str, words)),
                cwd=CHECKOUT,
                env={**inherited, **(env or {}), TOKEN_VARIABLE: self._token},
                stdin=subprocess.PIPE,  # programs that stop at its end stop with this one
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        member = ManagedProcess(name, process, log)
        self._members.append(member)
        return member

    def run(self, name: str, *words: object, env: Mapping[str, str] | None = None) -> Ended:
        """Runs a command to its end. Raises Stopped."""
        member = self.start(name, *words, env=env)
        while member.process.poll() is None:
            self._stop.sleep(STEP_S)
        self._members.remove(member)
        _end(member.process)
        return Ended(member.process.returncode, member.output)

    def wait_for(self, member: ManagedProcess, parse: Callable[[str], str | None]) -> str:
        """Returns the first result of `parse` on the output that is not None.

        Raises ProcessFailed if the process ends before, or takes too long; Stopped.
        """
        end_s = time.monotonic() + START_S_MAX
        while (found := parse(member.output)) is None:
            if member.process.poll() is not None:
                raise member.failed("did not start")
            if time.monotonic() > end_s:
                raise member.failed(f"has not started after {START_S_MAX:.0f} s")
            self._stop.sleep(STEP_S)
        return found

    def check(self, member: ManagedProcess) -> None:
        """Raises ProcessFailed if the process has ended."""
        if (code := member.process.poll()) is not None:
            raise member.failed(f"ended with exit code {code}")

    def end(self, member: ManagedProcess) -> None:
        """Ends the process with SIGTERM. Raises ProcessFailed if its exit code is not 0."""
        self._members.remove(member)
        _end(member.process)
        if member.process.returncode != 0:
            raise member.failed(f"ended with exit code {member.process.returncode} after SIGTERM")

    def kill(self, member: ManagedProcess) -> None:
        """Kills the process with SIGKILL, and returns once it has ended."""
        self._members.remove(member)
        member.process.kill()
        _end(member.process)

    def _wait_until_all_ended(self) -> None:
        """Waits for processes that outlive their parent, and kills them after END_S_MAX."""
        end_s = time.monotonic() + END_S_MAX
        while left := [process for process in psutil.process_iter() if self._is_ours(process)]:
            if time.monotonic() > end_s:
                for process in left:
                    process.kill()
                return
            time.sleep(STEP_S)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(
                process.environ().get(TOKEN_VARIABLE) == self._token
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, OSError):  # it has ended, or belongs to another account
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, and after END_S_MAX sends SIGKILL to the whole session."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
