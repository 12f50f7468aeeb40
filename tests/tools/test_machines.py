"""tools/cluster: what is killed comes back, the replica becomes the log, and no process is left."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # the extra `alpine` brings it; it is untyped
import pytest

from tests.harness.command import eventlog
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import lines_in
from tests.harness.requirements import CHECKOUT

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-P", "-m", "tools.machines")
NAMES = ["n0", "n1", "n2", "generator", "mirror", "follower", "table"]


class Running:
    """A running cluster."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        return self._output.read_text()

    def pid(self, name: str) -> int:
        """The pid that it printed last for a process."""
        found = re.findall(rf"\b{name} +\(?(\d+)", self.text)
        return int(found[-1])

    def replicated(self) -> int:
        """The last seq that it printed as replicated."""
        found = re.findall(r"replicated +(\d+)", self.text)
        return int(found[-1]) if found else 0

    def press_enter(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


@contextmanager
def cluster(tmp_path: Path, home: Path) -> Iterator[Running]:
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "--home", str(home), "--rate", "50"],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
        running = Running(process, tmp_path / "output")
        try:
            yield running
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
            assert process.stdin is not None
            process.stdin.close()


def test_what_is_killed_comes_back_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "cluster"
    with cluster(tmp_path, home) as running:
        until(lambda: running.replicated() > 20, lambda: running.text)
        pids = [running.pid(name) for name in NAMES]
        for name in ("n1", "mirror", "follower"):
            os.kill(running.pid(name), signal.SIGKILL)
            until(lambda n=name: f"{n} was killed by SIGKILL" in running.text)  # type: ignore[misc]
        before = running.replicated()
        running.press_enter()
        until(lambda: "started again: n1" in running.text)
        until(lambda: running.replicated() > before + 20, lambda: running.text)
        pids += [running.pid(name) for name in ("n1", "mirror", "follower")]
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(DEADLINE_S) == 130
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    verified = eventlog("verify", home=home / "replica")
    assert verified.code == 0
    log, copy = lines_in(home / "primary"), lines_in(home / "replica")
    assert copy == log[: len(copy)]
    assert len(copy) > before


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        [*COMMAND, "--home", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, "has files that are not from tools/cluster" in done.stderr) == (
        3,
        True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
