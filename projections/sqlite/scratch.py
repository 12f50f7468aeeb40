"""Hidden scratch directories, which are removed when their owner ends.

The owner holds a flock on its directory. A directory without one was left by a killed process, and
the next owner removes it. All of this goes through descriptors: in a directory that another account
may write to, a name may lead elsewhere a moment later.

Invariant: a directory in use is never removed; one left by a killed process is, by the next owner.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from eventlog.plumbing import Directory
from projections.run_directory import make_run_directory

REBUILD_PREFIX = ".rebuild-"
SCRATCH_PREFIX = ".eventlog-scratch-"
ATTEMPTS_MAX = 100  # another owner may remove or lock a new directory before its maker locks it


@contextmanager
def rebuild_directory(home: Path) -> Iterator[Path]:
    """An empty directory in `run/` of the home, which no other account can enter."""
    with _owned_directory(make_run_directory(home), REBUILD_PREFIX) as directory:
        yield Path(directory.path)


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """An empty directory of mode 0700 in `parent`. Raises OSError, UnsafePath.

    The path leads to the open directory, also after another account has renamed it.
    """
    with _owned_directory(parent, SCRATCH_PREFIX) as directory:
        path = f"/proc/self/fd/{directory.fd}"
        if not os.path.isdir(path):  # macOS has no such path
            path = directory.path
        try:
            yield Path(path)
        except EventLogError as error:  # which a person reads
            error.what = error.what.replace(path, directory.path)
            error.where = error.where.replace(path, directory.path)
            raise


@contextmanager
def _owned_directory(parent: Path, prefix: str) -> Iterator[Directory]:
    with Directory.open(parent, follow=True) as above:
        _remove_stale(above, prefix)
        name, directory = _make(above, prefix)
        with directory:
            try:
                yield directory
            finally:
                _remove(above, name, directory)


def _make(above: Directory, prefix: str) -> tuple[str, Directory]:
    """Makes a directory and locks it, without waiting for another process that has locked it."""
    for _ in range(ATTEMPTS_MAX):
        name = f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        directory = above.make_subdirectory(name)
        try:
            if directory.disk.try_lock(directory.fd) and _is_at(above, name, directory):
                return name, directory
        except BaseException:
            directory.close()
            raise
        directory.close()
    raise UnsafePath(
        f"each of {ATTEMPTS_MAX} new scratch directories was locked or removed by another process",
        where=above.path,
        do="find out which process does that, then run this again",
    )


def _is_at(above: Directory, name: str, directory: Directory) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(above.stat(name), os.fstat(directory.fd))
    return False


def _remove_stale(above: Directory, prefix: str) -> None:
    for name in above.names():
        if not name.startswith(prefix):
            continue
        try:
            directory = above.subdirectory(name)
        except (OSError, UnsafePath):
            continue  # not a directory, or this account may not open it
        with directory:
            if directory.disk.try_lock(directory.fd):  # else its owner lives
                _remove(above, name, directory)


def _remove(above: Directory, name: str, directory: Directory) -> None:
    """Empties the open directory, and removes its name. The next owner removes what is left."""
    with suppress(OSError):
        for entry in directory.names():
            try:
                directory.unlink(entry)
            except OSError:  # a directory
                shutil.rmtree(entry, dir_fd=directory.fd, ignore_errors=True)
        os.rmdir(name, dir_fd=above.fd)
