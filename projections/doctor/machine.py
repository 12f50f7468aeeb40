"""What `doctor` asks of the machine: Python, SQLite, file events, the clock.

Invariant: nothing is changed; what was taken to try something is given back.
"""

import ctypes
import errno
import os
import platform
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, DoctorFinding

# SQLite lost or damaged pages when two connections wrote and checkpointed a WAL at the same time.
WAL_RESET_FIXED = (3, 51, 3)
INOTIFY = Path("/proc/sys/fs/inotify")
WATCHES_MIN = 8_192  # the kernel's default of old; editors and sync tools eat thousands
INSTANCES_MIN = 128
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)  # a clock that is before it was never set
IN_CLOEXEC = os.O_CLOEXEC
IN_MODIFY = 0x2
STA_UNSYNC = 0x40  # of adjtimex(2)
_TIMEX_BYTES = 512  # more than `struct timex` has on any Linux
_STATUS_OFFSET_LONGS = 4  # modes, offset, freq, maxerror, esterror, and then status


def check_python() -> Iterator[DoctorFinding]:
    """Which Python runs which version of this package, and on what."""
    found = f"eventlog {version('eventlog')} on Python {platform.python_version()}"
    yield DoctorFinding(check="python", level=OK, found=f"{found}, {platform.platform(terse=True)}")


def check_sqlite() -> Iterator[DoctorFinding]:
    """The SQLite library that this Python uses."""
    yield sqlite_finding(sqlite3.sqlite_version_info)


def sqlite_finding(found: tuple[int, ...]) -> DoctorFinding:
    """What is known about a version of SQLite."""
    name = ".".join(map(str, found))
    if found >= WAL_RESET_FIXED:
        return DoctorFinding(check="sqlite", level=OK, found=name)
    return DoctorFinding(
        check="sqlite",
        level=NOTE,
        found=f"{name} has the WAL-reset fault, mended in 3.51.3: two connections that write and"
        " checkpoint at once may damage the file. Here one writes at a time, under"
        " data/signals.db.lock, and the table can be rebuilt",
        do="let no other program write to data/signals.db: open it read-only",
    )


def check_inotify(path: Path) -> Iterator[DoctorFinding]:
    """Whether changes of the log can be watched; a timer is there where they cannot."""
    problem = _watch_problem(path)
    limits = {name: _number(INOTIFY / name) for name in ("max_user_watches", "max_user_instances")}
    figures = ", ".join(f"{name} {value}" for name, value in limits.items())
    effect = "news of the log then comes within a second, not within milliseconds"
    if problem:
        do = "raise fs.inotify.max_user_instances and max_user_watches by sysctl, or end what uses"
        yield DoctorFinding(
            check="inotify",
            level=WARNING,
            found=f"no watch can be had ({problem}; {figures}): {effect}",
            do=f"{do} them up",
        )
    elif (limits["max_user_watches"] or WATCHES_MIN) < WATCHES_MIN or (
        limits["max_user_instances"] or INSTANCES_MIN
    ) < INSTANCES_MIN:
        yield DoctorFinding(
            check="inotify",
            level=NOTE,
            found=f"low limits, {figures}: when they are used up, {effect}",
            do=f"raise them by sysctl to {WATCHES_MIN:,} watches and {INSTANCES_MIN} instances",
        )
    else:
        yield DoctorFinding(check="inotify", level=OK, found=f"a watch can be had; {figures}")


def _watch_problem(path: Path) -> str:
    """Why no watch of `path` can be had; empty where one can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return "this system has no inotify"
    fd = libc.inotify_init1(IN_CLOEXEC)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    try:
        if libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY) < 0:
            code = ctypes.get_errno()
            return "no watches are left" if code == errno.ENOSPC else os.strerror(code)
    finally:
        os.close(fd)
    return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_clock(now: datetime, last_recorded_at: str | None) -> Iterator[DoctorFinding]:
    """Whether the clock can be believed: `recorded_at` and `--as-of` go by it."""
    if now < EARLIEST:
        yield DoctorFinding(
            check="clock",
            level=PROBLEM,
            found=f"it says {now:%Y-%m-%d}: it was never set",
            do="set it, and run an NTP client, before anything is appended",
        )
        return
    if last_recorded_at is not None:
        ahead_s = (datetime.fromisoformat(last_recorded_at) - now).total_seconds()
        if ahead_s > 1:
            yield DoctorFinding(
                check="clock",
                level=PROBLEM if ahead_s > 3_600 else WARNING,
                found=f"the last entry was recorded {ahead_s:,.0f} s after now: the clock was"
                " ahead then, or is behind now",
                do="set the clock; until it has passed that moment all entries get that same"
                " recorded_at, since it never decreases",
            )
            return
    if is_clock_synchronised() is False:
        yield DoctorFinding(
            check="clock",
            level=NOTE,
            found=f"{now:%Y-%m-%d %H:%M:%S} UTC; the kernel says that nobody keeps it synchronised",
            do="run an NTP client such as chrony, unless the host of this machine sets its clock",
        )
    else:
        yield DoctorFinding(check="clock", level=OK, found=f"{now:%Y-%m-%d %H:%M:%S} UTC")


def is_clock_synchronised() -> bool | None:
    """What the kernel says, by adjtimex(2) without a change; None where it does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex"):
        return None
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only asks
    if libc.adjtimex(timex) < 0:
        return None
    at = (1 + _STATUS_OFFSET_LONGS) * ctypes.sizeof(ctypes.c_long)
    return not ctypes.c_int.from_buffer(timex, at).value & STA_UNSYNC
