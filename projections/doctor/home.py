"""The checks of a home: log, file systems, sync, permissions, free space.

Invariant: nothing is changed or created; the timed writes go to an unnamed file.
"""

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from eventlog.plumbing import (
    bytes_text,
    count_text,
    filesystem_type,
    is_network_filesystem,
    printable_value,
)
from projections.doctor.finding import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    DoctorFinding,
    summarize_latency,
    sync_finding,
)
from projections.sqlite.index_space import BLOCK_BYTES_MIN, block_bytes, has_small_blocks

SYNCS_MAX, SYNCS_MIN = 100, 20  # tens of milliseconds on a good disk, two seconds on a slow one
SYNC_S_MAX = 3.0  # limit on a very slow disk
SAMPLE_LINE = b"x" * 600  # about the size of a signal
NAMES_SHOWN_MAX = 5  # files named per problem
BYTES_LOW, BYTES_EXHAUSTED = 1 << 30, 64 << 20  # 64 MiB is one segment
INODES_LOW, INODES_EXHAUSTED = 1_000, 50
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
CLOSED_DIRECTORY = Path("logs/closed")  # a directory, or a link to one on a larger disk
OVERLAY_FILE_SYSTEMS = frozenset({"overlay", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"})


def directories(home: Path) -> dict[str, Path]:
    """The nearest existing directory of `logs/`, `data/` and, if it exists, `logs/closed/`."""
    closed = (str(CLOSED_DIRECTORY),) if (home / CLOSED_DIRECTORY).is_dir() else ()
    return {f"{name}/": nearest_existing(home / name) for name in ("logs", "data", *closed)}


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def check_log(log: Mapping[str, object] | None) -> Iterator[DoctorFinding]:
    """Reports whether there is a log. `eventlog verify` checks every byte of it."""
    if log is None:
        found = "there is none yet"
        yield DoctorFinding(check="log", level=NOTE, found=found, do="the first append creates it")
    else:
        entries, segments, size = (log[key] for key in ("last_seq", "segments", "bytes"))
        assert isinstance(entries, int) and isinstance(segments, int) and isinstance(size, int)
        found = f"{count_text(entries, 'entry')} in {count_text(segments, 'segment')}"
        found += f", {bytes_text(size)}"
        yield DoctorFinding(check="log", level=OK, found=found)


def check_file_system(home: Path) -> Iterator[DoctorFinding]:
    """Reports the kinds of file systems that hold the log and the databases."""
    for name, path in directories(home).items():
        yield file_system_finding("file system", name, path, is_log=name != "data/")
    data = directories(home)["data/"]
    if has_small_blocks(data):
        found = f"data/ is on a file system with blocks of {block_bytes(data):,} bytes"
        why = "where the disk is nearly full, the table waits for space"
        do = f"use a file system with blocks of {BLOCK_BYTES_MIN:,} bytes"
        yield DoctorFinding(check="file system", level=WARNING, found=f"{found}: {why}", do=do)


def file_system_finding(check: str, name: str, path: Path, *, is_log: bool = True) -> DoctorFinding:
    """Reports the kind of file system that holds `path`."""
    kind = filesystem_type(os.fspath(path))
    found = f"{name} is on {kind or 'a file system of unknown kind'}"
    problem = file_system_problem(kind, is_log=is_log)
    if problem is None:
        return DoctorFinding(check=check, level=OK, found=found)
    level, why, do = problem
    return DoctorFinding(check=check, level=level, found=f"{found}: {why}", do=do)


def file_system_problem(kind: str, *, is_log: bool) -> tuple[str, str, str] | None:
    """Level, reason and what to do for a kind of file system; None if it is suitable."""
    local = "move the home to a disk of this machine"
    if is_network_filesystem(kind):
        return PROBLEM, "locks and syncs depend on another machine", local
    if kind in MEMORY_FILE_SYSTEMS:
        level = PROBLEM if is_log else NOTE
        return level, "it is memory, which is lost at the next restart", local
    if kind in OVERLAY_FILE_SYSTEMS:
        why = "it is a container layer, which is lost with the container"
        return WARNING, why, "mount a volume there"
    if kind.startswith("fuse"):
        why = "a FUSE program lies between the log and the disk"
        return WARNING, why, f"{local}, or test it with `eventlog doctor --disk DIR`"
    if not kind:
        do = "find out which it is, and test it with `eventlog doctor --disk DIR`"
        return NOTE, "its guarantees are not known", do
    return None


def check_sync(home: Path) -> Iterator[DoctorFinding]:
    """Measures how long a sync takes where the log is."""
    path = directories(home)["logs/"]
    try:
        fd = _open_unnamed(path)
    except OSError as error:
        yield DoctorFinding(
            check="sync",
            level=WARNING,
            found=f"nothing can be written to {printable_value(str(path))}: {error.strerror}",
            do="run doctor under the account that appends",
        )
        return
    try:
        yield sync_finding("sync", summarize_latency(time_syncs(fd, SYNCS_MAX, SYNC_S_MAX)))
    except OSError as error:
        do = "free some space, or check the disk: see `dmesg`"
        found = f"a write or its sync failed: {error.strerror}"
        yield DoctorFinding(check="sync", level=PROBLEM, found=found, do=do)
    finally:
        os.close(fd)


def _open_unnamed(path: Path) -> int:
    """Opens an unnamed file in a directory; it is gone when the descriptor is closed."""
    with suppress(AttributeError):
        try:
            return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
    with tempfile.TemporaryFile(dir=path) as file:
        return os.dup(file.fileno())


def time_syncs(fd: int, count: int, s_max: float) -> list[int]:
    """The duration of each write + fdatasync of a line, in nanoseconds; at least SYNCS_MIN."""
    times: list[int] = []
    deadline_s = time.monotonic() + s_max
    while len(times) < count and (len(times) < SYNCS_MIN or time.monotonic() < deadline_s):
        started_ns = time.perf_counter_ns()
        os.pwrite(fd, SAMPLE_LINE, len(times) * len(SAMPLE_LINE))
        os.fdatasync(fd)
        times.append(time.perf_counter_ns() - started_ns)
    return times


def check_permissions(home: Path) -> Iterator[DoctorFinding]:
    """Reports files and directories that other accounts may read or change."""
    problems: dict[tuple[str, str, str], list[str]] = {}
    count = 0
    owner = nearest_existing(home / "logs").stat().st_uid
    for path in _paths(home):
        with suppress(FileNotFoundError):  # SQLite creates and removes files meanwhile
            count += 1
            for problem in _permission_problems(path, None if path == home else owner):
                problems.setdefault(problem, []).append(str(path.relative_to(home)))
    for (level, found, do), names in problems.items():
        shown = ", ".join(printable_value(name) for name in names[:NAMES_SHOWN_MAX])
        more = len(names) - NAMES_SHOWN_MAX
        paths = shown + (f" and {more} more" if more > 0 else "")
        yield DoctorFinding(check="permissions", level=level, found=f"{found}: {paths}", do=do)
    if not problems:
        found = f"files and directories that only their owner may change: {count:,}"
        yield DoctorFinding(check="permissions", level=OK, found=found)


def _paths(home: Path) -> Iterator[Path]:
    """The home, its directories and their files, except those that cannot be listed."""
    if not home.is_dir():
        return
    yield home
    for name in ("logs", "data", "run", "evidence"):
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
            do = "mount the disk that the link leads to, or correct the link"
            yield PROBLEM, "the directory of closed segments is missing", do
            return
        status, is_link = path.stat(), False
    if is_link or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        do = "replace it by the file or directory itself"
        yield PROBLEM, "neither a regular file nor a directory", do
        return
    if owner is not None and status.st_uid != owner:
        do = "run all writers under one account, and give it these files with chown"
        yield WARNING, "not owned by the owner of logs/", do
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield PROBLEM, "other accounts may change these", "run chmod go-w on them"
    if status.st_mode & stat.S_IROTH and stat.S_ISREG(status.st_mode):
        yield WARNING, "every account on this machine may read these", "run chmod o-rwx on them"
    if not os.access(path, os.R_OK | os.W_OK):
        yield WARNING, "this account may not read and write these", "run doctor as their owner"


def check_space(home: Path) -> Iterator[DoctorFinding]:
    """Reports the free space where log and table grow. The log is never pruned."""
    for name, path in directories(home).items():
        found = os.statvfs(path)
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        is_counted = found.f_files > 0  # btrfs and others have no fixed number of inodes
        figures = f"{name} {bytes_text(free)} free" + (
            f", {count_text(inodes, 'inode')}" if is_counted else ""
        )
        if free < BYTES_EXHAUSTED or (is_counted and inodes < INODES_EXHAUSTED):
            level, figures = PROBLEM, f"nearly full: {figures}"
        elif free < BYTES_LOW or (is_counted and inodes < INODES_LOW):
            level, figures = WARNING, f"low: {figures}"
        else:
            level = OK
        do = "free some space or move the home to a larger disk: appends fail when it is full"
        yield _finding("space", level, figures, do)


def _finding(check: str, level: str, found: str, do: str) -> DoctorFinding:
    """A finding, which needs no `do` if it is ok."""
    return DoctorFinding(check=check, level=level, found=found, do=None if level == OK else do)
