"""The peers in one thread: a bare file, SQLite, whole commands; and the process of a server.

Invariant: a peer is handed bytes or rows that are ready, so that its time is its own work alone.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import Signals, ready_lines, ready_row

# A command that hangs ends the benchmark.
COMMAND_TIMEOUT_S = 1800
# A server takes a tenth of a second to start; a machine that swaps takes longer.
SERVER_START_TIMEOUT_S = 10.0
SERVER_STOP_TIMEOUT_S = 10.0

Command = Sequence[str | Path]

SQLITE_TABLE = """
    CREATE TABLE signals (
        id INTEGER PRIMARY KEY, signal_id TEXT UNIQUE NOT NULL, symbol TEXT NOT NULL,
        action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL NOT NULL,
        stop_price REAL NOT NULL, confidence REAL NOT NULL, strategy TEXT NOT NULL,
        asset_type TEXT NOT NULL, data_source TEXT, timestamp TEXT NOT NULL, regime TEXT,
        reasoning TEXT, sha256 TEXT NOT NULL)
"""
SQLITE_INSERT = (
    "INSERT INTO signals (signal_id, symbol, action, entry_price, target_price, stop_price, "
    "confidence, strategy, asset_type, data_source, timestamp, regime, reasoning, sha256) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class BareFile:
    """`os.write` and `os.fdatasync` of ready lines, one at a time: the limit of the disk."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self._signals = Signals(seed)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def work(self, count: int) -> float:
        lines = list(ready_lines(self._signals.take(count)))
        fd = self._fd
        started_s = time.perf_counter()
        for line in lines:
            os.write(fd, line)
            os.fdatasync(fd)
        return time.perf_counter() - started_s

    def close(self) -> None:
        os.close(self._fd)


class SqliteFull:
    """SQLite in WAL mode, synchronous=FULL, one thread, one INSERT a commit of a ready row."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self._signals = Signals(seed)
        self._db = full_sqlite(path)
        self._db.execute(SQLITE_TABLE)

    def work(self, count: int) -> float:
        rows = [ready_row(signal) for signal in self._signals.take(count)]
        execute = self._db.execute
        started_s = time.perf_counter()
        for row in rows:
            execute(SQLITE_INSERT, row)
        return time.perf_counter() - started_s

    def close(self) -> None:
        self._db.close()


def full_sqlite(path: Path) -> sqlite3.Connection:
    """A database in WAL mode with synchronous=FULL; threads may share the connection."""
    # Without an isolation level each INSERT is a transaction of its own, with no BEGIN and
    # COMMIT to parse. This is the fastest way.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise NotMeasured(f"SQLite has no WAL on this file system ({path}); use --dir")
    database.execute("PRAGMA synchronous=FULL")
    return database


@contextmanager
def running(
    command: Command, output: Path, *, program: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, which writes to the file `output` and ends with the `with` block.

    `program` is the file to run, if it is not the first word of `command`.
    """
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, executable=program, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SERVER_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def users_environment() -> dict[str, str]:
    """This environment, but Python writes its bytecode, as on a user's machine."""
    return {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def command_s(command: Command) -> float:
    """The seconds a whole command takes, from its start to its end; it must exit 0."""
    started_s = time.perf_counter()
    done = subprocess.run(
        command,
        env=users_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    took_s = time.perf_counter() - started_s
    if done.returncode != 0:
        *_, reason = done.stderr.decode(errors="replace").splitlines() or ["without output"]
        raise NotMeasured(f"{' '.join(map(str, command))} exited {done.returncode}: {reason}")
    return took_s
