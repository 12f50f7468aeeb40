"""The checks of the machine: Python, SQLite, file events, the clock.

Invariant: nothing is changed; resources taken for a check are released.
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

from eventlog.plumbing import duration_text
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING, DoctorFinding

# Earlier versions may damage the database when two connections write and checkpoint at once.
WAL_RESET_FIXED = (3, 51, 3)
INOTIFY = Path("/proc/sys/fs/inotify")
WATCHES_MIN = 8_192  # the former default of Linux; editors and sync tools use thousands
INSTANCES_MIN = 128
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)  # a clock before this time was never set
IN_CLOEXEC = os.O_CLOEXEC
IN_MODIFY = 0x2
STA_UNSYNC = 0x40  # of adjtimex(2)
_TIMEX_BYTES = 512  # larger than `struct timex` on any Linux
_STATUS_OFFSET_LONGS = 4  # `status` follows modes, offset, freq, maxerror and esterror


def check_python() -> Iterator[DoctorFinding]:
    """Reports the versions of eventlog, Python and the operating system."""
    found = f"eventlog {version('signal-eventlog')} on Python {platform.python_version()}"
    yield DoctorFinding(check="python", level=OK, found=f"{found}, {platform.platform(terse=True)}")


def check_sqlite() -> Iterator[DoctorFinding]:
    """Checks the version of the SQLite library that Python uses."""
    yield sqlite_finding(sqlite3.sqlite_version_info)


def sqlite_finding(found: tuple[int, ...]) -> DoctorFinding:
    """Reports the known bug of a SQLite version, if it has it."""
    name = ".".join(map(str, found))
    if found >= WAL_RESET_FIXED:
        return DoctorFinding(check="sqlite", level=OK, found=name)
    return DoctorFinding(
        check="sqlite",
        level=NOTE,
        found=f"{name} has the WAL-reset bug, fixed in 3.51.3: two connections that write and"
        " checkpoint at once may damage the file. eventlog writes from one connection at a time,"
        " under run/signals.lock, and the table can be rebuilt",
        do="let other programs open data/signals.db read-only",
    )


def check_inotify(path: Path) -> Iterator[DoctorFinding]:
    """Reports whether file events announce log changes. Without them a timer polls the log."""
    problem = _watch_problem(path)
    limits = {name: _number(INOTIFY / name) for name in ("max_user_watches", "max_user_instances")}
    figures = ", ".join(f"{name} {value}" for name, value in limits.items())
    effect = "new entries are then noticed within a second, not within milliseconds"
    if problem:
        yield DoctorFinding(
            check="inotify",
            level=WARNING,
            found=f"no watch is available ({problem}; {figures}): {effect}",
            do="raise fs.inotify.max_user_instances and max_user_watches with sysctl, or stop the"
            " programs that use them up",
        )
    elif (limits["max_user_watches"] or WATCHES_MIN) < WATCHES_MIN or (
        limits["max_user_instances"] or INSTANCES_MIN
    ) < INSTANCES_MIN:
        yield DoctorFinding(
            check="inotify",
            level=NOTE,
            found=f"low limits, {figures}: when they are used up, {effect}",
            do=f"raise them with sysctl to {WATCHES_MIN:,} watches and {INSTANCES_MIN} instances",
        )
    else:
        yield DoctorFinding(check="inotify", level=OK, found=f"a watch is available; {figures}")


def _watch_problem(path: Path) -> str:
    """Why no watch of `path` is available; empty if one is."""
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
    """Reports whether the clock is plausible: `recorded_at` and `--as-of` depend on it."""
    if now < EARLIEST:
        yield DoctorFinding(
            check="clock",
            level=PROBLEM,
            found=f"it shows {now:%Y-%m-%d}: it was never set",
            do="set it and run an NTP client before anything is appended",
        )
        return
    if last_recorded_at is not None:
        ahead_s = (datetime.fromisoformat(last_recorded_at) - now).total_seconds()
        if ahead_s > 1:
            yield DoctorFinding(
                check="clock",
                level=PROBLEM if ahead_s > 3_600 else WARNING,
                found=f"the last entry was recorded {duration_text(ahead_s)} in the future: the"
                " clock was ahead then, or is behind now",
                do="set the clock; until it passes that time, every entry gets the same"
                " recorded_at, because recorded_at never decreases",
            )
            return
    if is_clock_synchronised() is False:
        yield DoctorFinding(
            check="clock",
            level=NOTE,
            found=f"{now.isoformat(timespec='seconds')}; the kernel reports it as not synchronised",
            do="run an NTP client such as chrony, unless the host of this machine sets its clock",
        )
    else:
        yield DoctorFinding(check="clock", level=OK, found=f"{now.isoformat(timespec='seconds')}")


def is_clock_synchronised() -> bool | None:
    """Whether the kernel reports the clock as synchronised (adjtimex); None if it does not know."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex"):
        return None
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0 only reads
    if libc.adjtimex(timex) < 0:
        return None
    at = (1 + _STATUS_OFFSET_LONGS) * ctypes.sizeof(ctypes.c_long)
    return not ctypes.c_int.from_buffer(timex, at).value & STA_UNSYNC
