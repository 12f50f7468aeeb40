"""Closed segments, compressed: the same log, byte for byte, however it is kept (W6, T4, R6)."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import aclosing, suppress
from errno import ENOSPC
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from random import Random

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import EventLog, EventLogError, LogCorrupt, LogDiverged, LogLocked, UnsafePath
from eventlog.archive.compress import CompressReport, compress_log
from eventlog.format.compressed import (
    FRAME_BYTES,
    FRAME_BYTES_MIN,
    CompressedReader,
    compress_frame,
    encode_trailer,
    table_entry,
)
from eventlog.read.reader import LogReader
from eventlog.read.tail import tail_batches
from eventlog.repair.repair import Repaired
from eventlog.repair.repair import repair as repair_log
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.home import Home
from eventlog.storage.locks import CLOSED_LOCK_NAME, closed_segments_lock
from eventlog.storage.segment_disk import SegmentDisk
from eventlog.verify.verify import verify
from tests.harness.command import COMMAND, command_line, eventlog
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import segments_in, tree_contents
from tests.harness.mounts import on_small_disk
from tests.harness.requirements import needs_tool
from tests.harness.signals import a_signal, signals

ENTRIES = 54
SEGMENT_BYTES = 5_000  # some nine entries
NOW = "2025-11-19T00:00:00.000000Z"
DOTFILES = (".lock", ".durable")
RANDOM_BYTES = Random(2).randbytes(5 * FRAME_BYTES)  # which do not compress


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five segments, none compressed. It stays as it is."""
    home = tmp_path_factory.mktemp("original") / "home"
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        for start in range(1, ENTRIES, 2):
            log.append_many(signals(2, start=start))
    assert len(segments_in(home)) == 5
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "home")


def copy_of(home: Path, to: Path) -> Path:
    shutil.copytree(home, to, symlinks=True)
    return to


def raw_of(home: Path) -> bytes:
    """The bytes of a log whose segments are all raw."""
    return b"".join(path.read_bytes() for path in segments_in(home))


def compressed_in(home: Path) -> list[Path]:
    return sorted((home / "logs").glob("*.jsonl.zst"))


def compress(home: Path, *, keep: int = 0, disk: Disk | None = None) -> CompressReport:
    return compress_log(home, keep=keep, disk=disk)


def repair(home: Path, *, backup: Path | None = None, accept: bool = False) -> Repaired:
    source = str(backup) if backup is not None else None
    return repair_log(home, backup=source, accept=accept, now=NOW, lock_timeout_s=5.0)


def read(home: Path) -> bytes:
    """What a reader gives out. LogCorrupt."""
    return b"".join(_pieces(home))


def _pieces(home: Path) -> Iterator[bytes]:
    reader = LogReader(SegmentDisk(RealDisk()), Home(str(home)))
    try:
        while lines := reader.read():
            yield b"".join(lines)
    finally:
        reader.close()


def flip(path: Path, byte_offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte_offset] ^= 1 << bit
    path.write_bytes(data)


# -- the same log


@pytest.mark.slow
def test_every_command_reads_compressed_segments_as_before(home: Path) -> None:
    looks = [
        *(("cat",), ("cat", "--after", 13, "--limit", 5), ("tail", "-n", 40, "--json")),
        *(("tail", "-n", 3), ("verify", "--json"), ("digest",), ("signals", "--json")),
    ]
    assert eventlog("rebuild-database", home=home).code == 0
    before = [eventlog(*words, home=home) for words in looks]
    done = eventlog("compress", "--json", home=home)
    assert done.code == 0, done.err
    assert [one["kept_in"] for one in done.answers[0]["compressed"]] == [
        path.name for path in compressed_in(home)
    ]
    assert len(segments_in(home)) == 1, "the active segment alone stays"
    assert eventlog("rebuild-database", home=home).code == 0
    assert [eventlog(*words, home=home) for words in looks] == before
    assert eventlog("repair", home=home).out == b"nothing to repair: the log is whole\n"


def test_appends_continue_and_detect_duplicates_in_compressed_segments(home: Path) -> None:
    compress(home)
    with EventLog(home) as log:
        again = log.append(a_signal(1))
        assert (again.seq, again.duplicate) == (1, True)
        assert log.append(a_signal(99)).seq == ENTRIES + 1
    assert verify(home).ok


def test_it_reports_its_result_and_a_second_run_does_nothing(home: Path) -> None:
    raw = {path.name: path.read_bytes() for path in segments_in(home)}
    report = compress(home)
    assert [(one.segment, one.raw_bytes, one.sha256) for one in report.compressed] == [
        (name, len(data), sha256(data).hexdigest()) for name, data in list(raw.items())[:-1]
    ]
    kept = [*compressed_in(home), *segments_in(home)]
    assert report.disk_bytes == sum(path.stat().st_size for path in kept) < report.raw_bytes
    assert report.raw_bytes == sum(map(len, raw.values()))
    before = tree_contents(home)
    assert compress(home).compressed == ()
    assert tree_contents(home) == before


def test_the_newest_segments_stay_raw_with_keep(home: Path) -> None:
    assert eventlog("compress", "--keep", 3, home=home).code == 0
    assert (len(compressed_in(home)), len(segments_in(home))) == (1, 4)
    assert compress(home, keep=99).compressed == ()


def test_zstd_itself_gives_the_raw_bytes(home: Path) -> None:
    """A reader of the future needs no code of ours."""
    raw = raw_of(home)
    compress(home)
    zstd = needs_tool("zstd", apt="zstd")
    words = [zstd, "-dcq", *map(str, compressed_in(home))]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout + raw_of(home) == raw


def test_duckdb_reads_compressed_segments_and_the_raw_one_together(home: Path) -> None:
    compress(home)
    files = [f"{home}/logs/*.jsonl", f"{home}/logs/*.jsonl.zst"]
    with duckdb.connect() as db:
        found = db.execute(f"SELECT count(*), sum(seq) FROM read_json({files})").fetchall()
    assert found == [(ENTRIES, ENTRIES * (ENTRIES + 1) // 2)]


def test_a_home_without_a_log_is_reported(tmp_path: Path) -> None:
    done = eventlog("compress", home=tmp_path)
    assert done.code == 3
    assert "there is no log" in done.err
    assert list(tmp_path.iterdir()) == []


# -- the layout


def packed(raw: bytes, cuts: list[int]) -> bytes:
    pieces = [raw[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    frames = [(piece, compress_frame(piece)) for piece in pieces if piece]
    table = [table_entry(frame, len(piece)) for piece, frame in frames]
    end = encode_trailer(table, len(raw), sha256(raw).hexdigest())
    return b"".join(frame for _, frame in frames) + end


def unpacked(data: bytes) -> CompressedReader:
    return CompressedReader(lambda length, at: data[at : at + length], len(data))


@given(
    full=st.lists(st.integers(FRAME_BYTES_MIN, FRAME_BYTES), max_size=3),
    last=st.integers(0, FRAME_BYTES),
    length=st.integers(0, FRAME_BYTES + 1000),
    place=st.floats(0, 1.1),
    with_table=st.booleans(),
)
def test_any_raw_bytes_are_read_from_any_raw_byte_offset(
    full: list[int], last: int, length: int, place: float, with_table: bool
) -> None:
    raw = RANDOM_BYTES[: sum(full) + last]
    data = packed(raw, list(accumulate(full)))
    if not with_table:  # then the sizes are read from the frames, in which nothing is damaged
        data = data[:-1] + bytes([data[-1] ^ 1])
    found = unpacked(data)
    assert found.size == len(raw)
    assert (found.problem is None) == with_table
    offset = int(place * len(raw))
    assert found.read(length, offset) == raw[offset : offset + length]
    assert found.read(len(raw), 0) == raw


def test_without_a_table_the_sizes_of_many_frames_are_read_at_once() -> None:
    raw = 3 * RANDOM_BYTES
    data = packed(raw, list(range(FRAME_BYTES, len(raw), FRAME_BYTES)))
    data = data[:-1] + bytes([data[-1] ^ 1])
    asked: list[int] = []

    def pread(length: int, at: int) -> bytes:
        asked.append(length)
        return data[at : at + length]

    found = CompressedReader(pread, len(data))
    assert sum(asked) < 2 * len(data)
    assert len(asked) < len(raw) // FRAME_BYTES
    assert found.problem is not None
    assert found.read(len(raw), 0) == raw


@pytest.mark.parametrize("with_table", [True, False])
@pytest.mark.parametrize(
    ("full", "read_bytes"),
    [
        ([FRAME_BYTES_MIN - 1], FRAME_BYTES_MIN - 1),
        ([FRAME_BYTES, 10], FRAME_BYTES + 10),
        ([FRAME_BYTES, FRAME_BYTES + 1, FRAME_BYTES], FRAME_BYTES),
    ],
    ids=["small first", "small second", "large second"],
)
def test_frames_of_impossible_sizes_are_read_up_to_the_first(
    full: list[int], read_bytes: int, with_table: bool
) -> None:
    """Proof and table agree with them, and yet no writer of ours makes such a file."""
    raw = RANDOM_BYTES[: sum(full) + 1000]
    data = packed(raw, list(accumulate(full)))
    found = unpacked(data if with_table else data[:-1])
    assert "not made by `eventlog compress`" in str(found.problem)
    assert found.content_checksum is None
    assert found.size == read_bytes + 64
    assert found.read(found.size, 0)[:-64] == raw[:read_bytes]
    assert found.read(64, read_bytes).startswith(b"\0lost: ")


@pytest.mark.parametrize(
    "raw",
    [
        b"short\n" + b"x" * 3 * FRAME_BYTES + b"\n{}\n",
        b"x" * FRAME_BYTES + b"\nshort\n" + b"x" * FRAME_BYTES,
        b"{}\n" * FRAME_BYTES + b"without a newline",
        b"\n" + b"x" * FRAME_BYTES + b"\n",
        b"x" * (FRAME_BYTES - 1) + b"\n" + b"x" * 20,
    ],
    ids=["long line", "short lines between", "no newline at the end", "empty line", "short rest"],
)
def test_a_damaged_segment_is_compressed_into_frames_that_a_reader_accepts(
    home: Path, raw: bytes
) -> None:
    path = segments_in(home)[0]
    path.write_bytes(raw)
    compress(home)
    found = unpacked(path.with_name(f"{path.name}.zst").read_bytes())
    assert found.problem is None
    assert found.read(found.size, 0) == raw


def test_a_reader_that_starts_late_decompresses_little(home: Path) -> None:
    line = (home / "logs" / f"{1:020}.jsonl").read_bytes().splitlines(keepends=True)[0]
    raw = line * (20 * FRAME_BYTES // len(line))
    data = packed(raw, list(range(FRAME_BYTES, len(raw), FRAME_BYTES)))
    asked: list[int] = []

    def pread(length: int, at: int) -> bytes:
        asked.append(length)
        return data[at : at + length]

    found = CompressedReader(pread, len(data))
    asked.clear()
    assert found.read(100, 15 * FRAME_BYTES - 50) == raw[15 * FRAME_BYTES - 50 :][:100]
    assert len(asked) == 2
    assert sum(asked) < len(data) / 5


@given(data=st.binary(max_size=400))
def test_bytes_that_are_not_a_compressed_segment_read_as_lost_without_an_error(data: bytes) -> None:
    found = unpacked(data)
    assert found.read(found.size, 0).startswith(b"\0lost: ")


# -- damage


VERIFY_EVERY = 8  # of the flips, for it takes a while


def damaged_reads_exactly_or_halts(home: Path, raw: bytes, *, verifies: bool = True) -> bool:
    """Whether it halts; then all that came out before is what was written."""
    given = b""
    halt: LogCorrupt | None = None
    try:
        for piece in _pieces(home):
            given += piece
            assert raw.startswith(given)
    except LogCorrupt as error:
        halt = error
    if halt is None:
        assert given == raw
        return False
    assert halt.seq == given.count(b"\n") + 1
    assert halt.segment <= f"{halt.seq:020}.jsonl"
    assert not verifies or not verify(home, processes=1).ok
    return True


@pytest.mark.slow
@pytest.mark.parametrize("dotfiles", [True, False], ids=["marked", "bare"])
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_every_flipped_bit_in_a_compressed_segment_is_detected(
    home: Path, which: int, dotfiles: bool
) -> None:
    """Each byte, one bit; the last one also where nothing stands behind it, nor says so."""
    raw = raw_of(home)
    compress(home)
    if which == -1:
        active = segments_in(home)[-1]
        raw = raw[: -active.stat().st_size]
        active.unlink()
    if not dotfiles or which == -1:
        for name in DOTFILES:
            (home / "logs" / name).unlink()
    victim = compressed_in(home)[which]
    whole = victim.read_bytes()
    halted = 0
    for byte_offset in range(len(whole)):
        flip(victim, byte_offset, byte_offset % 8)
        verifies = byte_offset % VERIFY_EVERY == 0
        halted += damaged_reads_exactly_or_halts(home, raw, verifies=verifies)
        victim.write_bytes(whole)
    assert halted > len(whole) / 3, "most of it is frames"


@pytest.mark.slow
def test_every_truncation_of_a_compressed_segment_is_detected(home: Path) -> None:
    raw = raw_of(home)
    compress(home)
    victim = compressed_in(home)[-1]
    segments_in(home)[-1].unlink()
    for name in DOTFILES:
        (home / "logs" / name).unlink()
    raw = read(home)
    whole = victim.read_bytes()
    for size in range(0, len(whole), 7):
        victim.write_bytes(whole[:size])
        is_halted = damaged_reads_exactly_or_halts(home, raw)
        assert is_halted or not verify(home, processes=1).ok, f"cut at {size}"
    victim.write_bytes(whole)
    assert read(home) == raw


@pytest.mark.slow
def test_each_command_reports_damage_with_its_place(home: Path) -> None:
    compress(home)
    flip(compressed_in(home)[1], 100)
    first_seq = int(compressed_in(home)[1].name[:20])
    report = verify(home)
    assert [(f.byte_offset, f.seq) for f in report.findings] == [(0, first_seq)]
    assert "compressed segment is damaged" in report.findings[0].problem
    assert report.last_seq == ENTRIES
    for words in (("cat",), ("rebuild-database",)):
        done = eventlog(*words, home=home)
        assert done.code == 3
        assert f"{first_seq:020}.jsonl at byte 0, seq {first_seq}" in done.err
        assert "Traceback" not in done.err


def test_a_damaged_frame_table_loses_nothing_is_reported_and_is_repaired(home: Path) -> None:
    raw = raw_of(home)
    compress(home)
    whole = compressed_in(home)[0].read_bytes()
    for at in (-1, -5, -9, -20, -60):
        flip(compressed_in(home)[0], len(whole) + at)
        assert read(home) == raw
        (finding,) = verify(home).findings
        assert finding.segment == compressed_in(home)[0].name
        assert "`eventlog compress` repairs it" in finding.problem
        assert len(compress(home).compressed) == 1
        assert compressed_in(home)[0].read_bytes() == whole
    assert verify(home).ok


def test_a_damaged_segment_is_not_compressed_again(home: Path) -> None:
    """Else what is lost of it would become what was written."""
    compress(home)
    flip(compressed_in(home)[0], 100)
    (home / "logs/closed").mkdir()
    before = compressed_in(home)[0].read_bytes()
    done = eventlog("compress", home=home)
    assert done.code == 1
    assert "DAMAGED: 00000000000000000001.jsonl" in done.out.decode()
    assert compressed_in(home)[0].read_bytes() == before
    assert eventlog("verify", home=home).code == 1


def test_no_writer_cuts_what_is_damaged_in_a_compressed_segment(home: Path) -> None:
    """Not even where it is the last one, and nothing else says that it was durable."""
    compress(home)
    segments_in(home)[-1].unlink()
    for name in DOTFILES:
        (home / "logs" / name).unlink()
    flip(compressed_in(home)[-1], 100)
    before = tree_contents(home)
    with EventLog(home) as log, pytest.raises(LogCorrupt):
        log.append(a_signal(99))
    after = tree_contents(home)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("kept", ["raw", "compressed", "closed"])
def test_a_backup_repairs_a_segment_whether_either_is_compressed(
    home: Path, original: Path, tmp_path: Path, kept: str
) -> None:
    raw = raw_of(home)
    backup = copy_of(original, tmp_path / "backup")
    if kept == "closed":
        (backup / "logs/closed").mkdir()
    if kept != "raw":
        compress(backup)
    compress(home)
    victim = compressed_in(home)[1]
    flip(victim, 100)
    report = repair(home, backup=backup)
    assert report.is_done
    assert len(report.restored) == 1
    assert read(home) == raw
    assert verify(home).ok
    assert not victim.exists(), "the damaged file has another name"
    assert victim.with_name(f"{victim.name}.damaged").exists()
    compress(home)
    assert read(home) == raw
    assert len(segments_in(home)) == 1


@pytest.mark.slow
def test_a_backup_holds_the_raw_bytes_and_copies_no_segment_twice(
    home: Path, tmp_path: Path
) -> None:
    raw = raw_of(home)
    backup = tmp_path / "backup"
    assert eventlog("backup", backup, home=home).code == 0
    compress(home)
    done = eventlog("backup", backup, "--json", home=home)
    assert done.code == 0, done.err
    assert done.answers[0]["copied_segments"] == 0
    assert eventlog("backup", "--verify", backup, home=home).code == 0
    shutil.rmtree(backup)
    assert eventlog("backup", backup, home=home).code == 0
    assert eventlog("restore", backup, home=tmp_path / "restored").code == 0
    assert read(tmp_path / "restored") == raw


def test_damage_in_a_compressed_segment_can_be_accepted(home: Path) -> None:
    compress(home)
    flip(compressed_in(home)[1], 100)
    report = repair(home, accept=True)
    assert report.is_done
    (gap,) = report.accepted
    seqs = [entry.seq for entry in EventLog(home).read()]
    lost = range(gap.seq_from, gap.seq_to + 1)
    assert len(lost) > 1
    assert seqs == [seq for seq in range(1, ENTRIES + 1) if seq not in lost]
    with EventLog(home) as log:
        log.append(a_signal(99))


def test_an_unknown_compressed_file_among_the_segments_is_refused_by_name(home: Path) -> None:
    """R6."""
    (home / "logs/copy.jsonl.zst").write_bytes(compress_frame(b"{}\n"))
    done = eventlog("cat", home=home)
    assert done.code == 3
    assert "copy.jsonl.zst" in done.err
    assert eventlog("verify", home=home).code == 1


def test_a_missing_compressed_segment_is_reported_by_name(home: Path) -> None:
    """R6."""
    compress(home)
    compressed_in(home)[1].unlink()
    (finding, *_) = verify(home).findings
    assert "is missing" in finding.problem
    with pytest.raises(LogCorrupt, match="is missing"):
        read(home)


# -- what closed means


def test_the_active_segment_is_never_compressed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append(a_signal(1))
        assert compress(home).compressed == ()
    assert compress(home).compressed == ()
    assert len(segments_in(home)) == 1


def test_a_segment_without_a_durable_successor_stays_raw(home: Path) -> None:
    """A crash came when the next one had just been made."""
    (home / "logs" / f"{ENTRIES + 1:020}.jsonl").touch()
    last = segments_in(home)[-2]
    compress(home)
    assert last.exists()
    assert len(segments_in(home)) == 2


def test_after_the_last_segment_is_compressed_the_next_append_starts_a_new_one(home: Path) -> None:
    """An operator lost the active one, or put back closed ones only."""
    compress(home)
    segments_in(home)[-1].unlink()
    for name in DOTFILES:
        (home / "logs" / name).unlink()
    last = compressed_in(home)[-1]
    before = last.read_bytes()
    with EventLog(home) as log:
        seq = log.last_seq
        assert log.append(a_signal(99)).seq == seq + 1
        assert log.append(a_signal(100)).seq == seq + 2
    assert [path.name for path in segments_in(home)] == [f"{seq + 1:020}.jsonl"]
    assert last.read_bytes() == before
    assert verify(home).ok


# -- crashes and failing disks (W6, W14)


@pytest.mark.slow
def test_each_call_of_the_disk_may_fail_and_the_next_run_finishes(
    original: Path, tmp_path: Path
) -> None:
    raw = raw_of(original)
    for nth in range(1, 200):
        home = copy_of(original, tmp_path / f"home-{nth}")
        disk = FaultDisk()
        fault = disk.fail(nth=nth)
        with suppress(EventLogError):  # and nothing else
            compress(home, keep=3, disk=disk)
        assert read(home) == raw, f"call {nth}"
        assert not list((home / "logs").glob(".*.new")), f"call {nth}"
        compress(home)
        assert read(home) == raw
        assert verify(home, processes=1).ok
        assert len(segments_in(home)) == 1
        shutil.rmtree(home)
        if not fault.fired:
            return
    raise AssertionError("it makes fewer calls than that")


def test_a_disk_that_stores_wrong_bytes_loses_no_segment(home: Path) -> None:
    """What is read back decides, and it is read from the device."""

    class Liar(FaultDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            if len(data) > 1000:
                data = data[:500] + bytes([data[500] ^ 1]) + data[501:]
            return super().pwrite(fd, data, offset)

    before = tree_contents(home)
    with pytest.raises(EventLogError, match="does not read back"):
        compress(home, disk=Liar())
    after = tree_contents(home)
    del after["logs/.closed.lock"]
    assert after == before


def test_leftovers_of_a_killed_run_are_removed(home: Path, original: Path) -> None:
    """A hidden file is removed; where both files stand, the raw one counts until it is proven."""
    raw = raw_of(home)
    compress(home)
    closed = segments_in(original)[:-1]
    equal, other, half = compressed_in(home)[:3]
    shutil.copy(closed[0], home / "logs")
    shutil.copy(closed[1], home / "logs")
    flip(other, 100)
    damaged = other.read_bytes()
    shutil.copy(closed[2], home / "logs")
    half.rename(half.with_name(f".{half.name}.new"))
    assert read(home) == raw
    compress(home)
    assert read(home) == raw
    assert len(segments_in(home)) == 1
    assert not list((home / "logs").glob(".*.new"))
    assert other.with_name(f"{other.name}.damaged").read_bytes() == damaged
    assert equal.exists()


def test_two_valid_files_that_differ_are_both_kept(home: Path, original: Path) -> None:
    """One of them may be half a copy that was made by hand."""
    compress(home)
    half = home / "logs" / segments_in(original)[0].name
    half.write_bytes(segments_in(original)[0].read_bytes()[:2000])
    before = tree_contents(home)
    (left,) = compress(home).damaged
    assert left.segment == half.name
    assert "hold different bytes" in left.problem
    assert tree_contents(home) == before
    half.unlink()
    assert verify(home).ok


def test_damage_that_was_accepted_stays_accepted(home: Path) -> None:
    flip(segments_in(home)[1], 300)
    assert repair(home, accept=True).is_done
    seqs = [entry.seq for entry in EventLog(home).read()]
    assert len(compress(home).compressed) == 4
    assert [entry.seq for entry in EventLog(home).read()] == seqs
    assert repair(home).is_done


def test_a_full_disk_is_reported_and_leaves_the_raw_segment(home: Path) -> None:
    before = tree_contents(home)
    disk = FaultDisk()
    disk.fail("pwrite", path=".new", error=ENOSPC, late=True)
    with pytest.raises(EventLogError, match="No space left"):
        compress(home, disk=disk)
    after = tree_contents(home)
    del after["logs/.closed.lock"]
    assert after == before


def test_a_full_disk_of_closed_segments_is_named(home: Path) -> None:
    closed_dir = home / "logs/closed"
    closed_dir.mkdir()
    words = command_line(("compress",), home, on_small_disk("4k", closed_dir))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert f"where: {closed_dir}\n" in done.stderr


# -- beside others


def test_two_concurrent_runs_compress_each_segment_once(home: Path) -> None:
    raw = raw_of(home)
    reports: list[CompressReport] = []
    threads = [threading.Thread(target=lambda: reports.append(compress(home))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [one.segment for report in reports for one in report.compressed]
    assert len(done) == len(set(done)) == 4
    assert read(home) == raw


def test_compression_and_repair_wait_for_each_other(home: Path) -> None:
    with closed_segments_lock(RealDisk(), Home(str(home)), 0.0):
        with pytest.raises(LogLocked):
            compress_log(home, lock_timeout_s=0.0)
        with pytest.raises(LogLocked):
            repair_log(home, now=NOW, lock_timeout_s=0.0)
    assert len(segments_in(home)) == 5


def test_a_reader_continues_in_its_open_file(home: Path) -> None:
    """T4."""
    raw = raw_of(home)
    reader = LogReader(SegmentDisk(RealDisk()), Home(str(home)))
    reader.chunk_bytes = 1000  # a line or two at a time
    given = b"".join(reader.read())
    compress(home)
    while lines := reader.read():
        given += b"".join(lines)
    reader.close()
    assert given == raw


@pytest.mark.parametrize("after", range(0, ENTRIES, 4))
def test_a_position_stays_valid_when_its_segment_is_compressed(home: Path, after: int) -> None:
    """T4: a projection that was behind goes on where it was."""
    disk = SegmentDisk(RealDisk())
    reader = LogReader(disk, Home(str(home)), after=after)
    reader.chunk_bytes = 700
    reader.read()
    tip, position = reader.tip, reader.position
    rest = b"".join(iter(lambda: b"".join(reader.read()), b""))
    reader.close()
    compress(home)
    later = LogReader(disk, Home(str(home)), after=tip.seq, hint=position)
    assert later.position == position
    assert later.tip.chain == tip.chain
    assert b"".join(iter(lambda: b"".join(later.read()), b"")) == rest
    later.close()


def test_a_follower_sees_each_entry_once_while_segments_are_compressed(tmp_path: Path) -> None:
    """T4."""
    home = tmp_path / "home"
    seqs: list[int] = []

    async def run() -> None:
        stop = threading.Event()

        def compress_all_the_time() -> None:
            while not stop.is_set():
                compress(home)

        with EventLog(home, segment_bytes=2000) as log:
            log.append(a_signal(1))
            thread = threading.Thread(target=compress_all_the_time)
            thread.start()
            try:
                writing = asyncio.to_thread(
                    lambda: [log.append_many(signals(3, start=n)) for n in range(2, 300, 3)]
                )
                task = asyncio.ensure_future(writing)
                disk = SegmentDisk(RealDisk())
                async with aclosing(tail_batches(disk, Home(str(home)), after=0)) as batches:
                    async for found in batches:
                        seqs.extend(int(line.split(b",", 2)[1][6:]) for line in found.lines)
                        if len(seqs) >= 301:
                            break
                await task
            finally:
                stop.set()
                thread.join()

    asyncio.run(run())
    assert seqs == list(range(1, 302))
    compress(home)
    assert len(compressed_in(home)) > 30
    assert verify(home).ok


def test_raw_files_that_are_put_back_are_read_again(home: Path, original: Path) -> None:
    """An operator unpacked one, to look at it or to edit: readers take the raw one."""
    compress(home)
    name = segments_in(original)[1].name
    shutil.copy(segments_in(original)[1], home / "logs" / name)
    flip(home / "logs" / name, 300)
    with pytest.raises((LogCorrupt, LogDiverged)):
        read(home)


# -- a larger disk


@pytest.mark.slow
def test_closed_segments_are_moved_to_the_chosen_directory(home: Path, tmp_path: Path) -> None:
    raw = raw_of(home)
    archive = tmp_path / "large-disk" / "closed"
    archive.mkdir(parents=True)
    compress(home, keep=2)
    (home / "logs/closed").symlink_to(archive)
    report = compress(home)
    assert len(report.compressed) == 4, "also those that were compressed already"
    assert len(list(archive.iterdir())) == 4
    assert compressed_in(home) == []
    assert read(home) == raw
    assert verify(home).ok
    for words in (("cat", "--after", 3), ("rebuild-database",), ("status",), ("repair",)):
        assert eventlog(*words, home=home).code == 0
    assert compress(home).compressed == ()
    with EventLog(home) as log:
        assert log.append(a_signal(1)).duplicate


def test_raw_segments_moved_there_by_hand_are_read_too(home: Path) -> None:
    raw = raw_of(home)
    (home / "logs/closed").mkdir()
    for path in segments_in(home)[:2]:
        shutil.move(path, home / "logs/closed")
    assert read(home) == raw
    assert verify(home).ok
    compress(home)
    assert sorted(p.suffix for p in (home / "logs/closed").iterdir()) == [".zst"] * 4
    assert read(home) == raw


@pytest.mark.parametrize("leads_to", [".", "../logs", "../../other/logs"])
def test_a_log_directory_is_refused_for_closed_segments(
    home: Path, original: Path, leads_to: str
) -> None:
    copy_of(original, home.with_name("other"))
    raw = raw_of(home)
    compress(home, keep=2)
    (home / "logs/closed").symlink_to(leads_to)
    there = segments_in(home), compressed_in(home), tree_contents(home.with_name("other"))
    for _ in range(2):
        with pytest.raises(UnsafePath, match="is that of a log"):
            compress(home)
        with pytest.raises(UnsafePath, match="is that of a log"):
            repair(home, backup=original)
    assert there == (segments_in(home), compressed_in(home), tree_contents(home.with_name("other")))
    (home / "logs/closed").unlink()
    assert read(home) == raw


@pytest.mark.slow
def test_an_unmounted_disk_is_reported_and_appends_continue(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "large-disk"
    archive.mkdir()
    (home / "logs/closed").symlink_to(archive)
    compress(home, keep=1)
    archive.rename(tmp_path / "elsewhere")
    there = tree_contents(home / "logs")
    reading = (("cat",), ("verify",), ("rebuild-database",))
    for words in (*reading, ("repair",), ("repair", "--accept"), ("compress",)):
        done = eventlog(*words, home=home)
        assert done.code == 3
        assert "mount the disk" in done.err
        assert "missing" not in done.err
    assert tree_contents(home / "logs") == there
    with EventLog(home, dedupe_entries=5) as log:  # what it needs to know stands in logs/
        log.append(a_signal(99))
    with EventLog(home) as log, pytest.raises(EventLogError, match="is unavailable"):
        log.append(a_signal(1))
    (tmp_path / "elsewhere").rename(archive)
    assert verify(home).ok


def test_they_move_to_another_file_system(home: Path, tmp_path: Path) -> None:
    """Where a rename cannot go."""
    raw = raw_of(home)
    archive = tmp_path / "large-disk"
    archive.mkdir()
    (home / "logs/closed").symlink_to(archive)
    script = (
        '"$1" --home "$2" compress && "$1" --home "$2" verify >&2'
        ' && ls "$0" >&2 && "$1" --home "$2" cat'
    )
    words = (*on_small_disk("16m", archive), "sh", "-c", script, archive, COMMAND, home)
    done = subprocess.run([*map(str, words)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(raw)
    assert done.stderr.count(b".jsonl.zst\n") == 4
    assert os.listdir(archive) == [], "it was another file system"


@pytest.mark.slow
def test_large_segments_are_read_in_frames_from_anywhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=2_000_000) as log:
        for start in range(1, 12_000, 500):
            log.append_many(signals(500, start=start))
    raw = raw_of(home)
    compress(home)
    assert read(home) == raw
    assert verify(home).ok
    random = Random(1)
    with EventLog(home) as log:
        for _ in range(50):
            after = random.randrange(12_000)
            assert next(iter(log.read(after=after))).seq == after + 1
    victim = compressed_in(home)[0]
    flip(victim, victim.stat().st_size // 2)
    (finding,) = verify(home).findings
    assert finding.byte_offset > FRAME_BYTES
    repair(home, accept=True)
    entries = sum(1 for _ in EventLog(home).read())
    assert 12_000 - 2 * FRAME_BYTES // 300 < entries < 12_000


def test_the_lock_of_closed_segments_holds_the_file_that_is_at_the_path(home: Path) -> None:
    path = home / "logs" / CLOSED_LOCK_NAME
    path.touch()

    class Replaced(RealDisk):
        """Deletes the file and makes another one, just before the first lock."""

        def try_lock(self, fd: int) -> bool:
            if not replaced:
                replaced.append(fd)
                path.unlink()
                path.touch()
            return super().try_lock(fd)

    replaced: list[int] = []
    with (
        closed_segments_lock(Replaced(), Home(str(home)), 5),
        path.open("rb") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
