"""`run/` of a home: its locks, and the files that name the projections that run.

    signals.lock         held by the process that writes to the table
    alpine.lock          held by the one process that delivers
    <projection>.json    held by the process that runs the projection: state, pid, since, reason

The locks hold the pid of their holder. Other accounts may be allowed to use `data/`, and a lock is
at the mercy of every account that can open its file or directory; so none is kept there.

Invariant: files in `run/` can be opened and replaced by their owner alone; a process that only
reads creates none, and no process creates the home.
"""

import errno
import json
import logging
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from eventlog import UnsafePath
from eventlog.plumbing import FileLock, make_private_dir
from projections.errors import ProjectionError

logger = logging.getLogger(__name__)

SIGNALS_LOCK, ALPINE_LOCK = "signals.lock", "alpine.lock"
RUN_FILE_SUFFIX = ".json"
RUNNING, FAILED, STOPPED, UNKNOWN = "running", "failed", "stopped", "unknown"  # of a projection
RUN_FILE_BYTES_MAX = 64 * 1024
READ_TRIES, READ_RETRY_S = 5, 0.002  # a run file is written in place, which takes less
OLDER_LOCKS = ("signals.db.lock", "alpine.lock")  # in `data/`, before there was a `run/`


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Whether a process runs a projection, and how it does."""

    state: str  # RUNNING, FAILED, STOPPED, or UNKNOWN to an account that cannot read `run/`
    pid: int | None = None
    since: str | None = None  # when the state began, as RFC 3339 text
    reason: str | None = None  # why it has failed

    def to_json(self) -> dict[str, object]:
        """The object `daemon` of `eventlog status --json`."""
        return {"state": self.state, "pid": self.pid, "since": self.since, "reason": self.reason}


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


def run_file_name(projection: str) -> str:
    """The name of the run file of a projection."""
    return f"{quote(projection, safe='')}{RUN_FILE_SUFFIX}"


def read_run_state(home: Path, projection: str) -> RunState:
    """The state of a projection, by its run file. Creates nothing.

    It runs if the lock of the file is held: a pid alone says nothing across containers, and a
    process that was killed leaves its file behind.
    """
    path = run_directory(home) / run_file_name(projection)
    for _ in range(READ_TRIES):
        try:
            report = read_private(path)
            if not FileLock(path).is_held():
                return RunState(state=STOPPED)
        except FileNotFoundError:
            return RunState(state=STOPPED)
        except (OSError, UnsafePath):
            return RunState(state=UNKNOWN)
        found = _parse_run_state(report)
        if found is not None:
            return found
        time.sleep(READ_RETRY_S)
    return RunState(state=RUNNING)  # on a full disk its holder could write nothing


def read_private(path: Path) -> bytes:
    """The content of a file in `run/`, unless it is a link. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.read(fd, RUN_FILE_BYTES_MAX)
    finally:
        os.close(fd)


def _parse_run_state(report: bytes) -> RunState | None:
    try:
        found = json.loads(report)
        return RunState(
            state=FAILED if found["state"] == FAILED else RUNNING,
            pid=int(found["pid"]),
            since=str(found["since"]),
            reason=None if found.get("reason") is None else str(found["reason"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return None  # it is being written


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
