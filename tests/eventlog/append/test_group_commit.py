"""No caller is left waiting when an append is interrupted, or its thread cannot run."""

import asyncio
import errno
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from eventlog import AppendFailed, EventLog, EventLogError, LogBusy, LogClosed, LogPoisoned, Receipt
from eventlog.append import group_commit, segment_writer, waiting, writer
from eventlog.storage import locks
from tests.harness.fault_disk import FaultDisk
from tests.harness.interrupt import Interrupt
from tests.harness.log_checks import assert_valid_log
from tests.harness.signals import a_signal

DEADLINE_S = 30.0
POINTS_MAX = 400
MODULES = (group_commit, waiting, writer, segment_writer, locks)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def no_threads() -> Iterator[None]:
    """Stacks that no machine has room for: the system starts no further thread."""
    before = threading.stack_size(2**46)
    yield
    threading.stack_size(before)


def ends(log: EventLog) -> bool:
    """Whether the handle can be closed."""

    def close() -> None:
        with suppress(EventLogError):
            log.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(DEADLINE_S)
    return not closing.is_alive()


@pytest.mark.parametrize("is_new", [True, False], ids=["first append", "later append"])
def test_appends_continue_after_an_interrupt_at_any_point(tmp_path: Path, is_new: bool) -> None:
    for nth in range(1, POINTS_MAX):
        home = tmp_path / str(nth)
        log = EventLog(home)
        if not is_new:
            log.append(a_signal(1))
        with Interrupt(nth, MODULES) as point, suppress(KeyboardInterrupt):
            log.append(a_signal(2))
        # The interrupted handle is still there, and keeps neither the lock nor the lead.
        with EventLog(home, lock_timeout_s=0) as other:
            other.append(a_signal(3))
        assert ends(log), f"interrupted at {point.at}"
        assert_valid_log(home)
        if point.at is None:
            return
    raise AssertionError("the append never came to its end")


class Meeting(FaultDisk):
    """A disk on which others come to append while one already does: at `meet`, once."""

    def __init__(self, kind: str, others: list[threading.Thread]) -> None:
        super().__init__()
        self._kind = kind
        self._others = others

    def meet(self, kind: str) -> None:
        if kind == self._kind and self._others and self._others[0].ident is None:
            for other in self._others:
                other.start()
            time.sleep(0.01)  # they queue up meanwhile; where one is late, less is tested

    def try_lock(self, fd: int) -> bool:
        self.meet("try_lock")
        return super().try_lock(fd)

    def unlock(self, fd: int) -> None:
        self.meet("unlock")
        super().unlock(fd)


@pytest.mark.parametrize("kind", ["try_lock", "unlock"])
@pytest.mark.parametrize("follows", [False, True], ids=["a leader", "a follower"])
def test_an_interrupt_at_any_point_leaves_no_other_thread_waiting(
    tmp_path: Path, kind: str, follows: bool
) -> None:
    """Those who meet a leader before it takes the batch come along; after it, one of them leads."""
    for nth in range(1, POINTS_MAX):
        others: list[threading.Thread] = []
        log = EventLog(tmp_path / str(nth), disk=Meeting(kind, others if not follows else []))
        log.append(a_signal(1))

        def append(number: int, log: EventLog = log) -> None:
            with suppress(LogPoisoned, LogClosed):
                log.append(a_signal(number), timeout_s=DEADLINE_S if number == 3 else None)

        others += [threading.Thread(target=append, args=[n], daemon=True) for n in (2, 3, 4)]
        if follows:
            for other in others:
                other.start()
        with Interrupt(nth, MODULES) as point, suppress(KeyboardInterrupt, LogPoisoned):
            log.append(a_signal(5))
        for other in others:
            if other.ident is not None:
                other.join(DEADLINE_S)
        assert not any(other.is_alive() for other in others), f"interrupted at {point.at}"
        assert ends(log), f"interrupted at {point.at}"
        if point.at is None:
            return
    raise AssertionError("the append never came to its end")


class InterruptedSync(Meeting):
    """Others come before a leader takes its batch, and its sync is interrupted."""

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        if self._others and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_second_interrupt_leaves_no_append_without_a_receipt_or_an_error(tmp_path: Path) -> None:
    for nth in range(1, POINTS_MAX):
        others: list[threading.Thread] = []
        log = EventLog(tmp_path / str(nth), disk=InterruptedSync("try_lock", others))
        log.append(a_signal(1))
        results: list[object] = []

        def append(number: int, log: EventLog = log, results: list[object] = results) -> None:
            try:
                results.append(log.append(a_signal(number)))
            except EventLogError as error:
                results.append(error)

        others += [threading.Thread(target=append, args=[n], daemon=True) for n in (2, 3, 4)]
        with (
            Interrupt(nth, [writer, segment_writer]) as point,
            suppress(KeyboardInterrupt, LogPoisoned),
        ):
            log.append(a_signal(5))
        for other in others:
            if other.ident is not None:
                other.join(DEADLINE_S)
        assert not any(other.is_alive() for other in others), f"interrupted at {point.at}"
        assert all(isinstance(r, Receipt | EventLogError) for r in results), (
            f"{results}, interrupted at {point.at}"
        )
        assert ends(log), f"interrupted at {point.at}"
        if point.at is None:
            return
    raise AssertionError("the append never came to its end")


class HeldSync(FaultDisk):
    """A disk whose syncs of data wait for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_syncing, self.go = threading.Event(), threading.Event()

    def fdatasync(self, fd: int) -> None:
        self.is_syncing.set()
        self.go.wait(DEADLINE_S)
        super().fdatasync(fd)


def test_other_threads_append_while_a_waiting_thread_runs_a_signal_handler(home: Path) -> None:
    """A handler may wait for threads that append: the thread that it interrupts is not needed."""
    disk = HeldSync()
    log = EventLog(home, disk=disk)
    done: list[int] = []

    def append(number: int) -> None:
        log.append(a_signal(number))
        done.append(number)

    def handle(_number: int, _frame: object) -> None:
        disk.go.set()
        for number in (3, 4):
            other = threading.Thread(target=append, args=[number], daemon=True)
            other.start()
            other.join(DEADLINE_S / 6)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        leader = threading.Thread(target=append, args=[1], daemon=True)
        leader.start()
        assert disk.is_syncing.wait(DEADLINE_S)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        append(2)  # waits for the commit of the leader
    finally:
        signal.signal(signal.SIGALRM, before)
    leader.join(DEADLINE_S)
    assert sorted(done[:3]) == [1, 3, 4] and done[3:] == [2]
    assert ends(log)


def test_an_append_works_without_new_threads_and_reports_if_it_needs_one(
    home: Path, no_threads: None
) -> None:
    with EventLog(home) as log:
        assert log.append(a_signal(1)).seq == 1
        with pytest.raises(LogBusy, match="no thread"):
            log.append(a_signal(2), timeout_s=DEADLINE_S)
        with pytest.raises(LogBusy, match="no thread"):
            asyncio.run(log.append_async(a_signal(2)))
        assert log.append(a_signal(3)).seq == 2
        threading.stack_size(0)
        assert log.append(a_signal(4), timeout_s=DEADLINE_S).seq == 3
        assert asyncio.run(log.append_async(a_signal(5))).seq == 4
    assert_valid_log(home)


def test_a_timeout_may_be_arbitrarily_long(home: Path) -> None:
    with EventLog(home) as log:
        assert log.append(a_signal(1), timeout_s=math.inf).seq == 1


def test_an_error_in_the_thread_is_raised_and_later_appends_work(home: Path) -> None:
    disk = FaultDisk()

    async def two(log: EventLog) -> None:
        for number in (1, 2):
            with pytest.raises(LogPoisoned):
                await asyncio.wait_for(log.append_async(a_signal(number)), DEADLINE_S)

    with EventLog(home, disk=disk) as log:
        disk.fail("pwrite", path=".jsonl", error=MemoryError())
        asyncio.run(two(log))
        with pytest.raises(LogPoisoned):
            log.append(a_signal(3))


def test_an_acquired_lock_is_released_whatever_fails_next(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, EventLog(home, lock_timeout_s=0) as other:
        disk.fail("size_at", path=".lock", error=errno.EACCES)
        with pytest.raises(AppendFailed):
            log.append(a_signal(1))
        assert other.append(a_signal(1)).seq == 1
        assert log.append(a_signal(2)).seq == 2
