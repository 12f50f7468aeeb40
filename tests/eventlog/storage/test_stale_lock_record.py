"""An older lock record of the same boot hides nothing that was acknowledged (C1).

`.lock` is never synced, so a snapshot of a volume, or a copy that is put back, brings an older one.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from zlib import crc32

import pytest

from eventlog import EventLog, LogCorrupt
from eventlog.format.durability import (
    LOCK_RECORD_BYTES,
    NOTHING_DURABLE,
    WRITING,
    decode_lock_record,
    encode_lock_record,
)
from tests.harness.command import Done, eventlog, jsonl, pipe, strace
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.log_checks import assert_valid_log, ids_in, lines_in, segments_in
from tests.harness.loop_disk import LoopDisk
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up, seq_in

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def append(home: Path, count: int, *, start: int = 1, segment_bytes: int = 1 << 20) -> None:
    with EventLog(home, segment_bytes=segment_bytes) as log:
        log.append_many(signals(count, start=start))


def lock_of(home: Path) -> Path:
    return home / "logs/.lock"


def in_place(path: Path, data: bytes) -> None:
    """As `cp old .lock` does."""
    path.write_bytes(data)


def as_a_new_file(path: Path, data: bytes) -> None:
    """As rsync does."""
    new = path.with_name("new")
    new.write_bytes(data)
    new.chmod(0o600)
    new.rename(path)


PUT_BACK = (in_place, as_a_new_file)


def in_one_segment(home: Path, put_back: Callable[[Path, bytes], None]) -> None:
    append(home, 5)
    old = lock_of(home).read_bytes()
    append(home, 5, start=6)
    put_back(lock_of(home), old)


def in_an_earlier_segment(home: Path, put_back: Callable[[Path, bytes], None]) -> None:
    append(home, 3, segment_bytes=1)
    old = lock_of(home).read_bytes()
    for start in (4, 6, 8):
        append(home, 2, start=start, segment_bytes=1)
    append(home, 1, start=10, segment_bytes=1)
    put_back(lock_of(home), old)


# Two segments, and no time for the watermark, which follows within a second.
_TWO_SEGMENTS = """
import os, sys
from pathlib import Path
from eventlog import EventLog, LogCorrupt
from eventlog.format.durability import (
    LOCK_RECORD_BYTES,
    NOTHING_DURABLE,
    WRITING,
    decode_lock_record,
    encode_lock_record,
)
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import signals
home = Path(sys.argv[1])
log = EventLog(home, segment_bytes=1)
log.append_many(signals(5))
(home / "old").write_bytes((home / "logs/.lock").read_bytes())
log.append_many(signals(5, start=6))
os._exit(0)
"""


def at_the_end_of_a_closed_segment(home: Path, put_back: Callable[[Path, bytes], None]) -> None:
    """All that the record says fits the segment that it names; the watermark is not ahead of it."""
    words = [sys.executable, "-c", _TWO_SEGMENTS, str(home)]
    subprocess.run(words, check=True, cwd=CHECKOUT)
    assert len(segments_in(home)) == 2
    old = home / "old"
    put_back(lock_of(home), old.read_bytes())
    old.unlink()


def left_by_a_writer_in_the_middle(home: Path, put_back: Callable[[Path, bytes], None]) -> None:
    """A record that says `writing`; the log was closed well afterwards."""
    append(home, 4)
    kill = strace("-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=SIGKILL:when=1")
    eventlog("append", home=home, stdin=jsonl([a_signal(5)]), under=kill)
    old = lock_of(home).read_bytes()
    assert b" writing " in old
    append(home, 6, start=5)
    put_back(lock_of(home), old)


def of_version_1(home: Path, put_back: Callable[[Path, bytes], None]) -> None:
    """As version 1 of the format was written: with neither device nor inode."""
    append(home, 10)
    half = b"".join(lines_in(home)[:5])
    chain = half[-67:-3].decode()
    text = f"1 {BOOT_ID.read_text().strip()} 4242 writing 1 {len(half)} 5 {chain}"
    record = (b"%b %08x" % (text.encode(), crc32(text.encode()))).ljust(255) + b"\n"
    put_back(lock_of(home), record)


STALE = (
    in_one_segment,
    in_an_earlier_segment,
    at_the_end_of_a_closed_segment,
    left_by_a_writer_in_the_middle,
    of_version_1,
)


@pytest.fixture(params=STALE, ids=lambda make: make.__name__)
def stale(request: pytest.FixtureRequest, home: Path) -> Iterator[Path]:
    """A home of ten acknowledged entries, whose lock record is of an earlier moment."""
    request.param(home, in_place)
    assert len(assert_valid_log(home)) == 10
    yield home
    assert ids_in(home)[:10] == [f"s-{number}" for number in range(1, 11)], "nothing is lost"


def run(*words: object, home: Path) -> Done:
    done = eventlog(*words, home=home)
    assert "Traceback" not in done.err
    return done


# -- what a user sees


def test_cat_and_tail_print_every_acknowledged_entry(stale: Path) -> None:
    lines = lines_in(stale)
    assert run("cat", home=stale).out == b"".join(lines)
    assert run("cat", "--after", 5, home=stale).out == b"".join(lines[5:])
    assert run("tail", "-n", 3, "--json", home=stale).out == b"".join(lines[-3:])


def test_a_handle_reads_every_acknowledged_entry(stale: Path) -> None:
    with EventLog(stale) as log:
        assert [entry.seq for entry in log.read()] == list(range(1, 11))
        assert log.last_seq == 10
        assert [entry.seq for entry in log.read(after=7)] == [8, 9, 10]


def test_verify_finds_nothing_to_report(stale: Path) -> None:
    done = run("verify", "--json", home=stale)
    (report,) = done.answers
    assert (done.code, report["ok"], report["entries"], report["last_seq"]) == (0, True, 10, 10)
    assert report["findings"] == []
    assert not report.get("torn_bytes")
    done = run("verify", home=stale)
    assert done.code == 0
    assert b"DAMAGED" not in done.out and b"nothing is lost" not in done.out
    assert done.err == ""


def test_repair_has_nothing_to_do(stale: Path) -> None:
    before = {path.name: path.read_bytes() for path in segments_in(stale)}
    assert run("repair", home=stale).code == 0
    assert {path.name: path.read_bytes() for path in segments_in(stale)} == before


def test_status_shows_the_real_end_of_the_log(stale: Path) -> None:
    (report,) = run("status", "--json", home=stale).answers
    assert (report["log"]["last_seq"], report["log"]["signals"]) == (10, 10)
    assert report["log"]["chain"] == json.loads(lines_in(stale)[-1])["chain"]


def test_a_rebuild_holds_every_acknowledged_entry(stale: Path) -> None:
    done = run("rebuild-database", "--json", home=stale)
    assert (done.code, done.answers[0]["rows"]) == (0, 10)
    assert_caught_up(stale)


def test_a_projection_catches_up_with_every_acknowledged_entry(stale: Path) -> None:
    assert run("project", "sqlite", "--once", home=stale).code == 0
    assert_caught_up(stale)
    assert len(run("signals", "--json", "--limit", 50, home=stale).answers[0]) == 10


def test_a_backup_to_a_new_destination_holds_every_acknowledged_entry(
    stale: Path, tmp_path: Path
) -> None:
    done = run("backup", tmp_path / "backup", home=stale)
    assert done.code == 0, done.err
    assert lines_in(tmp_path / "backup") == lines_in(stale)


def test_wait_sees_that_the_last_entry_is_projected(stale: Path) -> None:
    assert run("project", "sqlite", "--once", home=stale).code == 0
    assert run("wait", 10, "--timeout", 5, home=stale).code == 0


def test_appends_go_on_behind_the_last_acknowledged_entry(stale: Path) -> None:
    with EventLog(stale) as log:
        assert log.append(a_signal(7)).duplicate
        assert log.append(a_signal(11)).seq == 11
    assert len(assert_valid_log(stale)) == 11
    assert not list((stale / "logs").glob("*.torn*"))


def test_the_next_append_says_nothing(stale: Path) -> None:
    done = eventlog("append", home=stale, stdin=jsonl([a_signal(11)]))
    assert (done.code, done.err) == (0, "")


# -- with processes that know better


@pytest.mark.parametrize("put_back", PUT_BACK, ids=lambda put_back: put_back.__name__)
def test_a_projection_with_a_later_checkpoint_goes_on(
    home: Path, put_back: Callable[[Path, bytes], None]
) -> None:
    append(home, 5)
    old = lock_of(home).read_bytes()
    append(home, 5, start=6)
    assert run("project", "sqlite", "--once", home=home).code == 0
    put_back(lock_of(home), old)
    done = run("project", "sqlite", "--once", home=home)
    assert (done.code, done.err) == (0, "")
    assert_caught_up(home)


@pytest.mark.slow
@pytest.mark.parametrize("put_back", PUT_BACK, ids=lambda put_back: put_back.__name__)
def test_a_running_daemon_goes_on_when_an_older_record_is_put_back(
    home: Path, put_back: Callable[[Path, bytes], None]
) -> None:
    append(home, 5)
    old = lock_of(home).read_bytes()
    with daemon(home, "sqlite") as d:
        append(home, 5, start=6)
        until(lambda: seq_in(home) == 10)
        put_back(lock_of(home), old)
        append(home, 1, start=11)
        until(lambda: seq_in(home) == 11 or d.process.poll() is not None)
        put_back(lock_of(home), old)
        time.sleep(1.5)  # by now it has looked at the record again
        assert d.process.poll() is None, d.err
        assert d.stop() == 0, d.err
    assert_caught_up(home)


@pytest.mark.slow
def test_a_tail_goes_on_when_an_older_record_is_put_back(home: Path) -> None:
    append(home, 5)
    old = lock_of(home).read_bytes()
    append(home, 5, start=6)

    async def seqs() -> list[int]:
        found: list[int] = []
        with EventLog(home) as log:
            async with aclosing(log.tail(after=3)) as batches:
                async with asyncio.timeout(60):
                    async for batch in batches:
                        found += [entry.seq for entry in batch]
                        if found[-1] == 10:
                            in_place(lock_of(home), old)
                            await asyncio.sleep(1.2)  # the tail has looked again
                            append(home, 1, start=11)
                        if found[-1] == 11:
                            return found
        return found

    assert asyncio.run(seqs()) == list(range(4, 12))


@pytest.mark.parametrize("put_back", PUT_BACK, ids=lambda put_back: put_back.__name__)
def test_a_long_lived_pipe_goes_on_when_an_older_record_is_put_back(
    home: Path, put_back: Callable[[Path, bytes], None]
) -> None:
    with pipe(home) as p:
        p.send_items(*signals(5))
        p.read_answers(5)
        old = lock_of(home).read_bytes()
        p.send_items(*signals(5, start=6))
        p.read_answers(5)
        put_back(lock_of(home), old)
        p.send_items(a_signal(11), a_signal(2))
        first, again = p.read_answers(2)
        assert (first.get("seq"), again.get("seq"), again.get("duplicate")) == (11, 2, True)
        p.close_stdin()
        assert p.wait() == 0, p.err
    assert len(assert_valid_log(home)) == 11


# -- a record that fits, and a log that does not


def test_a_log_put_back_to_an_older_copy_with_its_record_is_reported(home: Path) -> None:
    """The watermark is ahead of the record: what it covers is gone, and nobody may call it well."""
    append(home, 5)
    (segment,) = segments_in(home)
    old, old_record = segment.read_bytes(), lock_of(home).read_bytes()
    append(home, 5, start=6)
    in_place(segment, old)
    in_place(lock_of(home), old_record)
    assert run("verify", home=home).code == 1
    assert run("cat", home=home).code == 3
    assert run("rebuild-database", home=home).code == 3
    done = eventlog("append", home=home, stdin=jsonl([a_signal(11)]))
    assert done.code == 3
    assert segment.read_bytes() == old


def test_the_record_of_another_log_is_ignored(home: Path, tmp_path: Path) -> None:
    append(home, 10)
    append(tmp_path / "other", 3)
    in_place(lock_of(home), lock_of(tmp_path / "other").read_bytes())
    assert run("cat", home=home).out == b"".join(lines_in(home))
    assert run("verify", home=home).code == 0
    append(home, 1, start=11)
    assert len(assert_valid_log(home)) == 11


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "letters", "missing"])
def test_a_record_that_cannot_be_read_is_no_record(home: Path, damage: str) -> None:
    append(home, 10)
    path = lock_of(home)
    record = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "letters":
            in_place(path, b"x" * len(record))
        case _:
            new = {"empty": b"", "half": record[:128], "zeros": bytes(len(record))}
            in_place(path, new[damage])
    assert run("cat", home=home).out == b"".join(lines_in(home))
    assert run("verify", home=home).code == 0
    append(home, 1, start=11)
    assert len(assert_valid_log(home)) == 11


def test_a_copied_home_does_not_believe_the_record_of_its_origin(
    home: Path, tmp_path: Path
) -> None:
    """A copy of a live home: the segment is longer than its record says, or has grown since."""
    append(home, 5)
    old = lock_of(home).read_bytes()
    append(home, 5, start=6)
    copy = tmp_path / "copy"
    shutil.copytree(home, copy, symlinks=True)
    in_place(lock_of(copy), old)
    assert run("cat", home=copy).out == b"".join(lines_in(home))
    assert run("verify", home=copy).code == 0


# -- a snapshot of the volume, mounted on the running host


@pytest.mark.slow
@pytest.mark.parametrize("segment_bytes", [1 << 20, 1], ids=["one segment", "a segment a batch"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside the original", "in its place"])
def test_a_snapshot_on_the_running_host_shows_every_acknowledged_entry(
    tmp_path: Path, segment_bytes: int, beside: bool
) -> None:
    for number, batch in enumerate((signals(5), signals(20, start=6), signals(20, start=26))):
        (tmp_path / f"{number}.jsonl").write_bytes(jsonl(batch))
    disk = LoopDisk.make(tmp_path)
    done = disk.run(
        """
        append() { "$eventlog" --home "$disk/h" append --segment-bytes "$2" "$1"; }
        append "$1/0.jsonl" "$2"
        sync
        append "$1/1.jsonl" "$2"
        append "$1/2.jsonl" "$2"
        power_fails
        if [ "$3" = True ]; then
            mkdir "$image.mount"
            mount -o loop "$image.lost" "$image.mount"
            "$eventlog" --home "$image.mount/h" cat >"$1/seen"
            "$eventlog" --home "$image.mount/h" verify >&2
            cp -r "$image.mount/h" "$1/h"
        fi
        """,
        tmp_path,
        segment_bytes,
        beside,
    )
    assert done.returncode == 0, done.stderr.decode()
    receipts = [json.loads(line) for line in done.stdout.splitlines()]
    if not beside:
        done = disk.after_power_loss().run(
            """
            "$eventlog" --home "$disk/h" cat >"$1/seen"
            "$eventlog" --home "$disk/h" verify >&2
            cp -r "$disk/h" "$1/h"
            """,
            tmp_path,
        )
        assert done.returncode == 0, done.stderr.decode()
    on_device = lines_in(tmp_path / "h")
    assert len(receipts) == len(on_device) == 45
    assert (tmp_path / "seen").read_bytes() == b"".join(on_device)
    assert os.path.getsize(tmp_path / "seen") > 0


def test_a_segment_cut_below_the_record_of_its_file_is_reported(tmp_path: Path) -> None:
    """Within the second before the watermark follows, the record alone states the loss."""
    log = EventLog(tmp_path / "home")
    log.append_many(signals(5))
    (segment,) = segments_in(tmp_path / "home")
    os.truncate(segment, segment.read_bytes().rindex(b"\n", 0, -1) + 1)
    done = eventlog("verify", home=tmp_path / "home")
    assert done.code == 1
    assert b"entry 5 is gone" in done.out
    for call in (lambda: log.append(a_signal(6)), log.close):
        with pytest.raises(LogCorrupt, match="entry 5"):
            call()


@pytest.mark.parametrize("put_back", PUT_BACK, ids=lambda put: put.__name__)
def test_a_record_of_a_writer_that_is_gone_hides_nothing(
    tmp_path: Path, put_back: Callable[[Path, bytes], None]
) -> None:
    """`writing`, with a watermark as old: only the free lock distinguishes it from a write."""
    home = tmp_path / "home"
    append(home, 5)
    old = decode_lock_record(lock_of(home).read_bytes())
    watermark = (home / "logs/.durable").read_bytes()
    assert old is not None
    with EventLog(home) as log:
        log.append_many(signals(5, start=6))
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    (home / "logs/.durable").write_bytes(watermark)
    put_back(lock_of(home), encode_lock_record(old._replace(state=WRITING)))
    assert eventlog("cat", home=home).out.count(b"\n") == 10
    done = eventlog("verify", home=home)
    assert (done.code, b"nothing is lost" in done.out) == (0, False)
    assert b"10 entries" in done.out
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert eventlog("rebuild-database", home=home).code == 0
    assert seq_in(home) == 10
    append(home, 1, start=11)
    assert [entry["seq"] for entry in assert_valid_log(home)] == list(range(1, 12))


def test_a_record_of_the_empty_log_hides_no_segment_wherever_it_is_stored(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=1) as log:
        for number in range(1, 5):
            log.append(a_signal(number))
    record = decode_lock_record(lock_of(home).read_bytes())
    assert record is not None
    assert eventlog("compress", home=home).code == 0
    last = segments_in(home)[-1]
    last.rename(home / "last")  # all that is left is compressed
    empty = record._replace(end=NOTHING_DURABLE, device=0, inode=0, generation=0)
    lock_of(home).write_bytes(encode_lock_record(empty))
    (home / "logs/.durable").unlink()
    assert eventlog("cat", home=home).out.count(b"\n") == 3
    done = eventlog("append", home=home, stdin=jsonl([a_signal(5)]))
    assert [answer["seq"] for answer in done.answers] == [4]


def test_tail_goes_on_while_older_records_are_put_back(tmp_path: Path) -> None:
    """Each end and its state come from one reading of the record."""
    home = tmp_path / "home"
    append(home, 3)
    stop = threading.Event()

    def put_back() -> None:
        while not stop.is_set():
            data = lock_of(home).read_bytes()
            time.sleep(0.02)
            if len(data) == LOCK_RECORD_BYTES:
                as_a_new_file(lock_of(home), data)

    thread = threading.Thread(target=put_back)
    with pipe(home, "-n", 3, "-f", "--json", command="tail") as tail:
        tail.read_answers(3)
        thread.start()
        with EventLog(home) as log:
            for number in range(4, 204):
                log.append(a_signal(number))
        stop.set()
        thread.join()
        append(home, 1, start=204)
        seqs = [answer["seq"] for answer in tail.read_answers(201)]
        assert seqs == list(range(4, 205))
        tail.send(signal.SIGTERM)
        tail.wait()
