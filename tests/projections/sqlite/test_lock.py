"""The write lock of the table: waits that are reported and limited."""

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projections.errors import ProjectionError, ProjectionStalled
from projections.run_directory import SIGNALS_LOCK, run_lock
from projections.sqlite.lock import WriteLock, write_lock
from tests.harness.deadline import until

LIMIT_S = 1.5  # longer than the second after which a wait is reported


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@contextmanager
def held(home: Path, holder: bytes = b"4711") -> Iterator[None]:
    """The lock is held through another descriptor, and its file names a process."""
    run = home / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(run / SIGNALS_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.pwrite(fd, holder + b"\n", 0)
        yield
    finally:
        os.close(fd)


def take(lock: WriteLock) -> None:
    with lock.held():
        pass


async def take_in_task(lock: WriteLock) -> None:
    async with lock:
        pass


@pytest.mark.parametrize("is_task", [False, True])
def test_a_wait_ends_at_its_limit_with_an_error_that_names_the_holder(
    home: Path, is_task: bool
) -> None:
    lock = WriteLock(home, wait_s_max=0.3)
    with held(home):
        started_s = time.monotonic()
        with pytest.raises(ProjectionStalled) as found:
            asyncio.run(take_in_task(lock)) if is_task else take(lock)
        assert time.monotonic() - started_s >= 0.3
    assert "process 4711" in found.value.what
    assert found.value.where == str(home / "run" / SIGNALS_LOCK)


def test_a_wait_of_a_command_is_reported_after_a_second(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(home), caplog.at_level(logging.WARNING), pytest.raises(ProjectionStalled):
        take(WriteLock(home, wait_s_max=LIMIT_S))
    (reported,) = [text for text in caplog.messages if text.startswith("waiting_for_lock")]
    assert reported.endswith("holder=process 4711")


def test_a_lock_file_that_names_no_process_is_reported_as_held_by_another(home: Path) -> None:
    with held(home, b"nobody"), pytest.raises(ProjectionStalled) as found:
        take(WriteLock(home, wait_s_max=0.1))
    assert found.value.what.startswith("another process has held")


def test_a_wait_that_was_given_up_holds_no_lock_later(home: Path) -> None:
    with held(home), pytest.raises(ProjectionStalled):
        take(WriteLock(home, wait_s_max=0.1))
    until(lambda: "write-lock" not in {thread.name for thread in threading.enumerate()})
    lock = run_lock(home, SIGNALS_LOCK)
    try:
        assert lock.try_take()
    finally:
        lock.drop()


def test_the_holder_writes_its_pid_over_a_longer_one(home: Path) -> None:
    with held(home, b"1234567890"):
        pass
    with write_lock(home).held():
        assert run_lock(home, SIGNALS_LOCK).holder() == f"process {os.getpid()}"


def test_taking_the_lock_creates_no_home(tmp_path: Path) -> None:
    home = tmp_path / "gone"
    with pytest.raises(ProjectionError, match="moved or removed"):
        take(write_lock(home))
    with pytest.raises(ProjectionError, match="moved or removed"):
        asyncio.run(take_in_task(write_lock(home)))
    assert not home.exists()
