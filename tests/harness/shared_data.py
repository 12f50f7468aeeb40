"""A home whose `data/` another account may write to, as an operator may have set it (mode 2770).

    open_to_group(home)
    hold(path)                 another process holds the lock of that file or directory

Invariant: no process outlives the test that started it.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.command import Done


def open_to_group(home: Path) -> None:
    """Another account, of the group of `data/`, may write there."""
    (home / "data").chmod(0o2770)


@contextmanager
def hold(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Another process holds the lock (flock) of a file or directory; gives its pid.

    It writes its pid into a file that it holds alone, as a holder of ours would.
    """
    script = "import fcntl, os, sys, time\n"
    script += (
        "fd = os.open(sys.argv[1], os.O_RDONLY if sys.argv[2] else os.O_RDWR | os.O_CREAT, 0o600)\n"
    )
    script += "fcntl.flock(fd, fcntl.LOCK_SH if sys.argv[2] else fcntl.LOCK_EX)\n"
    script += "sys.argv[2] or os.pwrite(fd, b'%d\\n' % os.getpid(), 0)\n"
    script += "print('held', flush=True)\ntime.sleep(600)\n"
    holder = subprocess.Popen(
        ["python3", "-c", script, str(path), "shared" if shared else ""], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()


def assert_refused(done: Done) -> None:
    """It could not run, and says so as what, where and do."""
    assert done.code == 3, (done.code, done.out, done.err)
    assert "Traceback" not in done.err, done.err
    assert "error: " in done.err, done.err
    assert "do: " in done.err, done.err


def assert_ended_well(done: Done) -> None:
    """It did what it is for."""
    assert done.code == 0, (done.code, done.out, done.err)
    assert "Traceback" not in done.err, done.err
