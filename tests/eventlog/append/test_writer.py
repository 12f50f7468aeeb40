"""Appends on a disk that fails, through the `Disk` protocol and for real: W1 to W5 and W14.

Whatever fails, the promises hold: what was acknowledged is there, nothing is there twice, no half
line is followed by another, and once the failure is over appends work again.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventlog import (
    AppendFailed,
    DiskFull,
    EventLog,
    EventLogError,
    LogCorrupt,
    LogPoisoned,
    Receipt,
)
from eventlog.append.batch import WRITE_BATCH_ENTRIES_MAX
from tests.harness.command import (
    Call,
    Done,
    child_of,
    eventlog,
    jsonl,
    pipe,
    strace,
    traced,
)
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.fault_disk import ANY, Fault, FaultDisk
from tests.harness.log_checks import (
    assert_receipts_kept,
    assert_valid_log,
    ids_in,
    lines_in,
    segments_in,
    tree_contents,
)
from tests.harness.mounts import on_small_disk
from tests.harness.signals import a_signal, closed, signals

FIRST = "00000000000000000001.jsonl"
SECOND = "00000000000000000002.jsonl"
SIGNALS = 20  # more than any of these tests appends


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def lock_record_of(home: Path) -> list[str]:
    """Version, boot id, pid, state, segment, byte_offset, seq, chain."""
    return (home / "logs/.lock").read_text().split()


def goes_on(
    home: Path, receipts: Sequence[dict[str, Any]], *, disk: FaultDisk | None = None
) -> None:
    """A new handle retries all and appends more, and everything is there once."""
    with EventLog(home, disk=disk) as log:
        retried = [log.append(signal)._asdict() for signal in signals(SIGNALS)]
    assert_receipts_kept(home, [*receipts, *retried])
    assert set(ids_in(home)) == {f"s-{n}" for n in range(1, SIGNALS + 1)}


# -- W1: a sync fails


def test_a_failed_sync_fails_every_waiter_and_acknowledges_nothing(home: Path) -> None:
    disk = FaultDisk(loses_pages=True)
    log = EventLog(home, disk=disk)
    first = log.append(a_signal(1))._asdict()
    with ThreadPoolExecutor(5) as threads:
        with disk.holding("fdatasync") as reached:
            disk.fail("fdatasync", path=".jsonl")
            waiters: list[Future[Any]] = [threads.submit(log.append, a_signal(2))]
            assert reached.wait(DEADLINE_S)
            waiters += [threads.submit(log.append, signal) for signal in signals(3, start=3)]
            waiters.append(threads.submit(log.append_many, signals(2, start=6)))
        for waiter in waiters:
            assert isinstance(waiter.exception(DEADLINE_S), LogPoisoned)
    log.close()
    goes_on(home, [first], disk=disk)


def test_a_handle_whose_sync_failed_writes_nothing_more(home: Path) -> None:
    disk = FaultDisk()
    log = EventLog(home, disk=disk)
    log.append(a_signal(1))
    disk.fail("fdatasync", path=".jsonl")
    with pytest.raises(LogPoisoned, match="same signal_id"):
        log.append(a_signal(2))
    before, calls = tree_contents(home), len(disk.calls)
    for _ in range(3):
        with pytest.raises(LogPoisoned):
            log.append(a_signal(3))
    log.close()
    assert tree_contents(home) == before
    assert {call.kind for call in disk.calls[calls:]} <= {"close"}
    assert lock_record_of(home)[3] == "writing"


def test_after_a_failed_sync_the_next_writer_starts_from_the_device(home: Path) -> None:
    """The page cache still shows the lost line, whole and chained; only the device knows better."""
    disk = FaultDisk(loses_pages=True)
    with EventLog(home, disk=disk) as log:
        first = log.append(a_signal(1))._asdict()
        disk.fail("fdatasync", path=".jsonl")
        with pytest.raises(LogPoisoned):
            log.append(a_signal(2))
        assert ids_in(home) == ["s-1", "s-2"], "in the cache"
    with EventLog(home, disk=disk) as log:
        assert not log.append(a_signal(2)).duplicate, "it was never durable"
    goes_on(home, [first], disk=disk)


def test_readers_do_not_see_what_a_failed_sync_left_in_the_cache(home: Path) -> None:
    disk = FaultDisk(loses_pages=True)
    with EventLog(home, disk=disk) as log, EventLog(home, disk=disk) as reader:
        log.append(a_signal(1))
        disk.fail("fdatasync", path=".jsonl")
        with pytest.raises(LogPoisoned):
            log.append(a_signal(2))
        assert (reader.last_seq, len(list(reader.read()))) == (1, 1)


def test_readers_do_not_see_what_is_not_synced_yet(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log, EventLog(home) as reader:
        log.append(a_signal(1))
        with ThreadPoolExecutor(1) as threads, disk.holding("fdatasync") as reached:
            appending = threads.submit(log.append, a_signal(2))
            assert reached.wait(DEADLINE_S)
            assert (reader.last_seq, len(list(reader.read()))) == (1, 1)
        assert appending.result().seq == 2
        assert (reader.last_seq, len(list(reader.read()))) == (2, 2)


def test_an_interrupted_append_is_like_one_whose_sync_failed(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        first = log.append(a_signal(1))._asdict()
        disk.fail("fdatasync", path=".jsonl", error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            log.append(a_signal(2))
        with pytest.raises(LogPoisoned, match="interrupted"):
            log.append(a_signal(3))
    goes_on(home, [first])


def test_the_real_command_acknowledges_nothing_when_the_real_sync_fails(home: Path) -> None:
    first = eventlog("append", home=home, stdin=jsonl([a_signal(1)])).answers
    under = strace("-P", home / "logs" / FIRST, "-e", "inject=fdatasync:error=EIO")
    done = eventlog("append", home=home, stdin=jsonl(signals(3, start=2)), under=under)
    assert done.code == 3
    assert all("seq" not in answer for answer in done.answers)
    assert "sync failed" in done.err and "Traceback" not in done.err
    assert lock_record_of(home)[3] == "writing"
    done, calls = traced(
        "append",
        home=home,
        stdin=jsonl([a_signal(2)]),
        trace="fdatasync,fsync,fadvise64,pwrite64",
        options=("-P", home / "logs" / FIRST),
    )
    assert done.answers[0]["seq"] == 5 or done.answers[0]["duplicate"]
    names = [call.name for call in calls]
    assert names[:2] == ["fdatasync", "fadvise64"], "first the device, then anything else"
    goes_on(home, [*first, *done.answers])


# -- W2: a sync hangs


@pytest.mark.slow
def test_while_a_real_sync_hangs_nothing_is_acknowledged_and_the_holder_is_named(
    home: Path,
) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    hang = strace("-P", home / "logs" / FIRST, "-e", "inject=fdatasync:delay_enter=4000000:when=1")
    with EventLog(home, lock_timeout_s=0.05) as log, pipe(home, under=hang) as slow:
        slow.send_items(a_signal(2))
        pid = child_of(slow.process)
        said = b" %d writing " % pid
        until(lambda: said in (home / "logs" / ".lock").read_bytes())
        with pytest.raises(EventLogError, match=rf"process {pid} has held") as raised:
            log.append(a_signal(3))
        assert "see what that process waits for" in raised.value.do
        assert slow.is_silent(for_s=0)
        (receipt,) = slow.read_answers()  # the disk came back: as if nothing had been
        slow.close_stdin()
        assert slow.wait() == 0
    goes_on(home, [receipt])


# -- W3: short writes and full disks


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("late", [False, True], ids=["nothing went", "half of it went"])
def test_a_failed_write_is_rolled_back_completely_and_may_be_retried(
    home: Path, error: int, late: bool
) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        receipts = [log.append(a_signal(1))._asdict()]
        fault = disk.fail("pwrite", path=".jsonl", error=error, late=late)
        kind = AppendFailed if error == errno.EIO else DiskFull
        with pytest.raises(kind, match="the log is unchanged") as raised:
            log.append_many(signals(3, start=2))
        assert fault.fired == 1
        assert isinstance(raised.value, AppendFailed)
        kinds = [call.kind for call in disk.calls]
        undone = kinds[kinds.index("truncate") :]
        assert undone[:2] == ["truncate", "fdatasync"], "what was cut must not come back"
        assert ids_in(home) == ["s-1"]
        receipts += [r._asdict() for r in log.append_many(signals(3, start=2))]
    goes_on(home, receipts)


def test_a_short_write_is_continued(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        receipts = [log.append(a_signal(1))._asdict()]
        for nth, length in enumerate((1, 10, 100), 1):
            disk.shorten(nth=nth, length=length, path=".jsonl")
        receipts += [log.append(signal)._asdict() for signal in signals(2, start=2)]
        disk.shorten(nth=1, length=0, path=".jsonl")
        disk.shorten(nth=2, length=0, path=".jsonl")
        with pytest.raises(AppendFailed, match="no progress"):
            log.append(a_signal(4))
    goes_on(home, receipts)


def test_a_write_that_cannot_be_rolled_back_disables_the_handle(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        first = log.append(a_signal(1))._asdict()
        disk.fail("pwrite", path=".jsonl", error=errno.ENOSPC, late=True)
        disk.fail("truncate", path=".jsonl")
        with pytest.raises(LogPoisoned, match="could not be undone"):
            log.append(a_signal(2))
        with pytest.raises(LogPoisoned):
            log.append(a_signal(3))
    goes_on(home, [first])


def test_the_error_of_a_large_append_gives_how_many_entries_are_durable(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        disk.fail("pwrite", path=".jsonl", nth=2, error=errno.ENOSPC)
        with pytest.raises(DiskFull, match=f"durable: {WRITE_BATCH_ENTRIES_MAX:,} of 9,000 items"):
            log.append_many(signals(9000))
        assert log.last_seq == WRITE_BATCH_ENTRIES_MAX
        receipts = log.append_many(signals(9000))
        assert [receipt.duplicate for receipt in receipts].count(True) == WRITE_BATCH_ENTRIES_MAX
    assert len(assert_valid_log(home)) == 9000


def append_in_turn(home: Path, count: int, *, under: Sequence[object]) -> tuple[Done, list[Any]]:
    """Appends through a long-lived pipe, each after the answer to the one before."""
    answered: list[Any] = []
    with pipe(home, under=under) as p:
        for signal in signals(count):
            with suppress(BrokenPipeError):
                p.send_items(signal)
            answers = p.read_answers()
            answered += [answer for answer in answers if "seq" in answer]
            if not answers or "seq" not in answers[0]:
                break
        p.close_stdin()
        return Done(code=p.wait(), out=b"", err=p.err), answered


@pytest.mark.parametrize("limit_bytes", [0, 255, 300, 1000, 4351, 5000])
def test_a_real_file_size_limit_leaves_only_whole_lines(home: Path, limit_bytes: int) -> None:
    """RLIMIT_FSIZE: a real short write up to the limit, then EFBIG; below 4,352 bytes also of the
    watermark, below 256 also of the lock record."""
    done, receipts = append_in_turn(home, 20, under=("prlimit", f"--fsize={limit_bytes}"))
    assert done.code == 3
    assert "File too large" in done.err and "Traceback" not in done.err
    assert_receipts_kept(home, receipts)
    goes_on(home, receipts)
    sizes = [len(line) for line in lines_in(home)]
    fit = len(receipts)
    assert sum(sizes[:fit]) <= limit_bytes < sum(sizes[: fit + 1]), "all that fit were taken"


@pytest.mark.parametrize(
    "fault", ["error=ENOSPC:when=3", "error=EDQUOT:when=3", "error=EIO:when=3", "retval=0:when=3+"]
)
def test_a_real_write_that_fails_leaves_only_whole_lines(home: Path, fault: str) -> None:
    under = strace("-P", home / "logs" / FIRST, "-e", f"inject=pwrite64:{fault}")
    done, receipts = append_in_turn(home, 5, under=under)
    assert (done.code, len(receipts)) == (3, 2), done.err
    assert "Traceback" not in done.err
    goes_on(home, receipts)


FILL_AND_FREE = """
import json, os, shutil, sys
from eventlog import DiskFull, EventLog
mount, out, filler_bytes, items = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(sys.stdin)
receipts, failures = [], 0
with open(mount + "/filler", "wb") as filler:
    filler.write(bytes(filler_bytes))
with EventLog(mount + "/home", segment_bytes=12_000) as log:
    for item in items:
        try:
            receipts.append(log.append(item)._asdict())
        except DiskFull:
            failures += 1
    os.unlink(mount + "/filler")
    receipts += [log.append(item)._asdict() for item in items]
shutil.copytree(mount + "/home", out, symlinks=True)
json.dump([failures, receipts], sys.stdout)
"""


@pytest.mark.parametrize("left_bytes", [0, 4096, 12_288, 20_480])
def test_on_a_real_full_disk_appends_fail_whole_and_work_again_when_space_is_back(
    tmp_path: Path, left_bytes: int
) -> None:
    mount, out = tmp_path / "disk", tmp_path / "out"
    mount.mkdir()
    items = [a_signal(n, note="x" * 2000) for n in range(1, SIGNALS + 1)]
    python = [sys.executable, "-c", FILL_AND_FREE, mount, out, 100 * 1024 - left_bytes]
    done = subprocess.run(
        [str(word) for word in (*on_small_disk("100k", mount), *python)],
        input=json.dumps(items),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    failures, receipts = json.loads(done.stdout)
    assert failures >= 10
    assert len(receipts) == len(items) + len(items) - failures
    assert_receipts_kept(out, receipts)
    assert len(ids_in(out)) == len(items)


# -- W4, W5: rotation


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_when_no_new_segment_can_be_made_the_old_one_is_kept(home: Path, error: int) -> None:
    disk = FaultDisk()
    with EventLog(home, segment_bytes=1, disk=disk) as log:
        receipts = [log.append(a_signal(1))._asdict()]
        disk.fail("create", path=".jsonl", error=error)
        receipts.append(log.append(a_signal(2))._asdict())
        assert [path.name for path in segments_in(home)] == [FIRST]
        receipts.append(log.append(a_signal(3))._asdict())
        assert len(segments_in(home)) == 2
    goes_on(home, receipts)


def test_when_the_first_segment_cannot_be_made_nothing_is_acknowledged(home: Path) -> None:
    disk = FaultDisk()
    with EventLog(home, disk=disk) as log:
        disk.fail("create", path=".jsonl", error=errno.ENOSPC)
        with pytest.raises(DiskFull, match="first segment"):
            log.append(a_signal(1))
        receipt = log.append(a_signal(1))._asdict()
    goes_on(home, [receipt])


def test_when_the_name_of_a_segment_cannot_be_synced_nothing_in_it_is_acknowledged(
    home: Path,
) -> None:
    disk = FaultDisk()
    with EventLog(home) as log:
        first = log.append(a_signal(1))._asdict()
    with EventLog(home, segment_bytes=1, disk=disk) as log:
        disk.fail("fsync_dir", path="logs")
        with pytest.raises(LogPoisoned, match="name"):
            log.append(a_signal(2))
    assert lock_record_of(home)[3] == "writing"
    calls = len(disk.calls)
    with EventLog(home, segment_bytes=1, disk=disk) as log:
        second = log.append(a_signal(2))._asdict()
        kinds = [(call.kind, Path(call.path).name) for call in disk.calls[calls:]]
        assert kinds.index(("fsync_dir", "logs")) < kinds.index(("pwrite", SECOND)), (
            "another process makes the name durable before the first ack in it"
        )
    goes_on(home, [first, second])


def test_a_real_full_directory_keeps_the_old_segment(home: Path) -> None:
    with EventLog(home) as log:
        first = log.append(a_signal(1))._asdict()
    under = strace("-P", home / "logs" / SECOND, "-e", "inject=openat:error=ENOSPC")
    words = ("append", "--segment-bytes", 1)
    done = eventlog(*words, home=home, stdin=jsonl([a_signal(2)]), under=under)
    assert (done.code, done.answers[0]["seq"]) == (0, 2)
    assert "rotation_deferred" in done.err
    assert [path.name for path in segments_in(home)] == [FIRST]
    goes_on(home, [first, *done.answers])


# -- the order of system calls: no receipt before it is true


class Disorder(NamedTuple):
    """A receipt that left too early."""

    receipt_seq: int
    because: str


TRACED = "openat,mkdir,pwrite64,write,ftruncate,fdatasync,fsync"


class Seen:
    """The durable files and names after the calls so far."""

    def __init__(self) -> None:
        self.unsynced: set[str] = set()  # files with bytes that are not durable
        self.unnamed: set[tuple[str, str]] = set()  # (directory, name) that are not durable
        self.lock_state = "none"

    def add(self, call: Call) -> None:
        """Takes a call that returned."""
        path = call.path
        if call.name == "openat" and "O_CREAT" in call.args and path:
            self.unnamed.add(os.path.split(path))
        elif call.name == "mkdir" and call.result == "0":
            self.unnamed.add(os.path.split(call.args.split('"')[1]))
        elif call.name in ("pwrite64", "ftruncate") and path.endswith(".jsonl"):
            self.unsynced.add(path)
        elif call.name == "pwrite64" and path.endswith(".lock"):
            self.lock_state = "clean" if " clean " in call.args else "writing"
        elif call.name in ("fdatasync", "fsync") and call.result == "0":
            self.unsynced.discard(path)
            self.unnamed = {(folder, name) for folder, name in self.unnamed if folder != path}

    def lacks(self) -> Iterator[str]:
        """What must be durable, or recorded, before a receipt leaves, and is not."""
        yield from (f"{os.path.basename(path)} is not synced" for path in self.unsynced)
        for folder, name in self.unnamed:
            if name != ".durable":  # it speaks of what is acknowledged already
                yield f"the name {name} is not synced in {folder}"
        if self.lock_state != "clean":
            yield f"the lock record is {self.lock_state}"


def disorder(calls: Sequence[Call]) -> Iterator[Disorder]:
    """Receipts that left before what they promise was so."""
    seen = Seen()
    for call in calls:
        if call.name == "write" and call.args.startswith("1<"):
            for seq in re.findall(r'\\"seq\\":(\d+)', call.args):
                yield from (Disorder(int(seq), because) for because in seen.lacks())
        else:
            seen.add(call)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """What the real command does for a new home with several segments, and its home."""
    home = tmp_path_factory.mktemp("traced") / "new/home"
    lines = jsonl([*signals(5), closed(1), a_signal(1), *signals(5, start=6)])
    calls: list[Call] = []
    # Anew for each line, and all of them once more at once.
    for stdin in (*lines.splitlines(keepends=True), lines, jsonl(signals(50, start=100))):
        words = ("append", "--segment-bytes", 900)
        done, found = traced(*words, home=home, stdin=stdin, trace=TRACED)
        assert done.code == 0, done.err
        calls += found
    assert_valid_log(home)
    return home, calls


@pytest.mark.slow
def test_no_receipt_leaves_the_process_before_its_entry_and_its_name_are_durable(
    trace: tuple[Path, list[Call]],
) -> None:
    home, calls = trace
    assert sum(call.name == "write" and '\\"seq\\"' in call.args for call in calls) >= 14
    assert len(segments_in(home)) >= 4
    assert list(disorder(calls)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path", "because"),
    [
        ("fdatasync", ".jsonl", "jsonl is not synced"),
        ("fsync", "logs", "jsonl is not synced in"),
        ("fsync", "home", "the name logs"),
        ("fsync", "new", "the name home"),
        ("pwrite64", ".lock", "lock record"),
    ],
)
def test_the_check_of_the_order_notices_each_sync_that_is_missing(
    trace: tuple[Path, list[Call]], name: str, path: str, because: str
) -> None:
    _, calls = trace
    without = [call for call in calls if not (call.name == name and call.path.endswith(path))]
    assert len(without) < len(calls)
    assert any(because in found.because for found in disorder(without))


# -- W14: every call fails in turn


def live(home: Path, disk: FaultDisk | None) -> list[dict[str, Any]]:
    """The life of a log: made, appended to, rotated, retried, reopened. What was acknowledged."""
    acked: list[Receipt] = []

    def append(log: EventLog, *items: dict[str, Any]) -> None:
        with suppress(EventLogError):
            acked.extend(log.append_many(items))

    for _ in range(2):  # the second time all are retries, on a log that stands
        # A handle that is dead, or cannot be opened or closed, is followed by a new one.
        for batch in ([a_signal(1)], signals(3, start=2), [closed(1), a_signal(5)], [a_signal(6)]):
            with suppress(EventLogError), EventLog(home, segment_bytes=1200, disk=disk) as log:
                append(log, *batch)
                append(log, *batch)
    return [receipt._asdict() for receipt in acked]


def promises_hold(home: Path, acked: list[dict[str, Any]]) -> None:
    """With a healthy disk again: all promises, and the life of the log goes on."""
    with EventLog(home) as log:
        log.append(a_signal(7))
    entries = assert_receipts_kept(home, acked)
    with EventLog(home) as log:
        assert [entry.seq for entry in log.read()] == [entry["seq"] for entry in entries]
    live(home, None)
    entries = assert_receipts_kept(home, acked)
    assert {entry["signal_id"] for entry in entries} == {f"s-{n}" for n in range(1, 8)}
    facts = [entry for entry in entries if entry["event"] == "closed"]
    assert len(facts) == 1, "a fact is there twice"


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["before it works", "after it worked"])
@pytest.mark.parametrize("onwards", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_all_promises_hold_whichever_disk_call_fails(
    in_memory: Path, error: int, onwards: bool, late: bool
) -> None:
    # Each call fails in two ways that differ in everything: with both errors, once and from then
    # on, before and after it worked. Which two, takes turns from call to call.
    turn = 2 * onwards + late if error == errno.EIO else 3 - (2 * onwards + late)
    for nth in range(1 + turn, 2000, 4):
        home = in_memory / f"home-{nth}"
        disk = FaultDisk()
        fault: Fault = disk.fail(ANY, nth=nth, error=error, onwards=onwards, late=late)
        acked = live(home, disk)
        try:
            promises_hold(home, acked)
        except BaseException as found:
            failed = disk.calls[nth - 1] if nth <= len(disk.calls) else None
            found.add_note(f"call {nth} failed: {failed}")
            raise
        shutil.rmtree(home, ignore_errors=True)
        if not fault.fired:
            assert nth > 200, "a life has more calls than that"
            return
    pytest.fail("there is no end of calls")


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["pwrite64", "fdatasync", "fsync", "flock", "openat", "mkdir", "newfstatat", "pread64"]
)
def test_all_promises_hold_whichever_system_call_of_the_command_fails(
    in_memory: Path, call: str
) -> None:
    lines = jsonl([*signals(4), closed(1), *signals(2, start=5)]).splitlines(keepends=True)
    for nth in range(1, 200):
        home, trace = in_memory / f"home-{nth}", in_memory / "trace"
        segments = [f"logs/{number:020d}.jsonl" for number in range(1, 8)]
        ours = [home / name for name in ("", "logs", "logs/.lock", "logs/.durable", *segments)]
        only_ours = [word for path in ours for word in ("-P", path)]
        under = strace(*only_ours, "-e", f"inject={call}:error=EIO:when={nth}", out=trace)
        receipts: list[dict[str, Any]] = []
        has_failed = False
        for stdin in (lines[0], b"".join(lines[:4]), b"".join(lines)):
            words = ("append", "--segment-bytes", 1200)
            done = eventlog(*words, home=home, stdin=stdin, under=under)
            assert "Traceback" not in done.err, f"{call} {nth}: {done.err}"
            receipts += [answer for answer in done.answers if "seq" in answer]
            has_failed |= "INJECTED" in trace.read_text()
        promises_hold(home, receipts)
        if not has_failed:
            assert nth > 2
            return
    pytest.fail("there is no end of calls")


def test_lines_that_replace_acknowledged_ones_are_never_treated_as_a_torn_tail(
    home: Path, tmp_path: Path
) -> None:
    """Only the segments were copied, and two of them swapped: nothing else shows where it ends."""
    with EventLog(home, segment_bytes=1_000) as log:
        log.append_many(signals(3))
        log.append_many(signals(3, start=4))
    first, last = segments_in(home)[0], segments_in(home)[-1]
    copy = tmp_path / "copy"
    (copy / "logs").mkdir(parents=True)
    for path in segments_in(home):
        other = {first: last, last: first}.get(path, path)
        (copy / "logs" / other.name).write_bytes(path.read_bytes())
    before = tree_contents(copy)
    with EventLog(copy) as log, pytest.raises(LogCorrupt):
        log.append(a_signal(7))
    assert {name: data for name, data in tree_contents(copy).items() if "jsonl" in name} == {
        name: data for name, data in before.items() if "jsonl" in name
    }
