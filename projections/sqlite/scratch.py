"""Hidden scratch directories, which are removed when their owner ends.

The owner holds a flock on its directory. A directory without one was left by a killed process, and
the next owner removes it.

Invariant: a directory in use is never removed; one left by a killed process is, by the next owner.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from eventlog.plumbing import make_private_dir
from projections.sqlite.lock import write_lock

REBUILD_PREFIX = ".rebuild-"
SCRATCH_PREFIX = ".eventlog-scratch-"
ATTEMPTS_MAX = 10_000


@contextmanager
def rebuild_directory(home: Path) -> Iterator[Path]:
    """An empty directory in the home's `data/`, which is created where it is missing."""
    with ExitStack() as stack:
        # The write lock keeps other owners from removing ours before it is locked.
        with write_lock(home).held():
            _remove_stale(home / "data", REBUILD_PREFIX)
            path = _make_directory(home / "data")
            stack.enter_context(_owned(path))
        yield path


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """An empty directory of mode 0700 in `parent`. Raises OSError."""
    _remove_stale(parent, SCRATCH_PREFIX)
    path = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    path.chmod(stat.S_IRWXU)  # mkdtemp obeys the umask
    with _owned(path):  # raises where another owner removed it before it was locked
        yield path


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Holds the lock on the directory `path`; removes the directory at the end."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        _remove(path)
        os.close(fd)


def _make_directory(data: Path) -> Path:
    for number in range(ATTEMPTS_MAX):
        path = data / f"{REBUILD_PREFIX}{os.getpid()}-{number}"
        with suppress(FileExistsError):
            make_private_dir(path)
            # create_private_file gives files the mode that fits their directory's.
            path.chmod(stat.S_IMODE(data.stat().st_mode) & ~stat.S_IRWXO)
            return path
    raise FileExistsError(f"{data} is full of {REBUILD_PREFIX}*")


def _remove_stale(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # not a directory, or this account may not open it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # its owner lives
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    # The next owner removes what cannot be removed now.
    shutil.rmtree(path, ignore_errors=True)
