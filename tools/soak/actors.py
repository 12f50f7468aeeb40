"""The processes of the soak, which are killed and started again.

Invariant: only processes that were started here are killed, each by its own pid or session.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from tools.soak.generator import COMMAND

CHECKOUT = Path(__file__).resolve().parents[2]
STOP_S_MAX = 30.0  # a daemon ends within 10 s; one that takes longer hangs


class Actor:
    """One program that is started again whenever its process ends.

    `life_s` and `rest_s` bound the time until the next kill and the pause after it; without
    `life_s` it is not killed. Each process has a session of its own; `on_exit` receives the pid of
    a process that has ended.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        random: Random,
        *,
        words: Callable[[], Sequence[object]],
        env: Callable[[], Mapping[str, str]] = dict,
        life_s: tuple[float, float] | None = None,
        rest_s: tuple[float, float] = (0.0, 1.5),
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.life_s = life_s
        self.kills = 0
        self.problems: list[str] = []
        self.err = folder / f"{name}.err"
        self._random = random
        self._words = words
        self._env = env
        self._rest_s = rest_s
        self._on_exit = on_exit
        self.process: subprocess.Popen[bytes] | None = None
        self._due_s = 0.0  # when it is killed or started next

    def turn(self, now_s: float) -> None:
        """Starts, kills or reports the process if that is due."""
        if self.process is None:
            if now_s >= self._due_s:
                self.start()
        elif self.process.poll() is not None:
            self._report_end(f"ended with {self.process.returncode}")
        elif self.life_s is not None and now_s >= self._due_s:
            self.kill()

    def start(self) -> None:
        """Starts the process."""
        with self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [str(word) for word in self._words()],
                cwd=CHECKOUT,
                env={**os.environ, **self._env()},
                stdin=subprocess.PIPE,  # programs that stop at its end stop with us
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
        life_s = self._random.uniform(*self.life_s) if self.life_s is not None else 0.0
        self._due_s = time.monotonic() + life_s

    def settle(self) -> None:
        """Ends the random kills, and starts the process if it is down."""
        self.life_s = None
        if self.process is None:
            self.start()

    def kill(self) -> None:
        """Kills the process with SIGKILL, or its whole session."""
        assert self.process is not None
        self.kills += 1
        if self._random.random() < 0.5:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self._wait()

    def stop(self) -> None:
        """Ends the process with SIGTERM; an exit code other than 0 is a problem."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            code = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{self.name} does not end within {STOP_S_MAX:g} s")
            self.process.kill()
        else:
            if code != 0:
                self._report_end(f"ended with {code} after SIGTERM")
                return
        self._wait()

    def end(self) -> None:
        """Kills the process and its session."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._wait()

    def _report_end(self, how: str) -> None:
        last = self.err.read_text(errors="replace").splitlines()[-3:]
        self.problems.append(f"{self.name} {how}: {' / '.join(last)}")
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self._on_exit is not None:
            self._on_exit(self.process.pid)
        self.process = None
        self._due_s = time.monotonic() + self._random.uniform(*self._rest_s)


class Backend(Actor):
    """The reference Alpine and its PostgreSQL, which are killed together or one by one."""

    def __init__(self, folder: Path, data: Path, random: Random, life_s: tuple[float, float]):
        # A socket that is bound and does not listen reserves the port while the server is down.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        port = self._holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.key = f"soak-{random.getrandbits(64):x}"
        self.data = data
        words = [sys.executable, "-m", "tools.alpine", "--stop-at-eof", "--port", port]
        super().__init__(
            "backend",
            folder,
            random,
            words=lambda: [*words, "--data-dir", data],
            env=lambda: {"EXTERNAL_SIGNAL_API_KEY": self.key, "DATABASE_URL": ""},
            life_s=life_s,
            rest_s=(0.5, 4.0),
        )
        self.postgres_kills = 0
        self._outlives_s = 0.0  # how long the server runs after its PostgreSQL was killed

    def kill(self) -> None:
        """Kills the server; in half of the cases its PostgreSQL some seconds earlier."""
        if not self._outlives_s and self._random.random() < 0.5 and self._kill_postgres():
            self.postgres_kills += 1
            self._outlives_s = self._random.uniform(0.5, 4.0)
            self._due_s = time.monotonic() + self._outlives_s
            return
        self._outlives_s = 0.0
        # The process that holds PostgreSQL has a session of its own, and ends by itself.
        super().kill()

    def settle(self) -> None:
        """Also restarts a server whose PostgreSQL was killed."""
        if self._outlives_s:
            self.kill()
        super().settle()

    def _kill_postgres(self) -> bool:
        pid = self._postmaster()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def _postmaster(self) -> int | None:
        """The pid of PostgreSQL; None while it is down or starting."""
        with suppress(FileNotFoundError, IndexError, ValueError, ProcessLookupError):
            pid = int((self.data / "data" / "postmaster.pid").read_text().split()[0])
            if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres":
                return pid
        return None

    def close(self) -> None:
        """Releases the port, and waits for a PostgreSQL whose server was killed."""
        self._holder.close()
        give_up_s = time.monotonic() + STOP_S_MAX
        while self._postmaster() is not None and time.monotonic() < give_up_s:
            time.sleep(0.1)


def daemon_words(home: Path, *names: str, options: Sequence[object] = ()) -> list[object]:
    """The command line of `eventlog project`."""
    return [COMMAND, "-v", "--home", home, "project", *names, *options]


def rss_bytes(pid: int) -> int | None:
    """The resident memory of a process; None if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None
