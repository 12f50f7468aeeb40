"""Verify: what is wrong is told once, with its place; what is not wrong is never told.

R3, R6 and R9 of the failure catalogue, and logs that are hostile throughout.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import EventLog, ForeignHome, LogCorrupt, LogNotFound
from eventlog.line import CHAIN_START, encode
from eventlog.pieces import cut
from eventlog.repair import repair
from eventlog.verify import PARALLEL_BYTES_MIN, Report, verify
from eventlog.walk import FINDINGS_MAX
from tests.harness.faultdisk import FaultDisk
from tests.harness.signals import a_signal, closed, signals
from tests.harness.whole import bytes_of, content_sha256, lines_in, segments_in

AT = "2025-11-18T02:00:00.123456Z"
MARKS = ("word", "watermark", "nothing")  # what says how far the log was durable


class Where(NamedTuple):
    """The place of a finding, or of a line."""

    segment: str
    byte_offset: int
    seq: int


def found(home: Path) -> list[Where]:
    return [Where(f.segment, f.byte_offset, f.seq) for f in verify(home).findings]


def name_of(seq: int) -> str:
    return f"{seq:020d}.jsonl"


def path_of(home: Path, seq: int) -> Path:
    return home / "logs" / name_of(seq)


def forget(home: Path, known: str) -> None:
    """Leaves what `known` says to tell how far the log was durable: a reboot, or a bare copy."""
    if known != "word":
        (home / "logs/.lock").unlink()
    if known == "nothing":
        (home / "logs/.durable").unlink()


def places(home: Path) -> list[tuple[Where, bytes]]:
    """Where each line stands."""
    found: list[tuple[Where, bytes]] = []
    for path in segments_in(home):
        byte_offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            found.append((Where(path.name, byte_offset, len(found) + 1), line))
            byte_offset += len(line)
    return found


def change(home: Path, where: Where, new: Callable[[bytes], bytes]) -> None:
    """Puts other bytes in the place of a line."""
    path = home / "logs" / where.segment
    data = path.read_bytes()
    end = data.index(b"\n", where.byte_offset) + 1
    line = data[where.byte_offset : end]
    path.write_bytes(data[: where.byte_offset] + new(line) + data[end:])


def flipped(line: bytes, at: int, bit: int = 1) -> bytes:
    return line[:at] + bytes([line[at] ^ bit]) + line[at + 1 :]


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory, where syncs cost nothing: verify syncs before it trusts a cache."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def whole(memory: Path) -> Path:
    """18 entries in three segments of six, batches of three. Nobody changes it."""
    home = memory / "whole"
    with EventLog(home, segment_bytes=1500) as log:
        for number in range(1, 13, 2):
            log.append_many([*signals(2, start=number), closed(number)])
    assert [path.name for path in segments_in(home)] == [name_of(1), name_of(7), name_of(13)]
    return home


@pytest.fixture
def home(whole: Path, memory: Path) -> Path:
    """A copy of it to be damaged."""
    return a_copy(whole, memory)


def a_copy(home: Path, memory: Path) -> Path:
    copy = Path(tempfile.mkdtemp(dir=memory))
    return shutil.copytree(home, copy, symlinks=True, dirs_exist_ok=True)


# -- a log that is whole


def test_a_whole_log_is_told_with_its_head(home: Path) -> None:
    last = json.loads(lines_in(home)[-1])
    assert verify(home).to_json() == {
        "ok": True,
        "entries": 18,
        "segments": 3,
        "last_seq": 18,
        "chain": last["chain"],
        "torn_bytes": 0,
        "findings": [],
        "findings_left_out": 0,
    }


@pytest.mark.parametrize("known", MARKS)
def test_it_reads_only(home: Path, known: str) -> None:
    forget(home, known)
    before = bytes_of(home)
    assert verify(home).ok
    assert bytes_of(home) == before


def test_where_there_is_no_log_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LogNotFound):
        verify(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_the_old_tracker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/signals.log").write_text("{}\n")
    with pytest.raises(ForeignHome):
        verify(tmp_path)


def test_it_waits_for_no_lock(home: Path) -> None:
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(home / "logs/.lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert verify(home).ok
        holder.communicate(b"\n")


def test_progress_grows_to_the_size_of_the_log(home: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(home, progress=lambda done, total: told.append((done, total)))
    size = sum(path.stat().st_size for path in segments_in(home))
    assert told == sorted(told) and told[-1] == (size, size)


# -- bits that flip


@pytest.mark.parametrize("known", ["word", "watermark"])
def test_a_flip_is_told_once_with_its_place(home: Path, known: str) -> None:
    forget(home, known)
    rng = random.Random(known)
    for where, line in places(home):
        for at in (0, len(line) - 1, len(line) - 2, *rng.sample(range(len(line)), 8)):
            change(home, where, lambda line, at=at: flipped(line, at, 1 << rng.randrange(8)))
            assert found(home) == [where], f"entry {where.seq}, byte {at}"
            whole_again(home, where, line)


@pytest.mark.slow
@pytest.mark.parametrize("known", MARKS)
def test_each_byte_that_flips_is_told_once_with_its_place(home: Path, known: str) -> None:
    forget(home, known)
    rng = random.Random(known)
    for where, line in places(home):
        path = home / "logs" / where.segment
        for at in range(len(line)):
            with path.open("r+b") as file:
                file.seek(where.byte_offset + at)
                file.write(bytes([line[at] ^ 1 << rng.randrange(8)]))
            report = verify(home)
            # Without a mark the last batch, entries 16 to 18, need not have been durable.
            is_torn = known == "nothing" and where.seq >= 16
            told = [Where(f.segment, f.byte_offset, f.seq) for f in report.findings]
            assert told == ([] if is_torn else [where]), f"entry {where.seq}, byte {at}"
            assert bool(report.torn_bytes) == is_torn
            with path.open("r+b") as file:
                file.seek(where.byte_offset)
                file.write(line)


def whole_again(home: Path, where: Where, line: bytes) -> None:
    path = home / "logs" / where.segment
    data = path.read_bytes()
    path.write_bytes(data[: where.byte_offset] + line + data[where.byte_offset + len(line) :])


def test_flips_in_lines_next_to_each_other_are_told_each(home: Path) -> None:
    lines = places(home)[2:5]
    for where, _ in lines:
        change(home, where, lambda line: flipped(line, 150))
    assert found(home) == [where for where, _ in lines]


def test_bytes_that_became_zeros_are_one_damage(home: Path) -> None:
    path = path_of(home, 7)
    data = path.read_bytes()
    first, second = places(home)[7][0], places(home)[10][0]
    middle = first.byte_offset + 200
    hole = second.byte_offset + 100 - middle
    path.write_bytes(data[:middle] + bytes(hole) + data[middle + hole :])
    report = verify(home)
    assert found(home) == [first]
    assert (report.last_seq, report.entries) == (18, 14)


class Damage(NamedTuple):
    """Bytes of the log that become others."""

    segment: int
    start: int
    stop: int
    data: bytes

    def to(self, home: Path) -> None:
        path = segments_in(home)[self.segment]
        data = path.read_bytes()
        start, stop = sorted((self.start % (len(data) + 1), self.stop % (len(data) + 1)))
        path.write_bytes(data[:start] + self.data + data[stop:])


offsets = st.integers(0, 2600)
damages = st.lists(
    st.builds(
        Damage,
        st.integers(0, 2),
        offsets,
        offsets,
        st.binary(max_size=40)
        | st.sampled_from([b"", bytes(600), b"\n", b'{"v":1,"seq":9,"batch":9,']),
    ),
    min_size=1,
    max_size=3,
)


@given(damages)
def test_whatever_changes_before_the_durable_end_is_told(
    whole: Path, memory: Path, damages: list[Damage]
) -> None:
    home = a_copy(whole, memory)
    for damage in damages:
        damage.to(home)
    durable, now = (b"".join(path.read_bytes() for path in segments_in(h)) for h in (whole, home))
    assert verify(home).ok == now.startswith(durable)
    shutil.rmtree(home)


@given(damages)
def test_without_any_mark_it_still_never_crashes(
    whole: Path, memory: Path, damages: list[Damage]
) -> None:
    home = a_copy(whole, memory)
    forget(home, "nothing")
    for damage in damages:
        damage.to(home)
    report = verify(home)
    kept = b"".join(lines_in(whole)[: report.entries])
    if report.ok:  # what it takes for torn is at the end, and nothing before it has changed
        now = b"".join(path.read_bytes() for path in segments_in(home))
        assert now[: len(now) - report.torn_bytes] == kept
    shutil.rmtree(home)


# -- segments


@pytest.mark.parametrize("known", MARKS)
def test_a_missing_segment_is_named_where_it_should_be(home: Path, known: str) -> None:
    forget(home, known)
    end = Where(name_of(1), path_of(home, 1).stat().st_size, 7)
    path_of(home, 7).unlink()
    report = verify(home)
    assert found(home) == [end]
    assert name_of(7) in report.findings[0].problem
    assert (report.entries, report.last_seq, report.segments) == (12, 18, 2)


def test_a_missing_first_segment_is_told(home: Path) -> None:
    path_of(home, 1).unlink()
    assert found(home) == [Where(name_of(7), 0, 1)]


@pytest.mark.parametrize("known", ["word", "watermark"])
def test_a_missing_last_segment_is_told(home: Path, known: str) -> None:
    forget(home, known)
    end = Where(name_of(7), path_of(home, 7).stat().st_size, 13)
    path_of(home, 13).unlink()
    assert found(home) == [end]


@pytest.mark.parametrize("known", ["word", "watermark"])
def test_all_segments_missing_are_told(home: Path, known: str) -> None:
    forget(home, known)
    for path in segments_in(home):
        path.unlink()
    assert found(home) == [Where(name_of(1), 0, 1)]


@pytest.mark.parametrize("known", MARKS)
def test_swapped_segments_are_told_each_and_verified_where_they_belong(
    home: Path, known: str
) -> None:
    forget(home, known)
    one, other, aside = path_of(home, 1), path_of(home, 7), home / "aside"
    one.rename(aside), other.rename(one), aside.rename(other)
    report = verify(home)
    assert found(home) == [Where(name_of(1), 0, 7), Where(name_of(7), 0, 1)]
    assert (report.entries, report.last_seq) == (18, 18)


@pytest.mark.parametrize("known", MARKS)
@pytest.mark.parametrize(("first", "name"), [(7, 9), (13, 14), (7, 20), (1, 4)])
def test_a_renamed_segment_is_told(home: Path, known: str, first: int, name: int) -> None:
    forget(home, known)
    path_of(home, first).rename(path_of(home, name))
    assert found(home) == [Where(name_of(name), 0, first)]


@pytest.mark.parametrize("known", MARKS)
@pytest.mark.parametrize("name", [9, 20])
def test_a_copy_of_a_segment_is_told(home: Path, known: str, name: int) -> None:
    forget(home, known)
    shutil.copy(path_of(home, 7), path_of(home, name))
    assert found(home) == [Where(name_of(name), 0, name)]


@pytest.mark.parametrize("known", MARKS)
def test_a_segment_overwritten_with_a_copy_of_another_is_told_once(home: Path, known: str) -> None:
    forget(home, known)
    shutil.copy(path_of(home, 1), path_of(home, 7))
    assert found(home) == [Where(name_of(7), 0, 7)]
    shutil.copy(path_of(home, 1), path_of(home, 13))
    assert found(home) == [Where(name_of(7), 0, 7), Where(name_of(13), 0, 13)]


@pytest.mark.parametrize("known", MARKS)
def test_an_emptied_segment_is_told(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 7).write_bytes(b"")
    assert found(home) == [Where(name_of(7), 0, 7)]


@pytest.mark.parametrize("known", ["word", "watermark"])
@pytest.mark.parametrize("segment", [1, 7, 13])
def test_a_segment_cut_anywhere_is_told_once_where_it_ends(
    home: Path, known: str, segment: int
) -> None:
    forget(home, known)
    path = path_of(home, segment)
    data = path.read_bytes()
    lines = [where for where, _ in places(home) if where.segment == path.name]
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        last = max(where for where in lines if where.byte_offset <= length)
        assert found(home) == [last], f"cut at {length}"
    for where in lines[1:]:
        path.write_bytes(data[: where.byte_offset])
        assert found(home) == [where]


def test_a_segment_of_another_log_is_told(home: Path, memory: Path) -> None:
    other = memory / "other"
    with EventLog(other, segment_bytes=1500) as log:
        for number in range(21, 33, 2):
            log.append_many([*signals(2, start=number), closed(number)])
    shutil.copy(path_of(other, 7), path_of(home, 7))
    assert found(home) == [Where(name_of(7), 0, 7), Where(name_of(13), 0, 13)]


def test_a_file_that_is_named_like_no_segment_is_told(home: Path) -> None:
    (home / "logs/copy.jsonl").write_bytes(b"what is this?")
    report = verify(home)
    assert [f.segment for f in report.findings] == ["copy.jsonl"]
    assert report.entries == 18


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_regular_file_is_told_and_not_followed(home: Path, kind: str) -> None:
    path = path_of(home, 7)
    path.rename(home / "elsewhere")
    if kind == "symlink":
        path.symlink_to(home / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    report = verify(home)
    assert found(home) == [Where(name_of(7), 0, 7)]
    assert (report.entries, report.segments) == (12, 3)


@pytest.mark.parametrize("known", MARKS)
def test_an_empty_last_segment_is_nothing_wrong(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 19).touch()
    report = verify(home)
    assert report.ok and (report.entries, report.segments) == (18, 4)


@pytest.mark.parametrize("known", MARKS)
def test_an_empty_last_segment_of_the_wrong_name_is_told(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 21).touch()
    assert len(found(home)) == 1


# -- the end


def test_bytes_beyond_the_durable_end_are_torn_and_no_finding(home: Path) -> None:
    with path_of(home, 13).open("ab") as file:
        file.write(b'{"v":1,"seq":19,"batch":19,\0\0\0\n{}\n')
    report = verify(home)
    assert report.ok and report.torn_bytes == 34 and report.last_seq == 18


def test_a_batch_in_a_segment_that_was_just_made_is_torn(home: Path) -> None:
    path_of(home, 19).write_bytes(b"half a ba")
    report = verify(home)
    assert report.ok and report.torn_bytes == 9


def test_the_last_batch_cut_at_any_byte_is_torn_and_no_finding(home: Path) -> None:
    forget(home, "nothing")
    path = path_of(home, 13)
    data = path.read_bytes()
    lines = [where for where, _ in places(home) if where.segment == path.name]
    for length in range(lines[3].byte_offset, len(data)):
        path.write_bytes(data[:length])
        last = max(where for where in lines if where.byte_offset <= length)
        report = verify(home)
        assert report.ok and report.torn_bytes == length - last.byte_offset
        assert report.last_seq == last.seq - 1


def test_a_torn_tail_does_not_hide_damage_before_it(home: Path) -> None:
    forget(home, "nothing")
    where, _ = places(home)[4]
    change(home, where, lambda line: flipped(line, 100))
    path = path_of(home, 13)
    path.write_bytes(path.read_bytes()[:-10])
    assert found(home) == [where]
    assert verify(home).torn_bytes > 0


def test_a_log_that_ends_below_its_watermark_is_told(home: Path) -> None:
    forget(home, "watermark")
    path = path_of(home, 13)
    where, _ = places(home)[15]
    path.write_bytes(path.read_bytes()[: where.byte_offset])
    assert found(home) == [where]
    assert "durable up to entry 18" in verify(home).findings[0].problem


def test_a_watermark_beyond_the_word_is_believed(home: Path, whole: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(50))
    shutil.copy(whole / "logs/.lock", home / "logs/.lock")
    assert [where.seq for where in found(home)] == [19]


def test_a_writer_that_comes_meanwhile_is_believed(home: Path) -> None:
    forget(home, "watermark")
    path = path_of(home, 13)
    with path.open("ab") as file:
        file.write(b"torn")

    class Busy(FaultDisk):
        """A disk on which a writer recovers while the log is read."""

        reads = 0

        def pread(self, fd: int, length: int, offset: int) -> bytes:
            self.reads += 1
            if self.reads == 12:
                with EventLog(home) as log:
                    log.append(a_signal(50))
            return super().pread(fd, length, offset)

    disk = Busy()
    report = verify(home, disk=disk)
    assert disk.reads > 12
    assert report.ok and report.torn_bytes == 0 and report.last_seq == 19


def test_it_verifies_clean_while_a_writer_appends_and_rotates(memory: Path) -> None:
    home = memory / "busy"
    script = """if True:
        import sys
        from eventlog import EventLog
        with EventLog(sys.argv[1], segment_bytes=3000) as log:
            for number in range(100_000):
                log.append_many([{"event": "tick", "n": number}] * 3)
                if number == 3:
                    print(flush=True)
    """
    command = [sys.executable, "-c", script, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            entries = []
            for _ in range(60):
                report = verify(home)
                assert report.ok, report.findings
                assert report.entries == report.last_seq
                entries.append(report.entries)
        finally:
            writer.kill()
    assert entries == sorted(entries) and entries[0] < entries[-1]
    report = verify(home)
    assert report.ok and report.last_seq >= entries[-1]
