"""EventLog as its callers see it: receipts, reading, shared commits, waiting, closing.

The writer's behaviour on a failing disk is in append/test_writer.py, duplicates are in
append/test_dedupe.py.
"""

import asyncio
import copy
import fcntl
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from eventlog import (
    AppendTimeout,
    EventLog,
    EventLogError,
    InvalidSignal,
    LogBusy,
    LogClosed,
    LogLocked,
    Receipt,
    Signal,
    SignalConflict,
)
from eventlog.append.batch import WRITE_BATCH_ENTRIES_MAX, AppendRequest
from eventlog.append.dedupe import DEDUPE_ENTRIES_DEFAULT
from eventlog.append.group_commit import QUEUED_APPENDS_MAX, GroupCommit
from eventlog.append.segment_writer import WriterSettings
from eventlog.append.writer import Writer
from eventlog.format.segment import SEGMENT_BYTES_DEFAULT
from eventlog.schema.validation import validate
from eventlog.storage.disk import RealDisk
from eventlog.storage.durable_state import read_watermark
from eventlog.storage.home import home_at
from tests.harness.command import eventlog, jsonl, pipe
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import (
    assert_receipts_kept,
    assert_valid_log,
    entries_in,
    ids_in,
    segments_in,
)
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed, signals


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def log(home: Path) -> Iterator[EventLog]:
    with EventLog(home) as log:
        yield log


def wait_for_queue(log: EventLog, length: int) -> None:
    """Returns once `length` appends wait behind the commit under way."""
    committer = log._committer
    assert committer is not None, "the log was appended to before"
    until(lambda: len(committer._queue) >= length)


# -- receipts and reading


def test_a_receipt_identifies_the_entry_that_is_read_afterwards(log: EventLog) -> None:
    receipt = log.append(a_signal())
    (entry,) = log.read()
    assert receipt == Receipt(
        seq=1,
        signal_id="s-1",
        sha256=str(entry.payload["sha256"]),
        chain=entry.chain,
        recorded_at=entry.recorded_at,
        duplicate=False,
    )
    assert (entry.seq, entry.batch, entry.event) == (1, 1, "signal")


def test_a_receipt_of_a_fact_has_no_sha256(log: EventLog) -> None:
    receipt = log.append(closed())
    assert (receipt.signal_id, receipt.sha256) == ("s-1", None)


def test_an_unknown_event_needs_no_signal_id(log: EventLog) -> None:
    receipt = log.append({"event": "weather.changed", "sky": "grey"})
    assert (receipt.seq, receipt.signal_id, receipt.sha256) == (1, None, None)
    assert next(log.read()).payload == {"sky": "grey"}


def test_a_signal_without_an_id_gets_one_of_its_own(log: EventLog) -> None:
    first, second = (log.append(a_signal(signal_id=None)) for _ in range(2))
    assert first.signal_id and second.signal_id
    assert first.signal_id < second.signal_id  # a UUIDv7 sorts by time


def test_a_mapping_and_a_signal_are_the_same_to_append(log: EventLog) -> None:
    log.append(Signal(**a_signal()))
    assert log.append(a_signal()).duplicate


def test_an_entry_reads_back_as_the_stored_form_of_its_input(log: EventLog) -> None:
    log.append(a_signal(symbol=" aapl ", entry_price=150, note=["x", {"y": None}], größe=2**63 - 1))
    (entry,) = log.read()
    assert entry.payload["symbol"] == "AAPL"
    assert entry.payload["entry_price"] == 150.0
    assert entry.payload["timestamp"] == "2025-11-18T02:00:00.000000+00:00"
    assert entry.payload["note"] == ["x", {"y": None}]
    assert entry.payload["größe"] == 2**63 - 1
    assert list(entry.payload)[-1] == "sha256"


def test_reading_after_any_seq_gives_exactly_the_later_entries(home: Path) -> None:
    with EventLog(home, segment_bytes=1500) as log:
        for signal in signals(20):
            log.append(signal)
        assert len(segments_in(home)) > 3
        all_entries = list(log.read())
        assert [entry.seq for entry in all_entries] == list(range(1, 21))
        for after in range(22):
            assert list(log.read(after=after)) == all_entries[after:]


def test_reading_goes_on_with_what_is_appended_meanwhile(log: EventLog) -> None:
    log.append(a_signal(1))
    reading = log.read()
    assert next(reading).seq == 1
    log.append(a_signal(2))
    assert next(reading).seq == 2
    assert list(reading) == []


def test_another_handle_reads_what_one_has_appended(home: Path, log: EventLog) -> None:
    with EventLog(home) as other:
        assert (other.last_seq, list(other.read())) == (0, [])
        log.append(a_signal())
        assert other.last_seq == 1
        assert [entry.seq for entry in other.read()] == [1]


def test_reading_a_missing_log_gives_no_entries_and_creates_no_file(home: Path) -> None:
    with EventLog(home) as log:
        assert (log.last_seq, list(log.read()), list(log.read(after=5))) == (0, [], [])
        assert log.append_many([]) == []
    assert not home.exists()


def test_a_refused_item_creates_no_home(home: Path) -> None:
    with EventLog(home) as log, pytest.raises(InvalidSignal):
        log.append(a_signal(confidence=0.85))
    assert not home.exists()


def test_a_log_stays_the_same_log_from_handle_to_handle(home: Path) -> None:
    receipts = []
    for number in range(1, 8):
        with EventLog(home, segment_bytes=1000) as log:
            assert log.last_seq == number - 1
            receipts.append(log.append(a_signal(number))._asdict())
    assert len(assert_receipts_kept(home, receipts)) == 7


def test_an_invalid_limit_is_refused(home: Path) -> None:
    for limit in ({"segment_bytes": 0}, {"dedupe_entries": -1}, {"lock_timeout_s": -1}):
        with pytest.raises(ValueError, match="segment_bytes"):
            EventLog(home, **limit)  # type: ignore[arg-type]


# -- the log's own clock (W12)


def at(home: Path, moment: str, item: dict[str, Any]) -> Receipt:
    """Appends with a clock that says `moment`."""
    settings = WriterSettings(SEGMENT_BYTES_DEFAULT, DEDUPE_ENTRIES_DEFAULT, 30.0)
    writer = Writer(RealDisk(), home_at(home), lambda: moment, settings, os.getpid())
    group = AppendRequest([validate(item, now=lambda: moment, new_id=lambda: "new")])
    committer = GroupCommit(writer)
    committer.run(group)
    committer.close()
    return group.receipts()[0]


def test_recorded_at_never_decreases_when_the_clock_goes_back(home: Path) -> None:
    later, sooner = "2035-06-01T12:00:00.000000Z", "2035-06-01T11:00:00.000000Z"
    assert at(home, later, a_signal(1)).recorded_at == later
    assert at(home, sooner, a_signal(2)).recorded_at == later
    with EventLog(home) as log:  # today: the clock went back ten years
        assert log.append(a_signal(3)).recorded_at == later
    assert at(home, "2045-06-01T12:00:00.000000Z", a_signal(4)).recorded_at.startswith("2045")
    assert_valid_log(home)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "nonsense"])
def test_recorded_at_is_utc_wherever_the_process_lives(home: Path, zone: str) -> None:
    before = datetime.now(UTC)
    done = eventlog("append", home=home, stdin=jsonl([a_signal()]), env={"TZ": zone})
    recorded_at = datetime.fromisoformat(done.answers[0]["recorded_at"])
    assert before <= recorded_at <= datetime.now(UTC)


# -- many at once


def test_append_many_is_one_batch_with_one_recorded_at(log: EventLog) -> None:
    log.append(a_signal(1))
    receipts = log.append_many(a_signal(number) for number in range(2, 7))
    assert [receipt.seq for receipt in receipts] == [2, 3, 4, 5, 6]
    assert {receipt.recorded_at for receipt in receipts} == {receipts[0].recorded_at}
    assert [entry.batch for entry in log.read()] == [1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (a_signal(9, stop_price=-1), InvalidSignal),
        (a_signal(1, stop_price=1.0), SignalConflict),  # with what the log holds
        (a_signal(4, stop_price=1.0), SignalConflict),  # with one of the same call
        ("not a mapping", InvalidSignal),
    ],
)
def test_append_many_checks_all_before_it_writes_any(
    home: Path, log: EventLog, bad: Any, error: type[EventLogError]
) -> None:
    log.append(a_signal(1))
    for items in ([*signals(4, start=2), bad], [a_signal(2), bad, a_signal(4)]):
        with pytest.raises(error):
            log.append_many([*items, a_signal(4)])
        assert ids_in(home) == ["s-1"]
    assert log.append(a_signal(2)).seq == 2


@pytest.mark.slow
def test_very_many_items_take_a_few_writes_and_stay_in_order(log: EventLog, home: Path) -> None:
    count = 2 * WRITE_BATCH_ENTRIES_MAX + 100
    receipts = log.append_many(signals(count))
    assert [receipt.seq for receipt in receipts] == list(range(1, count + 1))
    batches = {entry.batch for entry in log.read()}
    assert batches == {1, WRITE_BATCH_ENTRIES_MAX + 1, 2 * WRITE_BATCH_ENTRIES_MAX + 1}


def test_append_each_gives_every_item_its_own_answer(log: EventLog) -> None:
    items = [a_signal(1), a_signal(2, action="HOLD"), a_signal(1), a_signal(1, stop_price=9.0)]
    receipt, refused, duplicate, conflict = log.append_each([*items, a_signal(3)])[:4]
    assert isinstance(receipt, Receipt) and not receipt.duplicate
    assert isinstance(refused, InvalidSignal)
    assert duplicate == receipt._replace(duplicate=True)
    assert isinstance(conflict, SignalConflict)
    assert log.last_seq == 2


def test_append_each_can_stop_at_the_first_refusal(log: EventLog) -> None:
    items = [a_signal(1), a_signal(1, stop_price=9.0), a_signal(2), a_signal(3, action="HOLD")]
    results = log.append_each(items, stop_at_refusal=True)
    assert [type(result) for result in results] == [Receipt, SignalConflict]
    assert log.last_seq == 1


# -- threads


def test_concurrent_appends_share_one_sync(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, ThreadPoolExecutor(30) as threads:
        log.append(a_signal(1))
        with disk.holding("fdatasync") as reached:
            first = threads.submit(log.append, a_signal(2))
            assert reached.wait(DEADLINE_S)
            rest = [threads.submit(log.append, signal) for signal in signals(20, start=3)]
            wait_for_queue(log, 20)
            syncs = disk.count("fdatasync")
        receipts = [future.result(DEADLINE_S) for future in (first, *rest)]
        assert disk.count("fdatasync") == syncs + 1
    assert [receipt.signal_id for receipt in receipts] == [f"s-{n}" for n in range(2, 23)]
    assert [entry["batch"] for entry in assert_valid_log(home)] == [1, 2] + 20 * [3]


def test_every_thread_gets_the_receipts_of_its_own_signals(home: Path) -> None:
    with EventLog(home, segment_bytes=20_000) as log, ThreadPoolExecutor(8) as threads:

        def generate(thread: int) -> list[Receipt]:
            return [log.append(signal) for signal in signals(50, start=1000 * thread)]

        by_thread = list(threads.map(generate, range(8)))
    for thread, receipts in enumerate(by_thread):
        numbers = range(1000 * thread, 1000 * thread + 50)
        assert [receipt.signal_id for receipt in receipts] == [f"s-{n}" for n in numbers]
        assert sorted(receipts) == receipts  # each thread's order is the log's order
    all_receipts = [receipt._asdict() for receipts in by_thread for receipt in receipts]
    assert len(assert_receipts_kept(home, all_receipts)) == 400


def test_one_bad_item_fails_only_its_own_caller(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, ThreadPoolExecutor(5) as threads:
        log.append(a_signal(1))
        with disk.holding("fdatasync") as reached:
            threads.submit(log.append, a_signal(2))
            assert reached.wait(DEADLINE_S)
            good = threads.submit(log.append, a_signal(3))
            wait_for_queue(log, 1)
            conflicting = threads.submit(log.append, a_signal(1, stop_price=9.0))
            many = threads.submit(log.append_many, [a_signal(4), a_signal(3, stop_price=9.0)])
            last = threads.submit(log.append, a_signal(5))
            wait_for_queue(log, 4)
        assert good.result(DEADLINE_S).signal_id == "s-3"
        assert isinstance(conflicting.exception(DEADLINE_S), SignalConflict)
        assert isinstance(many.exception(DEADLINE_S), SignalConflict)
        assert last.result(DEADLINE_S).signal_id == "s-5"
    assert_valid_log(home)
    assert ids_in(home) == ["s-1", "s-2", "s-3", "s-5"]


# -- waiting (W2)


def test_an_append_that_times_out_reports_an_unknown_outcome(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        log.append(a_signal(1))
        with disk.holding("fdatasync"), pytest.raises(AppendTimeout, match="same signal_id"):
            log.append(a_signal(2), timeout_s=0.05)
        receipt = log.append(a_signal(2))  # what the message asks for
        assert (receipt.seq, receipt.duplicate) == (2, True)
    assert ids_in(home) == ["s-1", "s-2"]


def test_a_timeout_applies_to_append_many_and_to_followers_of_a_hanging_leader(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, ThreadPoolExecutor(1) as threads:
        with disk.holding("fdatasync") as reached:
            leader = threads.submit(log.append, a_signal(1))
            assert reached.wait(DEADLINE_S)
            with pytest.raises(AppendTimeout):
                log.append(a_signal(2), timeout_s=0.05)
            with pytest.raises(AppendTimeout):
                log.append_many(signals(3, start=3), timeout_s=0.0)
        assert leader.result(DEADLINE_S).seq == 1
        assert [r.duplicate for r in log.append_many(signals(5))] == 5 * [True]


def test_an_append_that_finishes_in_time_ignores_its_timeout(log: EventLog) -> None:
    assert [log.append(s, timeout_s=DEADLINE_S).seq for s in signals(3)] == [1, 2, 3]


@pytest.mark.slow
def test_the_number_of_waiting_appends_is_bounded(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, ThreadPoolExecutor(1) as threads:
        threads.submit(log.append, a_signal(1)).result(DEADLINE_S)

        async def fill() -> None:
            with disk.holding("fdatasync") as reached:
                leader = threads.submit(log.append, a_signal(2))
                assert await asyncio.to_thread(reached.wait, DEADLINE_S)
                waiting = [
                    asyncio.ensure_future(log.append_async(signal))
                    for signal in signals(QUEUED_APPENDS_MAX, start=3)
                ]
                await asyncio.to_thread(wait_for_queue, log, QUEUED_APPENDS_MAX)
                with pytest.raises(LogBusy, match="nothing was written"):
                    log.append(a_signal(0))
                one_more = asyncio.ensure_future(log.append_async(a_signal(0)))
                await asyncio.sleep(0.02)
                assert not one_more.done()  # it waits where append raises
                wait_for_queue(log, QUEUED_APPENDS_MAX)
            assert (await one_more).seq == QUEUED_APPENDS_MAX + 3
            await asyncio.gather(*waiting)
            assert leader.result(DEADLINE_S).seq == 2

        asyncio.run(fill())
    assert len(ids_in(home)) == QUEUED_APPENDS_MAX + 3


def test_a_lock_timeout_names_the_process_that_holds_the_lock(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, ThreadPoolExecutor(1) as threads:
        log.append(a_signal(1))
        with disk.holding("fdatasync") as reached, EventLog(home, lock_timeout_s=0.05) as other:
            hanging = threads.submit(log.append, a_signal(2))
            assert reached.wait(DEADLINE_S)
            with pytest.raises(LogLocked, match=f"process {os.getpid()} ") as raised:
                other.append(a_signal(3))
            assert "nothing was written" in raised.value.do
        assert hanging.result(DEADLINE_S).seq == 2
        assert log.append(a_signal(3)).seq == 3


def test_a_lock_holder_is_named_only_if_it_has_written_its_pid(home: Path) -> None:
    with EventLog(home, lock_timeout_s=0) as log:
        log.append(a_signal(1))
        with (home / "logs" / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(LogLocked, match=r"^another process has held"):
                log.append(a_signal(2))  # the record is of the previous holder


# -- asyncio (W10)


def test_appends_of_many_tasks_share_commits(home: Path) -> None:
    async def generate() -> list[Receipt]:
        with EventLog(home, disk=disk) as log:
            return await asyncio.gather(*(log.append_async(signal) for signal in signals(500)))

    disk = FaultDisk()
    receipts = asyncio.run(generate())
    assert [receipt.seq for receipt in receipts] == list(range(1, 501))  # in the order of calling
    assert disk.count("fdatasync", ".jsonl") < 10
    assert_receipts_kept(home, [receipt._asdict() for receipt in receipts])


def test_threads_and_tasks_append_to_one_handle(home: Path) -> None:
    async def generate(log: EventLog) -> list[Receipt]:
        in_threads = [asyncio.to_thread(log.append, signal) for signal in signals(50)]
        in_tasks = [log.append_async(signal) for signal in signals(50, start=51)]
        return await asyncio.gather(*in_threads, *in_tasks)

    with EventLog(home) as log:
        receipts = asyncio.run(generate(log))
    assert [receipt.signal_id for receipt in receipts] == [f"s-{n}" for n in range(1, 101)]
    assert_receipts_kept(home, [receipt._asdict() for receipt in receipts])


def test_one_handle_serves_one_event_loop_after_another(log: EventLog) -> None:
    assert [asyncio.run(log.append_async(signal)).seq for signal in signals(3)] == [1, 2, 3]


def test_append_async_refuses_as_append_does(log: EventLog) -> None:
    async def refused(item: dict[str, Any], error: type[EventLogError]) -> None:
        with pytest.raises(error):
            await log.append_async(item)

    log.append(a_signal(1))
    asyncio.run(refused(a_signal(2, action="HOLD"), InvalidSignal))
    asyncio.run(refused(a_signal(1, action="SELL"), SignalConflict))
    assert asyncio.run(log.append_async(a_signal(1))).duplicate
    assert log.last_seq == 1
    log.close()
    asyncio.run(refused(a_signal(2), LogClosed))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_cancelled_append_is_there_once_after_the_retry(home: Path, turns: int) -> None:
    """Cancelled before it is queued, while it waits, and during its commit."""
    disk = FaultDisk()

    async def cancel_and_retry(log: EventLog) -> Receipt:
        task = asyncio.ensure_future(log.append_async(a_signal(2)))
        with disk.holding("fdatasync") as reached:
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == 3:
                assert await asyncio.to_thread(reached.wait, DEADLINE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return await log.append_async(a_signal(2))

    with EventLog(home, disk=disk) as log:
        log.append(a_signal(1))
        receipt = asyncio.run(cancel_and_retry(log))
        assert (receipt.seq, receipt.duplicate) == (2, turns > 0)
    assert [entry["signal_id"] for entry in assert_valid_log(home)] == ["s-1", "s-2"]


@pytest.mark.slow
def test_cancelling_many_appends_that_wait_for_room_delays_no_other(home: Path) -> None:
    disk = FaultDisk()

    async def storm(log: EventLog) -> list[int]:
        with disk.holding("fdatasync"):
            first = [
                asyncio.ensure_future(log.append_async(s)) for s in signals(QUEUED_APPENDS_MAX)
            ]
            await asyncio.sleep(0)
            doomed = [
                asyncio.ensure_future(log.append_async(s))
                for s in signals(QUEUED_APPENDS_MAX, start=20_000)
            ]
            patient = [
                asyncio.ensure_future(log.append_async(s))
                for s in signals(3, start=QUEUED_APPENDS_MAX + 1)
            ]
            await asyncio.sleep(0.02)
            for task in doomed:
                task.cancel()
            await asyncio.sleep(0.02)
        await asyncio.gather(*first)
        async with asyncio.timeout(DEADLINE_S):
            return [(await task).seq for task in patient]

    with EventLog(home, disk=disk) as log:
        assert asyncio.run(storm(log)) == [QUEUED_APPENDS_MAX + n for n in (1, 2, 3)]
    assert len(ids_in(home)) == QUEUED_APPENDS_MAX + 3


# -- the writer


def test_a_handle_that_only_reads_builds_no_writer(home: Path) -> None:
    """Opening, last_seq, read, tail and close neither build nor import what appends need."""
    with EventLog(home) as log:
        log.append_many(signals(3))
    script = """
import asyncio, sys
from eventlog import EventLog

async def first_batch(log):
    batches = log.tail()
    async for batch in batches:
        await batches.aclose()
        return batch

with EventLog(sys.argv[1]) as log:
    assert (log.last_seq, len(list(log.read())), len(asyncio.run(first_batch(log)))) == (3, 3, 3)
    assert log._committer is None
modules = ["async_append", "group_commit", "writer", "writer_state", "recovery"]
print([name for name in modules if f"eventlog.append.{name}" in sys.modules])
"""
    command = [sys.executable, "-c", script, str(home)]
    done = subprocess.run(
        command, check=True, timeout=DEADLINE_S, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_threads_that_append_first_share_one_writer(home: Path) -> None:
    """Two writers in one handle would each hold a dedupe window of their own."""
    for round_number in range(20):
        with EventLog(home / str(round_number)) as log, ThreadPoolExecutor(4) as threads:
            barrier = threading.Barrier(4)

            def committer(log: EventLog = log, barrier: threading.Barrier = barrier) -> int:
                barrier.wait(DEADLINE_S)
                return id(log._build_committer())

            found = {future.result() for future in [threads.submit(committer) for _ in range(4)]}
        assert len(found) == 1


# -- closing


@pytest.mark.parametrize("with_append", [False, True])
def test_closing_a_handle_refuses_its_first_append_too(home: Path, with_append: bool) -> None:
    log = EventLog(home)
    if with_append:
        log.append(a_signal(1))
    log.close()
    with pytest.raises(LogClosed, match="open the log again"):
        log.append(a_signal(2))
    with pytest.raises(LogClosed, match="open the log again"):
        asyncio.run(log.append_async(a_signal(2)))
    assert home.exists() is with_append


def test_a_closed_handle_raises_log_closed(home: Path) -> None:
    log = EventLog(home)
    log.append(a_signal(1))
    log.close()
    log.close()
    for append in (lambda: log.append(a_signal(2)), lambda: log.append_many(signals(2))):
        with pytest.raises(LogClosed, match="open the log again"):
            append()
    with pytest.raises(LogClosed):
        log.append(a_signal(2), timeout_s=1.0)
    assert ids_in(home) == ["s-1"]


def test_closing_waits_for_the_appends_under_way(home: Path) -> None:
    disk = FaultDisk()
    log = EventLog(home, disk=disk)
    log.append(a_signal(1))
    with ThreadPoolExecutor(5) as threads:
        with disk.holding("fdatasync") as reached:
            leader = threads.submit(log.append, a_signal(2))
            assert reached.wait(DEADLINE_S)
            followers = [threads.submit(log.append, signal) for signal in signals(2, start=3)]
            wait_for_queue(log, 2)
            closing = threads.submit(log.close)
        closing.result(DEADLINE_S)
        receipts = [future.result(DEADLINE_S)._asdict() for future in (leader, *followers)]
    assert len(assert_receipts_kept(home, receipts)) == 4


def test_nothing_is_left_open_by_a_closed_handle(home: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with EventLog(home, segment_bytes=1000) as log:
            log.append_many(signals(3))
            list(log.read())
            next(log.read())  # a reader that is given up half way
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_handle_of_a_parent_refuses_in_a_forked_child(home: Path) -> None:
    script = """
import os, sys
from eventlog import EventLog, LogClosed
log = EventLog(sys.argv[1])
item = {"symbol": "A", "action": "BUY", "entry_price": 1, "target_price": 2, "stop_price": 1,
        "confidence": 80, "strategy": "x"}
log.append(item)
pid = os.fork()
if pid == 0:
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    if any(path.startswith(os.path.realpath(sys.argv[1])) for path in held):
        os._exit(3)  # a lock lasts as long as any descriptor of it
    try:
        log.append(item)
    except LogClosed:
        os._exit(0 if EventLog(sys.argv[1]).append(item).seq == 2 else 2)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert log.append(item).seq == 3
sys.exit(code)
"""
    command = [sys.executable, "-c", script, str(home)]
    done = subprocess.run(command, check=False, timeout=DEADLINE_S, cwd=CHECKOUT)
    assert done.returncode == 0


def _spawn_with(log: EventLog) -> None:
    get_context("spawn").Process(target=print, args=(log,)).start()


@pytest.mark.parametrize("passing", [pickle.dumps, copy.copy, _spawn_with])
def test_a_handle_that_is_passed_to_another_process_says_what_to_do(
    home: Path, passing: Callable[[EventLog], object]
) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
        with pytest.raises(LogClosed, match="another process") as refusal:
            passing(log)
    assert refusal.value.where == str(home)
    assert "EventLog(home)" in refusal.value.do


def test_the_repr_of_a_handle_names_its_home_and_whether_it_is_open(home: Path) -> None:
    with EventLog(home) as log:
        assert repr(log) == f"<EventLog {str(home)!r}, open>"
    assert repr(log) == f"<EventLog {str(home)!r}, closed>"


@pytest.mark.parametrize("which", ["first", "later"])
def test_a_child_that_was_forked_while_a_thread_appended_does_not_hang(
    home: Path, which: str
) -> None:
    """No thread of the child releases a lock that another thread held when it was forked."""
    script = """
import os, signal, sys
from eventlog import EventLog, LogClosed
log = EventLog(sys.argv[1])
item = {"symbol": "A", "action": "BUY", "entry_price": 1, "target_price": 2, "stop_price": 1,
        "confidence": 80, "strategy": "x"}
if sys.argv[2] == "first":
    log._mutex.acquire()  # as a thread in the midst of the first append
else:
    log.append(item | {"symbol": "B"})
    log._committer._mutex.acquire()  # as a thread in the midst of a later one
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    try:
        log.append(item)
    except LogClosed:
        os._exit(0)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os._exit(code)  # closing would wait for the lock that is held above
"""
    command = [sys.executable, "-c", script, str(home), which]
    done = subprocess.run(command, check=False, timeout=DEADLINE_S, cwd=CHECKOUT)
    assert done.returncode == 0


def test_the_watermark_is_updated_on_an_idle_log_that_stays_open(home: Path) -> None:
    """R4: a loss of power finds the last batch covered."""

    def covers(seq: int) -> bool:
        watermark = read_watermark(RealDisk(), home_at(home))
        return watermark is not None and watermark.end.seq == seq

    log = EventLog(home)
    for number in (1, 2):
        seq = log.append(a_signal(number)).seq
        until(partial(covers, seq))
    log.close()


# -- segments


def test_a_segment_starts_where_the_one_before_has_reached_its_size(home: Path) -> None:
    with EventLog(home, segment_bytes=2000) as log:
        receipts = [log.append(signal)._asdict() for signal in signals(20)]
        receipts += [r._asdict() for r in log.append_many(signals(20, start=21))]
        receipts.append(log.append(a_signal(41))._asdict())
    assert_receipts_kept(home, receipts)
    segments = segments_in(home)
    for path in segments[:-1]:
        lines = path.read_bytes().splitlines(keepends=True)
        last_batch = entries_in(home)[int(path.stem) - 1 + len(lines) - 1]["batch"]
        before = lines[: last_batch - int(path.stem)]
        assert path.stat().st_size >= 2000 > len(b"".join(before)), "as soon as, and no sooner"
    first_seqs = {int(path.stem) for path in segments}
    assert first_seqs <= {entry["batch"] for entry in entries_in(home)}, "a batch is never split"


def test_the_link_points_to_the_active_segment(home: Path) -> None:
    with EventLog(home, segment_bytes=1) as log:
        for signal in signals(3):
            log.append(signal)
            link = home / "logs/signals.log"
            assert os.readlink(link) == segments_in(home)[-1].name  # relative: a home may be moved


@pytest.mark.parametrize("damage", ["gone", "wrong", "absolute"])
def test_a_writer_repairs_the_link_when_it_opens_the_log(home: Path, damage: str) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    link = home / "logs/signals.log"
    link.unlink()
    if damage != "gone":
        link.symlink_to("nowhere" if damage == "wrong" else segments_in(home)[0])
    with EventLog(home) as log:
        log.append(a_signal(2))
    assert os.readlink(link) == segments_in(home)[0].name


def test_a_home_may_be_moved_and_goes_on(home: Path, tmp_path: Path) -> None:
    with EventLog(home, segment_bytes=1000) as log:
        log.append_many(signals(3))
        log.append(a_signal(4))
    moved = tmp_path / "moved"
    home.rename(moved)
    with EventLog(moved, segment_bytes=1000) as log:
        assert log.append(a_signal(1)).duplicate
        assert log.append(a_signal(5)).seq == 5
    assert len(assert_valid_log(moved)) == 5


# -- processes


def test_a_lock_file_that_is_replaced_lets_no_two_writers_in(home: Path) -> None:
    with EventLog(home) as one, EventLog(home) as two:
        for number in range(1, 7):
            (home / "logs/.lock").unlink(missing_ok=True)
            writer = one if number % 2 else two
            assert writer.append(a_signal(number)).seq == number
            lock_record = (home / "logs/.lock").read_text().split()
            assert lock_record[8] == str(number), "it locked the file that has the name now"
    assert len(assert_valid_log(home)) == 6


def test_several_processes_append_to_one_log(home: Path) -> None:
    with pipe(home) as one, pipe(home) as two, EventLog(home) as log:
        receipts = []
        for number in range(1, 31):
            one.send_items(a_signal(number))
            two.send_items(a_signal(100 + number))
            receipts.append(log.append(a_signal(200 + number))._asdict())
            receipts += one.read_answers() + two.read_answers()
        one.close_stdin()
        two.close_stdin()
        assert (one.wait(), two.wait()) == (0, 0)
    assert len(assert_receipts_kept(home, receipts)) == 90
