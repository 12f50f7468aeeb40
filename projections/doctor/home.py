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

from eventlog.plumbing import file_system_of, is_network_file_system, shown
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, Finding, judged_sync, latency_of
from projections.sqlite.database import DAMAGED, MISSING, NEWER, database_path, examine

SYNCS, SYNCS_MIN = 100, 20  # tens of milliseconds on a good disk, two seconds on a slow one
SYNC_S_MAX = 3.0  # on a very slow one
LINE = b"x" * 600  # about what a signal takes
NAMES_SHOWN_MAX = 5  # of files that share a trouble
BYTES_LOW, BYTES_OUT = 1 << 30, 64 << 20  # 64 MiB: one segment
INODES_LOW, INODES_OUT = 1_000, 50
MEMORY = frozenset({"tmpfs", "ramfs"})
CLOSED = Path("logs/closed")  # of the home: a directory, or a link to one on a larger disk
LAYERS = frozenset({"overlay", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"})


def directories(home: Path) -> dict[str, Path]:
    """Where `logs/` and `data/` are, or would be made: the next directory above that exists; and
    `logs/closed/` where the operator has it.
    """
    closed = (str(CLOSED),) if (home / CLOSED).is_dir() else ()
    return {f"{name}/": standing(home / name) for name in ("logs", "data", *closed)}


def standing(path: Path) -> Path:
    """`path`, or the next directory above it that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def check_log(log: Mapping[str, object] | None) -> Iterator[Finding]:
    """Whether there is a log; `eventlog verify` looks at every byte of it."""
    if log is None:
        found = "there is none yet"
        yield Finding(check="log", level=NOTE, found=found, do="the first append makes it")
    else:
        found = f"{log['last_seq']} entries in {log['segments']} segments, {log['bytes']:,} bytes"
        yield Finding(check="log", level=OK, found=found)


def check_table(home: Path) -> Iterator[Finding]:
    """Whether there is a table, and whether SQLite can read it."""
    path = database_path(home)
    do = "run `eventlog project sqlite`, or `eventlog rebuild-database`"
    try:
        state = examine(path, thoroughly=True)
    except sqlite3.Error as error:
        state, do = f"cannot be read: {error}", "see `eventlog status`"
    if state == MISSING:
        yield Finding(check="table", level=NOTE, found="there is none yet", do=do)
    elif state == DAMAGED:
        yield Finding(check="table", level=PROBLEM, found="data/signals.db is damaged", do=do)
    elif state == NEWER:
        found, do = "data/signals.db is of a newer version of this program", "use that one"
        yield Finding(check="table", level=PROBLEM, found=found, do=do)
    elif state.startswith("cannot"):
        yield Finding(check="table", level=PROBLEM, found=f"data/signals.db {state}", do=do)
    else:
        yield Finding(
            check="table", level=OK, found="data/signals.db can be read, every page of it"
        )


def check_file_system(home: Path) -> Iterator[Finding]:
    """What kinds of file systems hold the log and what is built from it."""
    for name, path in directories(home).items():
        yield judged_file_system("file system", name, path, is_log=name != "data/")


def judged_file_system(check: str, name: str, path: Path, *, is_log: bool = True) -> Finding:
    """What is known of the kind of file system that `path` is on."""
    kind = file_system_of(os.fspath(path))
    found = f"{name} is on {kind or 'a file system of unknown kind'}"
    trouble = trouble_with(kind, is_log=is_log)
    if trouble is None:
        return Finding(check=check, level=OK, found=found)
    level, why, do = trouble
    return Finding(check=check, level=level, found=f"{found}: {why}", do=do)


def trouble_with(kind: str, *, is_log: bool) -> tuple[str, str, str] | None:
    """Level, why, and what to do; None where there is nothing to say."""
    local = "put the home on a disk of this machine"
    if is_network_file_system(kind):
        return PROBLEM, "locks and syncs are another machine's to keep", local
    if kind in MEMORY:
        level = PROBLEM if is_log else NOTE
        return level, "it is memory, and gone with the next restart", local
    if kind in LAYERS:
        why = "it is a layer of a container, and gone with it"
        return WARNING, why, "mount a volume there"
    if kind.startswith("fuse"):
        why = "a program stands between the log and the disk"
        return WARNING, why, f"{local}, or try it with `eventlog doctor --disk DIR`"
    if not kind:
        do = "look which one it is; `eventlog doctor --disk DIR` tries it"
        return NOTE, "what it promises is not known", do
    return None


def check_sync(home: Path) -> Iterator[Finding]:
    """How long a sync takes where the log is."""
    path = directories(home)["logs/"]
    try:
        fd = _nameless(path)
    except OSError as error:
        yield Finding(
            check="sync",
            level=WARNING,
            found=f"nothing can be written to {shown(str(path))}: {error.strerror}",
            do="run it as the account that appends",
        )
        return
    try:
        yield judged_sync("sync", latency_of(time_syncs(fd, SYNCS, SYNC_S_MAX)))
    except OSError as error:
        do = "make space, or look after the disk: see `dmesg`"
        found = f"a write or its sync failed: {error.strerror}"
        yield Finding(check="sync", level=PROBLEM, found=found, do=do)
    finally:
        os.close(fd)


def _nameless(path: Path) -> int:
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
    ends_s = time.monotonic() + s_max
    while len(times) < count and (len(times) < SYNCS_MIN or time.monotonic() < ends_s):
        begun = time.perf_counter_ns()
        os.pwrite(fd, LINE, len(times) * len(LINE))
        os.fdatasync(fd)
        times.append(time.perf_counter_ns() - begun)
    return times


def check_permissions(home: Path) -> Iterator[Finding]:
    """Who may read and change what."""
    troubles: dict[tuple[str, str, str], list[str]] = {}
    count = 0
    owner = standing(home / "logs").stat().st_uid
    for path in _paths(home):
        with suppress(FileNotFoundError):  # SQLite's files come and go
            count += 1
            for trouble in _troubles_of(path, None if path == home else owner):
                troubles.setdefault(trouble, []).append(str(path.relative_to(home)))
    for (level, found, do), names in troubles.items():
        named = ", ".join(shown(name) for name in names[:NAMES_SHOWN_MAX])
        more = len(names) - NAMES_SHOWN_MAX
        which = named + (f" and {more} more" if more > 0 else "")
        yield Finding(check="permissions", level=level, found=f"{found}: {which}", do=do)
    if not troubles:
        found = f"{count} files and directories, for their owner to change alone"
        yield Finding(check="permissions", level=OK, found=found)


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
        yield from sorted((home / CLOSED).iterdir())


def _troubles_of(path: Path, owner: int | None) -> Iterator[tuple[str, str, str]]:
    status = path.lstat()
    is_link = stat.S_ISLNK(status.st_mode)
    if is_link and path.name == "signals.log":
        return
    if is_link and path.parts[-2:] == CLOSED.parts:
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


def check_space(home: Path) -> Iterator[Finding]:
    """What is left where log and table grow; the log is never pruned."""
    for name, path in directories(home).items():
        found = os.statvfs(path)
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        is_counted = found.f_files > 0  # btrfs and others have no fixed number of inodes
        said = f"{name} {free / (1 << 30):,.1f} GiB free" + (
            f", {inodes:,} inodes" if is_counted else ""
        )
        do = "make space, or move the home to a larger disk: appends fail once it is full"
        if free < BYTES_OUT or (is_counted and inodes < INODES_OUT):
            yield Finding(check="space", level=PROBLEM, found=f"nearly full: {said}", do=do)
        elif free < BYTES_LOW or (is_counted and inodes < INODES_LOW):
            yield Finding(check="space", level=WARNING, found=f"little left: {said}", do=do)
        else:
            yield Finding(check="space", level=OK, found=said)
