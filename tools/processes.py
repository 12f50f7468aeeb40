"""The processes that the demo starts, and how they end.

Each runs in a session of its own, so that a Ctrl-C in the terminal reaches the demo alone, which
then ends them in order; what it says goes to a file. All that they start in turn inherits a mark
in the environment, and is waited for by it: PostgreSQL is a daemon, and nobody's child.

Invariant: when a `ProcessGroup` is left, however that happens, nothing that it started runs.
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
STEP_S = 0.05  # how long Ctrl-C may wait to be seen
START_S_MAX = 90.0  # a start takes one or two seconds; a machine under load may need much longer
END_S_MAX = 40.0  # the daemon promises ten, and the backend gives its PostgreSQL thirty
ERROR_TAIL_BYTES = 4_000  # of a file, to tell why a process ended
PROCESS_MARK = "EVENTLOG_DEMO"

# What would lead a process of ours to somebody's log, backend or supervisor.
_NOT_INHERITED = re.compile(
    r"(EVENTLOG|ALPINE|ARGO)_.*|EXTERNAL_SIGNAL_API_KEY|DATABASE_URL|NOTIFY_SOCKET"
)


class Stopped(Exception):
    """Somebody wants the demo to end."""


class ProcessFailed(Exception):
    """A part of the demo did not do what it is there for. `code` is the exit code."""

    def __init__(self, what: str, *, code: int, log: Path | None = None) -> None:
        super().__init__(f"{what}; its log is {log}" if log is not None else what)
        self.code = code


class StopRequest:
    """Called by Ctrl-C and SIGTERM. It only takes note: the demo looks at points of its own."""

    name = ""

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(signum).name

    def check(self) -> None:
        """Raises Stopped once it was called."""
        if self.name:
            raise Stopped(self.name)

    def sleep(self, seconds: float) -> None:
        """Waits so long. Raises Stopped."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left_s, STEP_S))
        self.check()


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str  # stdout and stderr


class ManagedProcess(NamedTuple):
    """A process that runs, or ran."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def words(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    def failed(self, what: str) -> ProcessFailed:
        """The error of it, with what it said last."""
        lines = self.words[-ERROR_TAIL_BYTES:].strip().splitlines()
        code = self.process.poll()
        said = f" ({lines[-1].strip()})" if lines else ""
        return ProcessFailed(
            f"{self.name} {what}{said}", code=code if code in (1, 3) else 1, log=self.log
        )


class ProcessGroup:
    """What runs for the demo. A context manager."""

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
        """Starts a process that runs beside the demo."""
        log = self._logs / f"{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not _NOT_INHERITED.fullmatch(k)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(map(str, words)),
                cwd=CHECKOUT,
                env={**inherited, **(env or {}), PROCESS_MARK: self._token},
                stdin=subprocess.PIPE,  # it ends with the demo, and who listens to it ends too
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
        return Ended(member.process.returncode, member.words)

    def wait_for(self, member: ManagedProcess, said: Callable[[str], str | None]) -> str:
        """What `said` makes of its words, once that is something.

        Raises PartFailed where it ends before, or says nothing for too long; Stopped.
        """
        end_s = time.monotonic() + START_S_MAX
        while (found := said(member.words)) is None:
            if member.process.poll() is not None:
                raise member.failed("did not start")
            if time.monotonic() > end_s:
                raise member.failed(f"has not started after {START_S_MAX:.0f} s")
            self._stop.sleep(STEP_S)
        return found

    def check(self, member: ManagedProcess) -> None:
        """Raises PartFailed where it does not run any more."""
        if (code := member.process.poll()) is not None:
            raise member.failed(f"ended with exit code {code}")

    def end(self, member: ManagedProcess) -> None:
        """Asks it to end, and waits. Raises PartFailed unless it ends well."""
        self._members.remove(member)
        _end(member.process)
        if member.process.returncode != 0:
            raise member.failed(f"did not end well ({member.process.returncode})")

    def _wait_until_all_ended(self) -> None:
        """Waits for what outlives its parent for a moment; kills what does so for longer."""
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
                process.environ().get(PROCESS_MARK) == self._token
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, OSError):  # it is gone, or somebody else's
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after some time SIGKILL to it and what is left in its session."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
