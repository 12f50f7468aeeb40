"""Repair on real files: damage is listed, bytes are put back, or the loss is accepted."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from errno import EROFS
from pathlib import Path
from typing import Any

import pytest

from eventlog import Entry, EventLog, EventLogError, LogCorrupt, LogDiverged, LogLocked
from eventlog.format.durability import SLOT_STRIDE_BYTES, decode_watermark
from eventlog.repair.repair import Repaired
from eventlog.repair.repair import repair as repair_log
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import Home
from eventlog.storage.locks import WriterLock
from eventlog.verify.verify import verify
from tests.harness.command import eventlog, jsonl
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import assert_valid_log, lines_in, segments_in, tree_contents
from tests.harness.mounts import mounted
from tests.harness.signals import a_signal, signals

ENTRIES = 45
SEGMENT_BYTES = 5_000  # some nine entries
NOW = "2025-11-19T00:00:00.000000Z"


def build(home: Path, *, like: Path | None = None, more: Sequence[Any] = ()) -> Path:
    """A log of four segments in batches of one or two entries, or a copy of one, and more."""
    if like is not None:
        shutil.copytree(like, home, symlinks=True)
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        seq = log.last_seq
        while seq < ENTRIES:
            seq = log.append_many(signals(seq % 3 + 1, start=seq + 1))[-1].seq
        log.append_many(more)
    assert len(segments_in(home)) == 4
    return home


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It stays as it is."""
    return build(tmp_path_factory.mktemp("original") / "home")


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "home")


def copy_of(home: Path, to: Path) -> Path:
    shutil.copytree(home, to, symlinks=True)
    return to


# -- damage, in small verbs


def change(path: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))


def flip(path: Path, byte_offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte_offset] ^= 1 << bit
    path.write_bytes(data)


def flip_line(index: int, at: int, segment: int = 1) -> Callable[[Path], None]:
    """Flips a bit in byte `at` of a line; negative counts from its end."""

    def do(home: Path) -> None:
        path = segments_in(home)[segment]
        lines = path.read_bytes().splitlines(keepends=True)
        flip(path, sum(map(len, lines[:index])) + at % len(lines[index]))

    return do


def in_segment(segment: int, edit: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    return lambda home: change(segments_in(home)[segment], edit)


def cut(segment: int, size: int) -> Callable[[Path], None]:
    """Cuts a segment to `size` bytes; a negative size cuts so many off."""

    def do(home: Path) -> None:
        path = segments_in(home)[segment]
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    return do


def remove(*segments: int) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        paths = segments_in(home)
        for segment in segments:
            paths[segment].unlink()

    return do


def swap(one: int, other: int) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        a, b = segments_in(home)[one], segments_in(home)[other]
        a.rename(a.with_suffix(".x"))
        b.rename(a)
        a.with_suffix(".x").rename(b)

    return do


def overwrite(segment: int, start: int, data: bytes) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        path = segments_in(home)[segment]
        old = path.read_bytes()
        path.write_bytes(old[:start] + data + old[start + len(data) :])

    return do


def both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        for damage in damages:
            damage(home)

    return do


def copy_segment(one: int, other: int) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        shutil.copyfile(segments_in(home)[one], segments_in(home)[other])

    return do


def last_cut_at_a_line(home: Path) -> None:
    change(segments_in(home)[-1], lambda lines: lines[:-2])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit in a body": flip_line(2, 150),
    "a bit in the first byte": flip_line(2, 0),
    "a bit in the seq": flip_line(2, 13),
    "a bit in the batch": flip_line(2, 24),
    "a bit in the chain": flip_line(2, -10),
    "a bit in the key of the chain": flip_line(2, -73),
    "a bit in a newline": flip_line(2, -1),
    "a bit in the newline of a segment's last line": flip_line(-1, -1),
    "a bit in a segment's first line": flip_line(0, 100),
    "a bit in a segment's last line": flip_line(-1, 100),
    "a bit in the log's first line": flip_line(0, 100, segment=0),
    "a bit in the log's last line": flip_line(-1, 100, segment=-1),
    "a bit in the last chain": flip_line(-1, -10, segment=-1),
    "bits in two lines": both(flip_line(2, 150), flip_line(5, 150)),
    "bits in two lines in a row": both(flip_line(2, 150), flip_line(3, 150)),
    "bits in two segments": both(flip_line(2, 150), flip_line(3, 150, segment=2)),
    "bits on both sides of a rotation": both(flip_line(-1, 150), flip_line(0, 150, segment=2)),
    "zeros": overwrite(1, 700, bytes(1500)),
    "garbage": overwrite(1, 512, b"\xa5" * 512),
    "lines deleted": in_segment(1, lambda lines: lines[:2] + lines[5:]),
    "first line deleted": in_segment(1, lambda lines: lines[1:]),
    "last line deleted": in_segment(1, lambda lines: lines[:-1]),
    "a line repeated": in_segment(1, lambda lines: [*lines[:3], lines[1], *lines[3:]]),
    "lines swapped": in_segment(1, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
    "a line inserted": in_segment(1, lambda lines: [*lines[:3], b"hello\n", *lines[3:]]),
    "bytes at the end of a segment": in_segment(1, lambda lines: [*lines, b"hello"]),
    "a segment cut in a line": cut(1, -100),
    "a segment emptied": cut(1, 0),
    "the first segment emptied": cut(0, 0),
    "the last segment emptied": cut(-1, 0),
    "the last segment cut in a line": cut(-1, -100),
    "the last segment cut at a line": last_cut_at_a_line,
    "a segment missing": remove(1),
    "two segments missing": remove(1, 2),
    "the first segment missing": remove(0),
    "the last segment missing": remove(-1),
    "the last two segments missing": remove(-2, -1),
    "all segments missing but one": remove(0, 2, 3),
    "segments swapped": swap(1, 2),
    "the first two segments swapped": swap(0, 1),
    "a segment that is a copy of another": copy_segment(1, 2),
    "the last segment a copy of the first": copy_segment(0, -1),
    "a segment cut and the next one missing": both(cut(1, -100), remove(2)),
}
of_each_damage = pytest.mark.parametrize("name", DAMAGE)


def repair(home: Path, **options: Any) -> Repaired:
    return repair_log(home, now=NOW, lock_timeout_s=1.0, **options)


def read_all(home: Path, after: int = 0) -> list[Entry]:
    with EventLog(home) as log:
        return list(log.read(after=after))


def remove_lock_record(home: Path) -> None:
    """As after a restart of the machine."""
    (home / "logs/.lock").unlink(missing_ok=True)


def without_lock_file(home: Path) -> dict[str, bytes | str]:
    return {name: data for name, data in tree_contents(home).items() if not name.endswith(".lock")}


@of_each_damage
@pytest.mark.parametrize("boot", ["this boot", "another boot"])
def test_damage_is_listed_and_nothing_is_changed(home: Path, name: str, boot: str) -> None:
    DAMAGE[name](home)
    if boot == "another boot":
        remove_lock_record(home)
    before = without_lock_file(home)
    report = repair(home)
    assert report.damage
    assert report.advice
    assert not report.is_done
    assert without_lock_file(home) == before
    with pytest.raises(LogCorrupt):
        read_all(home)


@of_each_damage
@pytest.mark.parametrize(
    "boot", ["this boot", pytest.param("another boot", marks=pytest.mark.slow)]
)
def test_accepted_damage_becomes_a_gap_and_all_other_entries_stay(
    home: Path, original: Path, name: str, boot: str
) -> None:
    entries = {entry.seq: entry for entry in read_all(original)}
    DAMAGE[name](home)
    if boot == "another boot":
        remove_lock_record(home)
    damaged = tree_contents(home)
    report = repair(home, accept=True)
    assert report.accepted
    assert report.is_done
    lost = {seq for record in report.accepted for seq in range(record.seq_from, record.seq_to + 1)}
    for path, data in tree_contents(home).items():
        if not path.endswith((".lock", ".durable", ".accepted")):
            assert data == damaged.get(path, b"")
    for _ in range(2):
        found = {entry.seq: entry for entry in read_all(home)}
        assert found == {seq: entry for seq, entry in entries.items() if seq not in lost}
        for after in range(1, max(entries) + 1):
            assert [e.seq for e in read_all(home, after)] == [s for s in found if s > after]
        remove_lock_record(home)


# The lock record names a file that is not there any more, so only the watermark counts: that an
# entry behind it was acknowledged is known only to the handle that appended it.
LOCK_RECORD_INVALIDATED = (
    *("the last segment missing", "the last two segments missing"),
    *("all segments missing but one", "the last segment a copy of the first"),
)


@of_each_damage
@pytest.mark.parametrize("boot", ["this boot", "another boot"])
def test_appends_go_on_after_damage_was_accepted(home: Path, name: str, boot: str) -> None:
    living = EventLog(home)
    last_seq = living.append(a_signal(1000)).seq
    DAMAGE[name](home)
    before = [line for line in lines_in(home) if line.endswith(b"\n")]
    report = repair(home, accept=True)
    if boot == "another boot":
        remove_lock_record(home)
    if name in LOCK_RECORD_INVALIDATED:
        for call in (lambda: living.append(a_signal(1001)), living.close):
            with pytest.raises(LogDiverged, match=f"entry {last_seq}"):
                call()
    else:
        assert living.append(a_signal(1001)).seq == last_seq + 1
        last_seq += 1
        living.close()
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        receipts = [log.append(a_signal(1002 + number)) for number in range(20)]
    assert receipts[-1].seq == receipts[0].seq + 19 >= last_seq + 19
    found = read_all(home)
    assert [e.seq for e in found[-20:]] == [receipt.seq for receipt in receipts]
    assert [line for line in lines_in(home) if line in before] == before
    assert repair(home).gaps == repair(home, accept=True).gaps
    assert len(repair(home).gaps) == len(report.accepted)


@of_each_damage
@pytest.mark.parametrize("accepted", [False, True])
def test_a_backup_puts_the_original_bytes_back(
    home: Path, original: Path, name: str, accepted: bool
) -> None:
    DAMAGE[name](home)
    damaged = {path.name: path.read_bytes() for path in segments_in(home)}
    if accepted:
        repair(home, accept=True)
    report = repair(home, backup=str(original))
    assert report.restored
    assert report.is_done
    kept = {restored.kept_in for restored in report.restored} - {None}
    for path in segments_in(original):
        assert (home / "logs" / path.name).read_bytes() == path.read_bytes()
    for file in kept:
        assert file is not None
        assert (home / "logs" / file).read_bytes() == damaged[file.removesuffix(".damaged")]
    assert not list((home / "logs").glob(".*.new"))
    assert assert_valid_log(home)[-1]["seq"] == len(assert_valid_log(original))
    remove_lock_record(home)
    with EventLog(home) as log:
        assert log.append(a_signal(5000)).seq == ENTRIES + 1
    assert_valid_log(home)
    assert repair(home) == Repaired()


# -- the tail


def torn_home(original: Path, home: Path, size: int) -> bytes:
    """The log as a crash may leave it: the last batch cut, no lock record, no watermark."""
    shutil.copytree(original, home, symlinks=True)
    remove_lock_record(home)
    path = segments_in(home)[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    batch = json.loads(lines[-1])["batch"]
    before = b"".join(line for line in lines if json.loads(line)["batch"] != batch)
    (home / "logs/.durable").unlink()
    os.truncate(path, min(len(before) + size, path.stat().st_size))
    return path.read_bytes()[len(before) :]


@pytest.mark.slow
def test_an_unacknowledged_tail_is_cut_at_every_byte_and_kept(
    original: Path, tmp_path: Path
) -> None:
    """R1. Whole lines of the last batch may stay: whether they were acknowledged is unknown."""
    tail = torn_home(original, tmp_path / "whole", 10**6)
    last_line = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    assert len(tail) > len(last_line)
    for size in range(len(tail) - len(last_line) + 1, len(tail), 7):
        home = tmp_path / f"home-{size}"
        torn = torn_home(original, home, size)
        torn = torn[torn.rfind(b"\n") + 1 :]
        report = repair(home)
        assert report.is_done
        assert report.torn_bytes_cut == len(torn)
        assert report.kept_in is not None
        assert (home / "logs" / report.kept_in).read_bytes() == torn
        assert_valid_log(home)
        assert repair(home) == Repaired()
        with EventLog(home) as log:
            assert log.append(a_signal(77)).seq == ENTRIES
        assert_valid_log(home)
        shutil.rmtree(home)


def test_both_watermark_slots_hold_the_kept_end_before_the_tail_is_cut(
    original: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    torn_home(original, home, 700)
    disk = FaultDisk()
    disk.fail("truncate")
    with pytest.raises(EventLogError, match="could not be repaired"):
        repair(home, disk=disk)
    data = (home / "logs/.durable").read_bytes()
    kept = assert_kept_lines(home)
    for offset in (0, SLOT_STRIDE_BYTES):
        watermark = decode_watermark(data[offset : offset + 256])
        assert watermark is not None
        assert (watermark.end.seq, watermark.end.chain) == (kept["seq"], kept["chain"])
    assert repair(home).torn_bytes_cut
    assert_valid_log(home)


def assert_kept_lines(home: Path) -> dict[str, Any]:
    whole = [json.loads(line) for line in lines_in(home) if line.endswith(b"\n")]
    last: dict[str, Any] = whole[-1]
    return last


@pytest.mark.parametrize("fill", [b"\0", b"\xa5"])
@pytest.mark.parametrize("sector", range(3))
def test_a_tail_of_missing_sectors_is_torn_and_not_damage(
    original: Path, tmp_path: Path, fill: bytes, sector: int
) -> None:
    """R2."""
    home = tmp_path / "home"
    tail = torn_home(original, home, 10**6)
    path = segments_in(home)[-1]
    start = path.stat().st_size - len(tail)
    overwrite(-1, start + 512 * sector, (fill * 512)[: len(tail) - 512 * sector])(home)
    assert repair(home).torn_bytes_cut > 0
    assert_valid_log(home)


def test_damage_and_a_torn_tail_are_distinguished(home: Path, original: Path) -> None:
    with EventLog(home) as log:
        log.append_many(signals(2, start=100))
    flip_line(2, 150)(home)
    cut(-1, -9)(home)
    remove_lock_record(home)
    shutil.copyfile(original / "logs/.durable", home / "logs/.durable")
    assert repair(home).torn_bytes_cut == 0
    assert len(repair(home).damage) == 1
    report = repair(home, accept=True)
    assert len(report.accepted) == 1
    assert report.torn_bytes_cut > 0
    report = repair(home, backup=str(original))
    assert len(report.restored) == 1
    assert_valid_log(home)


@pytest.mark.parametrize("tries", [1, 2])
def test_an_unproven_end_never_becomes_proof_of_durability(
    home: Path, original: Path, tmp_path: Path, tries: int
) -> None:
    """A bare copy whose last whole segment is another one, with a torn tail behind it."""
    both(copy_segment(3, 2), cut(3, 100))(home)
    remove_lock_record(home)
    (home / "logs/.durable").unlink()
    if tries == 2:
        with EventLog(tmp_path / "other") as log:
            log.append_many(signals(3, start=70))
        assert not repair(home, backup=str(tmp_path / "other")).is_done
    assert repair(home, backup=str(original)).is_done
    assert verify(home).ok
    before = [path.read_bytes() for path in segments_in(original)[:3]]
    assert [path.read_bytes() for path in segments_in(home)[:3]] == before
    remove_lock_record(home)
    with EventLog(home) as log:
        assert log.append(a_signal(900)).seq == len(lines_in(home)) == log.last_seq
    assert verify(home).ok


@pytest.mark.parametrize("named", [2, 4])
def test_a_copy_named_for_an_entry_inside_a_segment_is_reported(home: Path, named: int) -> None:
    """R6: no reader passes it, and no repair is done while it stands there."""
    first, second = segments_in(home)[:2]
    stray = first.with_name(f"{named:020d}.jsonl")
    shutil.copyfile(second, stray)
    with pytest.raises(LogCorrupt) as caught:
        read_all(home)
    assert (caught.value.segment, caught.value.seq) == (stray.name, named)
    done = repair(home)
    assert not done.is_done
    assert done.halt is not None
    assert done.halt.segment == stray.name
    assert verify(home).findings[0].segment == stray.name
    stray.unlink()
    assert repair(home).is_done


def test_an_undamaged_log_is_not_changed(home: Path, original: Path) -> None:
    before = without_lock_file(home)
    assert repair(home, accept=True, backup=str(original)) == Repaired()
    assert repair(home).to_text() == ["nothing to repair: the log is whole"]
    remove_lock_record(home)
    assert repair(home) == Repaired()
    assert without_lock_file(home) == before


# -- accepting


def test_accepted_bytes_that_change_again_are_damage_again(home: Path) -> None:
    flip_line(2, 150)(home)
    repair(home, accept=True)
    count = len(read_all(home))
    flip_line(2, 151)(home)
    with pytest.raises(LogCorrupt):
        read_all(home)
    assert len(repair(home).damage) == 1
    assert len(repair(home, accept=True).accepted) == 1
    assert len(read_all(home)) == count
    flip_line(2, 151)(home)  # back to what was accepted first: that record holds again
    assert len(read_all(home)) == count


def test_a_lost_record_is_damage_again(home: Path) -> None:
    flip_line(2, 150)(home)
    repair(home, accept=True)
    path = home / "logs/.accepted"
    for at in range(path.stat().st_size - 50):
        flip(path, at, 2)
        try:
            seqs = [entry.seq for entry in read_all(home)]
        except LogCorrupt:
            pass
        else:
            assert len(seqs) == ENTRIES - 1
        flip(path, at, 2)
    os.truncate(path, path.stat().st_size - 5)
    assert repair(home, accept=True).accepted
    assert len(read_all(home)) == ENTRIES - 1


@pytest.mark.parametrize("name", ["a segment missing", "lines deleted", "the last segment missing"])
def test_bytes_put_back_by_hand_are_read_although_accepted_as_lost(
    home: Path, original: Path, name: str
) -> None:
    DAMAGE[name](home)
    repair(home, accept=True)
    for path in segments_in(original):
        shutil.copyfile(path, home / "logs" / path.name)
    for after in range(ENTRIES):
        assert [entry.seq for entry in read_all(home, after)] == list(range(after + 1, ENTRIES + 1))
    assert repair(home) == Repaired()


def test_a_gap_record_without_its_target_does_not_stop_a_reader(home: Path) -> None:
    flip_line(2, 150)(home)
    repair(home, accept=True)
    path = home / "logs/.accepted"
    record = json.loads(path.read_text())
    nowhere = {**record, "byte_to": record["byte_from"], "seq_to": record["seq_from"] - 1}
    path.write_text(json.dumps(nowhere) + "\n[]\n{}\nnull\n\n")
    with pytest.raises(LogCorrupt):
        read_all(home)


def test_a_file_that_is_not_of_the_log_is_named_and_not_accepted(home: Path) -> None:
    """R6: the log runs on beyond it, so nothing is known to be missing."""
    (home / "logs/00000000000000000040.jsonl").write_bytes(b"hello\n")
    report = repair(home, accept=True)
    assert not report.is_done
    assert report.halt is not None
    assert "00000000000000000040.jsonl" in report.to_text()[0]
    assert report.to_json()["damage"]
    (home / "logs/00000000000000000040.jsonl").unlink()
    assert repair(home) == Repaired()


def test_a_file_beyond_the_end_can_be_moved_away_or_accepted(home: Path, tmp_path: Path) -> None:
    stray = home / "logs/00000000000000000099.jsonl"
    shutil.copyfile(segments_in(home)[0], stray)
    assert [damage.gap.seq_to for damage in repair(home).damage] == [98, 99]
    other = copy_of(home, tmp_path / "other")
    stray.unlink()
    assert repair(home) == Repaired()
    assert repair(other, accept=True).is_done
    with EventLog(other) as log:
        assert log.append(a_signal(200)).seq == 100


# -- restoring


def test_a_backup_may_be_a_home_its_logs_or_a_copy_of_them(
    home: Path, original: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in segments_in(original):
        shutil.copy(path, plain)
    for backup in (original, original / "logs", plain):
        flip_line(2, 150)(home)
        assert repair(home, backup=str(backup)).is_done
        assert_valid_log(home)
    names = sorted(path.name for path in (home / "logs").glob("*.damaged*"))
    assert len(names) == 3


def test_a_backup_that_does_not_help_changes_nothing(
    home: Path, original: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with EventLog(other, segment_bytes=SEGMENT_BYTES) as log:
        for signal in signals(ENTRIES):
            log.append(signal)
    shorter = copy_of(original, tmp_path / "shorter")
    for path in segments_in(shorter)[1:]:
        path.unlink()
    damaged_too = copy_of(original, tmp_path / "damaged")
    flip_line(2, 160)(damaged_too)
    flip_line(2, 150)(home)
    before = without_lock_file(home)
    for backup in (other, shorter, damaged_too, home):
        report = repair(home, backup=str(backup))
        assert not report.restored
        assert len(report.damage) == 1
        assert "00000000000000000013.jsonl" in report.advice[0]
        assert "15" in report.advice[0]
        assert without_lock_file(home) == before
    for nothing in (tmp_path, tmp_path / "absent", segments_in(original)[0]):
        with pytest.raises(EventLogError, match="the backup"):
            repair(home, backup=str(nothing))
    assert without_lock_file(home) == before


def test_an_older_backup_restores_what_it_has_and_the_rest_may_be_accepted(
    home: Path, tmp_path: Path
) -> None:
    backup = copy_of(home, tmp_path / "backup")
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        for signal in signals(30, start=100):
            log.append(signal)
    flip_line(2, 150)(home)
    flip_line(2, 150, segment=-2)(home)
    report = repair(home, backup=str(backup), accept=True)
    assert len(report.restored) == 1
    assert len(report.accepted) == 1
    assert report.is_done
    assert len(read_all(home)) == ENTRIES + 29


def test_edited_and_rechained_lines_are_restored(
    home: Path, original: Path, tmp_path: Path
) -> None:
    """R9: the first original line looks bad, and what is before it is not ours."""
    forged = tmp_path / "forged"
    with EventLog(forged, segment_bytes=SEGMENT_BYTES) as log:
        seq = 0
        while seq < ENTRIES:
            batch = signals(seq % 3 + 1, start=seq + 1)
            for signal in batch:
                signal["strategy"] = "momentun" if seq > 14 else signal["strategy"]
            seq = log.append_many(batch)[-1].seq
    for index in (0, 1, 2):
        shutil.copyfile(segments_in(forged)[index], segments_in(home)[index])
    before = {path.name: path.read_bytes() for path in segments_in(home)}
    assert len(repair(home).damage) == 1
    report = repair(home, backup=str(original))
    assert report.is_done
    for path in segments_in(original):
        assert (home / "logs" / path.name).read_bytes() == path.read_bytes()
    for restored in report.restored:
        assert restored.kept_in is not None
        old = before[restored.kept_in.removesuffix(".damaged")]
        assert (home / "logs" / restored.kept_in).read_bytes() == old


# -- the disk, other processes


def test_two_repairs_or_a_writer_never_work_at_once(home: Path) -> None:
    lock = WriterLock(RealDisk(), Home(str(home)), pid=1, timeout_s=1.0)
    lock.take()
    flip_line(2, 150)(home)
    with pytest.raises(LogLocked):
        repair_log(home, accept=True, now=NOW, lock_timeout_s=0.01)
    lock.drop()
    assert repair(home, accept=True).is_done


def test_a_read_only_log_is_refused_with_a_message(home: Path) -> None:
    """R10."""
    disk = FaultDisk()
    disk.fail("open", path=".lock", error=EROFS)
    with pytest.raises(EventLogError, match="Read-only file system") as raised:
        repair(home, accept=True, disk=disk)
    assert raised.value.where
    assert raised.value.do


# -- the command, end to end


def test_on_a_damaged_log_each_command_does_what_it_can(home: Path, original: Path) -> None:
    """R3."""
    flip_line(2, 150)(home)
    found = eventlog("repair", home=home)
    assert found.code == 1
    assert b"DAMAGED: 00000000000000000013.jsonl, bytes 990 to 1485, entry 15" in found.out
    assert b"eventlog repair --from BACKUP" in found.out
    assert eventlog("repair", "--json", home=home).code == 1
    read = eventlog("cat", home=home)
    assert (read.code, read.out) == (3, b"".join(lines_in(original)[:14]))
    assert "entry 15" in read.err
    assert "00000000000000000013.jsonl at byte 990" in read.err
    rest = eventlog("cat", "--after", 15, home=home)
    assert (rest.code, rest.out) == (0, b"".join(lines_in(original)[15:]))
    end = eventlog("tail", "-n", 3, "--json", home=home)
    assert (end.code, end.out) == (0, b"".join(lines_in(original)[-3:]))
    status = eventlog("status", "--json", home=home)
    assert status.code == 0
    assert status.answers[0]["log"]["last_seq"] == ENTRIES
    assert eventlog("verify", home=home).code == 1
    assert eventlog("append", home=home, stdin=jsonl([a_signal(99)])).code == 3


def test_a_loss_that_is_accepted_is_a_gap_and_stays_a_finding(home: Path, original: Path) -> None:
    flip_line(2, 150)(home)
    done = eventlog("repair", "--accept", "--json", home=home)
    assert done.code == 0
    (report,) = done.answers
    (record,) = report["accepted"]
    assert json.loads((home / "logs/.accepted").read_text()) == record
    bad = segments_in(home)[1].read_bytes()[record["byte_from"] : record["byte_to"]]
    assert record["sha256"] == hashlib.sha256(bad).hexdigest()
    assert (record["segment"], record["seq_from"], record["seq_to"]) == (
        "00000000000000000013.jsonl",
        15,
        15,
    )
    wanted = lines_in(original)
    del wanted[14]
    assert eventlog("cat", home=home).out == b"".join(wanted)
    assert eventlog("append", home=home, stdin=jsonl([a_signal(99)])).code == 0
    verified = eventlog("verify", "--json", home=home)
    assert verified.code == 1
    assert not verified.answers[0]["ok"]
    assert record["accepted_at"][:10] in verified.answers[0]["findings"][0]["problem"]
    again = eventlog("repair", home=home)
    assert again.code == 0
    assert b"accepted before" in again.out


def test_a_restored_log_equals_the_original(home: Path, original: Path) -> None:
    both(flip_line(2, 150), remove(2))(home)
    done = eventlog("repair", "--from", original, "--json", home=home)
    assert done.code == 0
    assert [(r["seq_from"], r["seq_to"]) for r in done.answers[0]["restored"]] == [
        (15, 15),
        (25, 36),
    ]
    assert done.answers[0]["damage"] == []
    assert eventlog("cat", home=home).out == b"".join(lines_in(original))
    assert eventlog("verify", home=home).code == 0
    assert eventlog("append", home=home, stdin=jsonl([a_signal(99)])).code == 0
    assert_valid_log(home)


def test_a_backup_that_does_not_help_exits_1(home: Path, tmp_path: Path) -> None:
    backup = copy_of(home, tmp_path / "backup")
    for each in (home, backup):
        flip_line(2, 150)(each)
    done = eventlog("repair", "--from", backup, home=home)
    assert done.code == 1
    assert b"find another backup" in done.out
    assert eventlog("repair", "--from", tmp_path / "absent", home=home).code == 2
    assert eventlog("repair", "--from", tmp_path, home=home).code == 3


def test_a_torn_tail_is_cut_by_the_command(original: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    torn_home(original, home, 700)
    done = eventlog("repair", "--json", home=home)
    assert done.code == 0
    assert done.answers[0]["torn_bytes_cut"] == 205
    assert done.answers[0]["kept_in"] == "00000000000000000037.jsonl.3960.torn"
    assert (done.answers[0]["restored"], done.answers[0]["accepted"]) == ([], [])
    assert eventlog("repair", home=home).out == b"nothing to repair: the log is whole\n"


def test_on_a_read_only_file_system_reads_work_and_repair_reports_the_reason(
    home: Path,
) -> None:
    """R10."""
    flip_line(2, 150)(home)
    under = mounted('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"', home)
    for words in (("repair",), ("repair", "--accept"), ("repair", "--json")):
        done = eventlog(*words, home=home, under=under)
        assert (done.code, done.out) == (3, b"")
        assert "Read-only file system" in done.err
        assert "Traceback" not in done.err
    assert eventlog("cat", home=home, under=under).code == 3
    assert eventlog("tail", "-n", 1, home=home, under=under).code == 0


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_misnamed_segment_gives_no_entries(home: Path, tmp_path: Path, how: str) -> None:
    """Whatever repair makes of it, with the files put right by hand all is as it was."""
    before = {path.name: path.read_bytes() for path in segments_in(home)}
    backup = tmp_path / "the-backup"
    shutil.copytree(home, backup, symlinks=True)
    last = segments_in(home)[-1]
    wrong = last.with_name(f"{99:020}.jsonl")
    wrong.write_bytes(last.read_bytes())
    if how == "moved":
        last.unlink()
    eventlog("repair", "--from", backup, home=home)
    wrong.rename(last) if how == "moved" else wrong.unlink()
    assert {path.name: path.read_bytes() for path in segments_in(home)} == before
    assert verify(home).ok
    with EventLog(home) as log:
        log.append(a_signal(999))
