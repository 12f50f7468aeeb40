"""Runs the real `eventlog` command: to its end, as a long-lived pipe, under strace or limits.

    eventlog("cat", home=home).out              its output
    with pipe(home) as p:                       a long-lived `append`
        p.send_items(a_signal(1))
        (receipt,) = p.read_answers()
    done, calls = traced("append", home=home)   its system calls, in order

Invariant: no process outlives the test that started it.
"""

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.deadline import DEADLINE_S, until
from tests.harness.requirements import needs_tool

COMMAND = Path(sys.executable).with_name("eventlog")
NO_STDIN = ("sh", "-c", 'exec "$@" <&-', "sh")  # prefixes for `under`
NO_STDOUT = ("sh", "-c", 'exec "$@" >&-', "sh")
NO_STREAMS = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")


# asyncio's debug mode warns about steps longer than a tenth of a second, which a slow machine has.
_IGNORE_SLOW_STEPS = """\
import logging
logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of a command."""

    code: int
    out: bytes
    err: str

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Its output lines as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Call(NamedTuple):
    """A system call that returned."""

    name: str
    args: str  # as strace -y prints them, with the paths of descriptors
    result: str

    @property
    def path(self) -> str:
        """The path of the descriptor in its arguments, or of the one that it returned."""
        found = re.match(r"-?\d+<([^>]*)>", self.result if "open" in self.name else self.args)
        return found[1] if found else ""


def jsonl(items: Iterable[object]) -> bytes:
    """Items as JSON Lines; bytes are taken as a line."""
    lines = (item if isinstance(item, bytes) else json.dumps(item).encode() for item in items)
    return b"".join(line + b"\n" for line in lines)


def command_line(words: Sequence[object], home: object, under: Sequence[object]) -> list[str]:
    where = [] if home is None else ["--home", home]
    return [str(word) for word in (*under, COMMAND, *where, *words)]


def python_dev(program: str, *words: str) -> list[str]:
    """The command line of a program in development mode, which reports what is not cleaned up."""
    return [sys.executable, "-X", "dev", "-W", "error", "-c", _IGNORE_SLOW_STEPS + program, *words]


def eventlog(
    *words: object,
    home: object = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    under: Sequence[object] = (),
    umask: int = -1,
    cwd: Path | None = None,
    stdout: int | None = None,
) -> Done:
    """Runs the command to its end; `under` is a prefix, such as strace or prlimit."""
    done = subprocess.run(
        command_line(words, home, under),
        input=stdin,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        umask=umask,
        cwd=cwd,
        timeout=DEADLINE_S,
        check=False,
    )
    return Done(code=done.returncode, out=done.stdout or b"", err=done.stderr.decode())


class Pipe:
    """A running `eventlog append`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._received = b""
        self._stderr_lines: list[bytes] = []
        self._stderr_thread = threading.Thread(target=self._read_stderr)
        self._stderr_thread.start()

    def send_items(self, *items: object) -> None:
        """Writes lines to its stdin. Raises BrokenPipeError if it has ended."""
        self.write_bytes_to_stdin(jsonl(items))

    def write_bytes_to_stdin(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self.process.stdin.fileno(), view) :]

    def has_unread_input(self) -> bool:
        """Whether lines that were sent to it wait in its stdin."""
        assert self.process.stdin is not None
        waiting = fcntl.ioctl(self.process.stdin.fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(waiting, sys.byteorder) > 0

    def read_answers(self, count: int = 1) -> list[dict[str, Any]]:
        """The next `count` answers; fewer only at the end of its output."""
        give_up_s = time.monotonic() + DEADLINE_S
        while self._received.count(b"\n") < count and self._receive(give_up_s):
            pass
        *lines, rest = self._received.split(b"\n", count)
        self._received = rest if len(lines) == count else b""
        return [json.loads(line) for line in lines]

    def read_all_answers(self) -> list[dict[str, Any]]:
        """All answers to the end of its output, without a last one that is cut off."""
        give_up_s = time.monotonic() + DEADLINE_S
        while self._receive(give_up_s):
            pass
        *lines, self._received = self._received.split(b"\n")
        return [json.loads(line) for line in lines]

    def is_silent(self, for_s: float = 0.2) -> bool:
        """Whether there is no answer, now or within `for_s`."""
        assert self.process.stdout is not None
        return not self._received and not select.select([self.process.stdout], [], [], for_s)[0]

    def _receive(self, give_up_s: float) -> bool:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], give_up_s - time.monotonic())
        assert ready, f"no answer within {DEADLINE_S:g} s"
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        self._received += data
        return bool(data)

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close_stdout(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Its exit code; fails if it does not end in time."""
        return self.process.wait(timeout_s)

    @property
    def err(self) -> str:
        """Its stderr, after its end."""
        self._stderr_thread.join()
        return self.err_so_far

    @property
    def err_so_far(self) -> str:
        """The whole lines of its stderr so far."""
        return b"".join(self._stderr_lines).decode()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self._stderr_lines.extend(self.process.stderr)


@contextmanager
def pipe(
    home: object,
    *words: object,
    command: str = "append",
    under: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Pipe]:
    """A running `eventlog append`, or another command, killed at the end if it is still running."""
    process = subprocess.Popen(
        command_line((command, *words), home, under),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        bufsize=0,
        start_new_session=True,  # children, as of strace, are killed with it
    )
    running = Pipe(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert running.err is not None
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def child_of(process: subprocess.Popen[bytes]) -> int:
    """Waits until strace runs its program; returns the pid of that."""
    proc = Path("/proc")
    strace_exe = (proc / str(process.pid) / "exe").resolve()
    children = proc / str(process.pid) / "task" / str(process.pid) / "children"
    found: list[int] = []

    def has_started() -> bool:
        for pid in children.read_text().split():
            with suppress(OSError):  # strace has test children that end at once
                if (proc / pid / "exe").resolve(strict=True) != strace_exe:
                    found.append(int(pid))
        return bool(found)

    until(has_started, "the start of a child")
    return found[0]


def strace(*options: object, out: Path | str = "/dev/null") -> tuple[object, ...]:
    """A prefix for `under` that traces calls, or makes them fail: `-e inject=...`."""
    return (needs_tool("strace", apt="strace"), "-f", "-qq", "-o", out, *options)


def traced(
    *words: object, home: object, trace: str, stdin: bytes = b"", options: Sequence[object] = ()
) -> tuple[Done, list[Call]]:
    """Runs the command; returns its calls, named in `trace`, in the order of their return.

    A write is listed at its begin: its bytes may be read from then on.
    """
    with tempfile.NamedTemporaryFile() as out:
        under = strace("-y", "-s", 1_000_000, "-e", f"trace={trace}", *options, out=out.name)
        done = eventlog(*words, home=home, stdin=stdin, under=under)
        text = Path(out.name).read_text()
    return done, list(_calls(text))


_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (.*)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)")


def _calls(text: str) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for line in text.splitlines():
        if found := _WHOLE.match(line):
            _, name, args, result = found.groups()
            yield Call(name, args, result)
        elif found := _BEGUN.match(line):
            pid, name, args = found.groups()
            begun[pid] = args
            if name == "write":
                yield Call(name, args, "")
        elif found := _RESUMED.match(line):
            pid, name, args, result = found.groups()
            if name != "write":
                yield Call(name, begun.pop(pid) + args, result)
