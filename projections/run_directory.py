"""`run/` of a home: its locks, and the files that name the projections that run.

    signals.lock         held by the process that writes to the table
    alpine.lock          held by the one process that delivers
    <projection>.json    held by the process that runs the projection: pid, since, state

The locks hold the pid of their holder. Other accounts may be allowed to use `data/`, and a lock is
at the mercy of every account that can open its file or directory; so none is kept there.

Invariant: files in `run/` can be opened and replaced by their owner alone; a process that only
reads creates none, and no process creates the home.
"""

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from eventlog import UnsafePath
from eventlog.plumbing import FileLock, make_private_dir
from projections.errors import ProjectionError

logger = logging.getLogger(__name__)

SIGNALS_LOCK, ALPINE_LOCK = "signals.lock", "alpine.lock"
RUN_FILE_SUFFIX = ".json"
OLDER_LOCKS = ("signals.db.lock", "alpine.lock")  # in `data/`, before there was a `run/`


def run_directory(home: Path) -> Path:
    """`run/` of a home."""
    return home / "run"


def run_lock(home: Path, name: str, *, covers_directory: bool = False) -> FileLock:
    """The lock on a file in `run/`, which is created when the lock is taken."""

    def make() -> None:
        make_run_directory(home)

    return FileLock(
        run_directory(home) / name,
        prepare=make,
        covers_directory=covers_directory,
        writes_pid=not name.endswith(RUN_FILE_SUFFIX),
    )


def make_run_directory(home: Path) -> Path:
    """Creates `run/` where it is missing, and returns it.

    Raises UnsafePath where another account could replace it or its files, ProjectionError where the
    home itself is not there.
    """
    path = run_directory(home)
    try:
        with suppress(FileExistsError):
            if not os.path.lexists(path):
                make_private_dir(path)
        status = path.lstat()
    except FileNotFoundError:
        raise _moved_error(home) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ProjectionError(
            f"run/ cannot be created: {error.strerror}",
            where=str(path),
            do="let this account write to the home, or create run/ for it with mode 0700",
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafePath("run/ is not a directory", where=str(path), do="move it away")
    if status.st_uid != os.geteuid() != 0:
        raise UnsafePath(
            "run/ belongs to another account",
            where=str(path),
            do="run this command under the account that runs the daemons",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafePath(
            "other accounts may write to run/, and could replace its locks",
            where=str(path),
            do="run `chmod 700` on it",
        )
    return path


def warn_of_older_daemon(home: Path) -> None:
    """Logs a lock that a daemon holds which does not know `run/`: both would write or deliver."""
    for name in OLDER_LOCKS:
        path = home / "data" / name
        with suppress(OSError, UnsafePath):
            if FileLock(path).is_held():
                logger.warning("older_daemon_runs path=%s: stop it", path)


def _moved_error(home: Path) -> ProjectionError:
    """The error for a home that was there before."""
    return ProjectionError(
        "the home is not there; it was moved or removed",
        where=str(home),
        do="nothing was created: start this again with the home's new path",
    )
