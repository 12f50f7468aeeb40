"""The peers of `--peers` that need no server: a file, two loggers, SQLite, an event store.

Invariant: each call takes the signal as a dict, and returns when it is synced.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tools.benchmarks.peers import full_sqlite
from tools.benchmarks.producers import PRODUCERS, in_one_thread, in_threads
from tools.benchmarks.runner import NotMeasured
from tools.benchmarks.signals import SignalDict, sha256_of

Send = Callable[[list[SignalDict]], float]  # sends the signals; returns the seconds that it took


class Callers(NamedTuple):
    """The two ways to call a peer."""

    one: Send  # one thread or task
    many: Send  # 64


@contextmanager
def threads(append: Callable[[SignalDict], object]) -> Iterator[Callers]:
    """The callers of a call that blocks its thread."""
    with ThreadPoolExecutor(PRODUCERS) as pool:
        yield Callers(partial(in_one_thread, append), partial(in_threads, pool, append))


@contextmanager
def opened_file(where: Path) -> Iterator[Callers]:
    """Holds the lock while it syncs."""
    lock = threading.Lock()
    with (where / "signals.jsonl").open("a") as file:

        def append(signal: SignalDict) -> None:
            line = json.dumps(signal) + "\n"
            with lock:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

        with threads(append) as callers:
            yield callers


@contextmanager
def opened_file_shared_sync(where: Path) -> Iterator[Callers]:
    """Releases the lock before it syncs, so that the kernel can serve several threads at once."""
    lock = threading.Lock()
    with (where / "signals.jsonl").open("a") as file:

        def append(signal: SignalDict) -> None:
            line = json.dumps(signal) + "\n"
            with lock:
                file.write(line)
                file.flush()
            os.fsync(file.fileno())

        with threads(append) as callers:
            yield callers


class SyncedFileHandler(logging.FileHandler):
    """A FileHandler that syncs each record. The handler's own lock is held meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        assert self.stream is not None, "the file is opened with the handler"
        os.fsync(self.stream.fileno())


@contextmanager
def logging_file(where: Path) -> Iterator[Callers]:
    logger = logging.getLogger("signals")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with closing(SyncedFileHandler(where / "signals.log")) as handler:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)

        def append(signal: SignalDict) -> None:
            logger.info(json.dumps(signal))

        with threads(append) as callers:
            yield callers
        logger.removeHandler(handler)


@contextmanager
def structlog_file(where: Path) -> Iterator[Callers]:
    try:
        import structlog
    except ImportError as error:
        raise NotMeasured("structlog is not installed: pip install -e '.[bench]'") from error
    with (where / "signals.log").open("a") as file:
        plain = structlog.WriteLogger(file)  # it has a lock of its own

        class SyncedLogger:
            """Syncs each line that a WriteLogger writes."""

            def info(self, line: str) -> None:
                plain.info(line)
                os.fsync(file.fileno())

        logger = structlog.wrap_logger(
            SyncedLogger(),
            processors=[
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=True,
        )

        def append(signal: SignalDict) -> None:
            logger.info("signal", signal=signal)

        with threads(append) as callers:
            yield callers


@contextmanager
def sqlite_full(where: Path) -> Iterator[Callers]:
    lock = threading.Lock()  # one connection: SQLite has one writer at a time, and polls for it
    with closing(full_sqlite(where / "signals.db")) as database:
        database.execute(
            "CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT UNIQUE NOT NULL, "
            "body TEXT NOT NULL, sha256 TEXT NOT NULL)"
        )

        def append(signal: SignalDict) -> None:
            row = (signal["signal_id"], json.dumps(signal), sha256_of(signal))
            with lock:
                database.execute(
                    "INSERT INTO signals (signal_id, body, sha256) VALUES (?, ?, ?)", row
                )

        with threads(append) as callers:
            yield callers


@contextmanager
def eventsourcing_sqlite(where: Path) -> Iterator[Callers]:
    try:
        from tools.benchmarks.aggregates import SavedAggregates
    except ImportError as error:
        raise NotMeasured("eventsourcing is not installed: pip install -e '.[bench]'") from error
    with closing(SavedAggregates(where / "events.db")) as peer, threads(peer.append) as callers:
        yield callers
