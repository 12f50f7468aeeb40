"""A hidden directory for files that nobody needs once their maker is gone.

It is locked (flock) for as long as its maker lives, so that the next one can tell what was left by
one that was killed.

Invariant: what a killed maker left is removed by the next one, and nothing that is still in use.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from projections.sqlite.lock import write_lock

REBUILD_PREFIX = ".rebuild-"
SCRATCH_PREFIX = ".eventlog-scratch-"
ATTEMPTS_MAX = 10_000


@contextmanager
def rebuild_directory(home: Path) -> Iterator[Path]:
    """An empty directory in the home's `data/`, which is made where it is missing."""
    # Under the lock nobody takes a directory that was just made, and is not locked yet, for dead.
    with write_lock(home).held():
        _remove_stale(home / "data", REBUILD_PREFIX)
        path = _make_directory(home / "data")
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        _remove(path)
        os.close(fd)


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """An empty directory in `parent`, for nobody but us. Raises OSError."""
    _remove_stale(parent, SCRATCH_PREFIX)
    path = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Whoever swept this very moment took it for dead; then there is nothing here to use.
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(fd)
    finally:
        _remove(path)


def _make_directory(data: Path) -> Path:
    for number in range(ATTEMPTS_MAX):
        path = data / f"{REBUILD_PREFIX}{os.getpid()}-{number}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            # What is made in it takes its mode from here, as if it were made where it is to go.
            path.chmod(stat.S_IMODE(data.stat().st_mode) & ~stat.S_IRWXO)
            return path
    raise FileExistsError(f"{data} is full of {REBUILD_PREFIX}*")


def _remove_stale(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # somebody else's: no directory, or not ours to open
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # its maker lives
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    # What cannot be removed now, as a thread of ours still writes there, the next one removes.
    shutil.rmtree(path, ignore_errors=True)
