"""What `doctor` looks at in a home: its file systems, sync, permissions, space, log and table.

Invariant: nothing is changed or made; what is timed is written to a file without a name.
"""

import errno
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from eventlog.plumbing import filesystem_type, is_network_filesystem, printable_value
from projections.doctor.finding import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    DoctorFinding,
    summarize_latency,
    sync_finding,
)
from projections.sqlite.database import DAMAGED, MISSING, NEWER, database_path, inspect_database

SYNCS_MAX, SYNCS_MIN = 100, 20  # tens of milliseconds on a good disk, two seconds on a slow one
SYNC_S_MAX = 3.0  # on a very slow one
SAMPLE_LINE = b"x" * 600  # about what a signal takes
NAMES_SHOWN_MAX = 5  # of files that share a trouble
BYTES_LOW, BYTES_EXHAUSTED = 1 << 30, 64 << 20  # 64 MiB: one segment
INODES_LOW, INODES_EXHAUSTED = 1_000, 50
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
CLOSED_DIRECTORY = Path(
    "logs/closed"
)  # of the home: a directory, or a link to one on a larger disk
OVERLAY_FILE_SYSTEMS = frozenset({"overlay", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"})


def directories(home: Path) -> dict[str, Path]:
    """Where `logs/` and `data/` are, or would be made: the next directory above that exists; and
    `logs/closed/` where the operator has it.
    """
    closed = (str(CLOSED_DIRECTORY),) if (home / CLOSED_DIRECTORY).is_dir() else ()
    return {f"{name}/": nearest_existing(home / name) for name in ("logs", "data", *closed)}


def nearest_existing(path: Path) -> Path:
    """`path`, or the next directory above it that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def check_log(log: Mapping[str, object] | None) -> Iterator[DoctorFinding]:
    """Whether there is a log; `eventlog verify` looks at every byte of it."""
    if log is None:
        found = "there is none yet"
        yield DoctorFinding(check="log", level=NOTE, found=found, do="the first append makes it")
    else:
        found = f"{log['last_seq']} entries in {log['segments']} segments, {log['bytes']:,} bytes"
        yield DoctorFinding(check="log", level=OK, found=found)


def check_table(home: Path) -> Iterator[DoctorFinding]:
    """Whether there is a table, and whether SQLite can read it."""
    path = database_path(home)
    do = "run `eventlog project sqlite`, or `eventlog rebuild-database`"
    try:
        state = inspect_database(path, check_pages=True)
    except sqlite3.Error as error:
        state, do = f"cannot be read: {error}", "see `eventlog status`"
    if state == MISSING:
        yield DoctorFinding(check="table", level=NOTE, found="there is none yet", do=do)
    elif state == DAMAGED:
        yield DoctorFinding(check="table", level=PROBLEM, found="data/signals.db is damaged", do=do)
    elif state == NEWER:
        found, do = "data/signals.db is of a newer version of this program", "use that one"
        yield DoctorFinding(check="table", level=PROBLEM, found=found, do=do)
    elif state.startswith("cannot"):
        yield DoctorFinding(check="table", level=PROBLEM, found=f"data/signals.db {state}", do=do)
    else:
        yield DoctorFinding(
            check="table", level=OK, found="data/signals.db can be read, every page of it"
        )


def check_file_system(home: Path) -> Iterator[DoctorFinding]:
    """What kinds of file systems hold the log and what is built from it."""
    for name, path in directories(home).items():
        yield file_system_finding("file system", name, path, is_log=name != "data/")


def file_system_finding(check: str, name: str, path: Path, *, is_log: bool = True) -> DoctorFinding:
    """What is known of the kind of file system that `path` is on."""
    kind = filesystem_type(os.fspath(path))
    found = f"{name} is on {kind or 'a file system of unknown kind'}"
    problem = file_system_problem(kind, is_log=is_log)
    if problem is None:
        return DoctorFinding(check=check, level=OK, found=found)
    level, why, do = problem
    return DoctorFinding(check=check, level=level, found=f"{found}: {why}", do=do)


def file_system_problem(kind: str, *, is_log: bool) -> tuple[str, str, str] | None:
    """Level, why, and what to do; None where there is nothing to say."""
    local = "put the home on a disk of this machine"
    if is_network_filesystem(kind):
        return PROBLEM, "locks and syncs are another machine's to keep", local
    if kind in MEMORY_FILE_SYSTEMS:
        level = PROBLEM if is_log else NOTE
        return level, "it is memory, and gone with the next restart", local
    if kind in OVERLAY_FILE_SYSTEMS:
        why = "it is a layer of a container, and gone with it"
        return WARNING, why, "mount a volume there"
    if kind.startswith("fuse"):
        why = "a program stands between the log and the disk"
        return WARNING, why, f"{local}, or try it with `eventlog doctor --disk DIR`"
    if not kind:
        do = "look which one it is; `eventlog doctor --disk DIR` tries it"
        return NOTE, "what it promises is not known", do
    return None


def check_sync(home: Path) -> Iterator[DoctorFinding]:
    """How long a sync takes where the log is."""
    path = directories(home)["logs/"]
    try:
        fd = _open_unnamed(path)
    except OSError as error:
        yield DoctorFinding(
            check="sync",
            level=WARNING,
            found=f"nothing can be written to {printable_value(str(path))}: {error.strerror}",
            do="run it as the account that appends",
        )
        return
    try:
        yield sync_finding("sync", summarize_latency(time_syncs(fd, SYNCS_MAX, SYNC_S_MAX)))
    except OSError as error:
        do = "make space, or look after the disk: see `dmesg`"
        found = f"a write or its sync failed: {error.strerror}"
        yield DoctorFinding(check="sync", level=PROBLEM, found=found, do=do)
    finally:
        os.close(fd)


def _open_unnamed(path: Path) -> int:
    """A file in that directory which nobody sees, and which goes with its descriptor."""
    with suppress(AttributeError):
        try:
            return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
    with tempfile.TemporaryFile(dir=path) as file:
        return os.dup(file.fileno())


def time_syncs(fd: int, count: int, s_max: float) -> list[int]:
    """Nanoseconds of each write + fdatasync, one line after the other; at least SYNCS_MIN."""
    times: list[int] = []
    deadline_s = time.monotonic() + s_max
    while len(times) < count and (len(times) < SYNCS_MIN or time.monotonic() < deadline_s):
        started_ns = time.perf_counter_ns()
        os.pwrite(fd, SAMPLE_LINE, len(times) * len(SAMPLE_LINE))
        os.fdatasync(fd)
        times.append(time.perf_counter_ns() - started_ns)
    return times


def check_permissions(home: Path) -> Iterator[DoctorFinding]:
    """Who may read and change what."""
    problems: dict[tuple[str, str, str], list[str]] = {}
    count = 0
    owner = nearest_existing(home / "logs").stat().st_uid
    for path in _paths(home):
        with suppress(FileNotFoundError):  # SQLite's files come and go
            count += 1
            for problem in _permission_problems(path, None if path == home else owner):
                problems.setdefault(problem, []).append(str(path.relative_to(home)))
    for (level, found, do), names in problems.items():
        named = ", ".join(printable_value(name) for name in names[:NAMES_SHOWN_MAX])
        more = len(names) - NAMES_SHOWN_MAX
        which = named + (f" and {more} more" if more > 0 else "")
        yield DoctorFinding(check="permissions", level=level, found=f"{found}: {which}", do=do)
    if not problems:
        found = f"{count} files and directories, for their owner to change alone"
        yield DoctorFinding(check="permissions", level=OK, found=found)


def _paths(home: Path) -> Iterator[Path]:
    """The home, its directories, and the files in them; what cannot be listed is left out."""
    if not home.is_dir():
        return
    yield home
    for name in ("logs", "data"):
        with suppress(OSError):
            if (home / name).lstat():
                yield home / name
            yield from sorted((home / name).iterdir())
    with suppress(OSError):
        yield from sorted((home / CLOSED_DIRECTORY).iterdir())


def _permission_problems(path: Path, owner: int | None) -> Iterator[tuple[str, str, str]]:
    status = path.lstat()
    is_link = stat.S_ISLNK(status.st_mode)
    if is_link and path.name == "signals.log":
        return
    if is_link and path.parts[-2:] == CLOSED_DIRECTORY.parts:
        if not path.is_dir():
            do = "mount the disk that the link leads to, or mend the link"
            yield PROBLEM, "the directory of closed segments is not there", do
            return
        status, is_link = path.stat(), False
    if is_link or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        yield PROBLEM, "neither file nor directory", "put what it stands for in its place"
        return
    if owner is not None and status.st_uid != owner:
        do = "run all that writes under one account, and give it these by chown"
        yield WARNING, "not of the account that logs/ belongs to", do
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield PROBLEM, "others may change these", "take that away: chmod go-w"
    if status.st_mode & stat.S_IROTH and stat.S_ISREG(status.st_mode):
        yield WARNING, "anybody on this machine may read these", "take that away: chmod o-rwx"
    if not os.access(path, os.R_OK | os.W_OK):
        yield WARNING, "this account may not read and write these", "run it as their owner"


def check_space(home: Path) -> Iterator[DoctorFinding]:
    """What is left where log and table grow; the log is never pruned."""
    for name, path in directories(home).items():
        found = os.statvfs(path)
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        is_counted = found.f_files > 0  # btrfs and others have no fixed number of inodes
        figures = f"{name} {free / (1 << 30):,.1f} GiB free" + (
            f", {inodes:,} inodes" if is_counted else ""
        )
        do = "make space, or move the home to a larger disk: appends fail once it is full"
        if free < BYTES_EXHAUSTED or (is_counted and inodes < INODES_EXHAUSTED):
            yield DoctorFinding(
                check="space", level=PROBLEM, found=f"nearly full: {figures}", do=do
            )
        elif free < BYTES_LOW or (is_counted and inodes < INODES_LOW):
            yield DoctorFinding(
                check="space", level=WARNING, found=f"little left: {figures}", do=do
            )
        else:
            yield DoctorFinding(check="space", level=OK, found=figures)
