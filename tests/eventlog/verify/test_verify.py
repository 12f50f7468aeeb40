"""Verify: each problem is reported once, with its place; nothing else is reported.

R3, R6 and R9 of the failure catalogue, and logs that are hostile throughout.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import EventLog, ForeignHome, LogCorrupt, LogNotFound
from eventlog.format.line import CHAIN_START, encode
from eventlog.repair.repair import repair
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from eventlog.verify.inventory import inventory
from eventlog.verify.log_verifier import FINDINGS_MAX
from eventlog.verify.ranges import split_ranges
from eventlog.verify.verify import PARALLEL_BYTES_MIN, verify
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import content_sha256, lines_in, segments_in, tree_contents
from tests.harness.signals import a_signal, closed, signals

AT = "2025-11-18T02:00:00.123456Z"
EVIDENCE = ("lock record", "watermark", "nothing")  # what shows how far the log was durable


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
    """Leaves only `known` to show how far the log was durable: a reboot, or a bare copy."""
    if known != "lock record":
        (home / "logs/.lock").unlink()
    if known == "nothing":
        (home / "logs/.durable").unlink()


def spans(home: Path) -> list[tuple[Where, bytes]]:
    """Where each line stands."""
    found: list[tuple[Where, bytes]] = []
    for path in segments_in(home):
        byte_offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            found.append((Where(path.name, byte_offset, len(found) + 1), line))
            byte_offset += len(line)
    return found


def put(home: Path, where: Where, data: bytes) -> None:
    """Overwrites what stands there."""
    with (home / "logs" / where.segment).open("r+b") as file:
        file.seek(where.byte_offset)
        file.write(data)


def flipped(line: bytes, at: int, bit: int = 1) -> bytes:
    return line[:at] + bytes([line[at] ^ bit]) + line[at + 1 :]


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory, where syncs cost nothing: verify syncs before it trusts a cache."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def undamaged(memory: Path) -> Path:
    """18 entries in three segments of six, batches of three. It is not changed."""
    home = memory / "whole"
    with EventLog(home, segment_bytes=1500) as log:
        for number in range(1, 13, 2):
            log.append_many([*signals(2, start=number), closed(number)])
    assert [path.name for path in segments_in(home)] == [name_of(1), name_of(7), name_of(13)]
    return home


@pytest.fixture
def home(undamaged: Path, memory: Path) -> Path:
    """A copy of it to be damaged."""
    return a_copy(undamaged, memory)


def a_copy(home: Path, memory: Path) -> Path:
    copy = Path(tempfile.mkdtemp(dir=memory))
    return shutil.copytree(home, copy, symlinks=True, dirs_exist_ok=True)


# -- a log that is whole


def test_an_undamaged_log_is_reported_with_its_head(home: Path) -> None:
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


@pytest.mark.parametrize("known", EVIDENCE)
def test_it_is_read_only(home: Path, known: str) -> None:
    forget(home, known)
    before = tree_contents(home)
    assert verify(home).ok
    assert tree_contents(home) == before


def test_a_missing_log_is_reported_and_nothing_is_created(tmp_path: Path) -> None:
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
    reported: list[tuple[int, int]] = []
    verify(home, progress=lambda done, total: reported.append((done, total)))
    size = sum(path.stat().st_size for path in segments_in(home))
    assert reported == sorted(reported) and reported[-1] == (size, size)


# -- bits that flip


@pytest.mark.parametrize("known", ["lock record", "watermark"])
def test_a_flipped_bit_is_reported_once_with_its_place(home: Path, known: str) -> None:
    forget(home, known)
    rng = random.Random(known)
    for where, line in spans(home):
        for at in (0, len(line) - 1, len(line) - 2, *rng.sample(range(len(line)), 8)):
            put(home, where, flipped(line, at, 1 << rng.randrange(8)))
            assert found(home) == [where], f"entry {where.seq}, byte {at}"
            put(home, where, line)


@pytest.mark.slow
@pytest.mark.parametrize("known", EVIDENCE)
def test_each_flipped_byte_is_reported_once_with_its_place(home: Path, known: str) -> None:
    forget(home, known)
    rng = random.Random(known)
    for where, line in spans(home):
        for at in range(len(line)):
            put(home, where, flipped(line, at, 1 << rng.randrange(8)))
            report = verify(home)
            # Without a mark the last batch, entries 16 to 18, need not have been durable.
            is_torn = known == "nothing" and where.seq >= 16
            reported = [Where(f.segment, f.byte_offset, f.seq) for f in report.findings]
            assert reported == ([] if is_torn else [where]), f"entry {where.seq}, byte {at}"
            assert bool(report.torn_bytes) == is_torn
            put(home, where, line)


def test_flipped_bits_in_adjacent_lines_are_each_reported(home: Path) -> None:
    lines = spans(home)[2:5]
    for where, line in lines:
        put(home, where, flipped(line, 150))
    assert found(home) == [where for where, _ in lines]


def test_zeroed_bytes_are_one_finding(home: Path) -> None:
    path = path_of(home, 7)
    data = path.read_bytes()
    first, second = spans(home)[7][0], spans(home)[10][0]
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
def test_every_change_before_the_durable_end_is_reported(
    undamaged: Path, memory: Path, damages: list[Damage]
) -> None:
    home = a_copy(undamaged, memory)
    for damage in damages:
        damage.to(home)
    durable, now = (
        b"".join(path.read_bytes() for path in segments_in(h)) for h in (undamaged, home)
    )
    assert verify(home).ok == now.startswith(durable)
    shutil.rmtree(home)


@given(damages)
def test_without_a_watermark_or_lock_record_it_never_crashes(
    undamaged: Path, memory: Path, damages: list[Damage]
) -> None:
    home = a_copy(undamaged, memory)
    forget(home, "nothing")
    for damage in damages:
        damage.to(home)
    report = verify(home)
    kept = b"".join(lines_in(undamaged)[: report.entries])
    if report.ok:  # what it takes for torn is at the end, and nothing before it has changed
        now = b"".join(path.read_bytes() for path in segments_in(home))
        assert now[: len(now) - report.torn_bytes] == kept
    shutil.rmtree(home)


@given(damages, st.sampled_from(EVIDENCE))
def test_the_first_finding_is_where_a_reader_stops(
    undamaged: Path, memory: Path, damages: list[Damage], known: str
) -> None:
    home = a_copy(undamaged, memory)
    forget(home, known)
    for damage in damages:
        damage.to(home)
    findings = verify(home).findings
    read = 0
    try:
        for entry in EventLog(home).read():
            read = entry.seq
    except LogCorrupt as error:
        where = Where(error.segment, error.byte_offset, error.seq)
        assert Where(findings[0].segment, findings[0].byte_offset, findings[0].seq) == where
    else:
        assert findings == () and verify(home).last_seq == read
    shutil.rmtree(home)


# -- segments


@pytest.mark.parametrize("known", EVIDENCE)
def test_a_missing_segment_is_reported_at_its_place(home: Path, known: str) -> None:
    forget(home, known)
    end = Where(name_of(1), path_of(home, 1).stat().st_size, 7)
    path_of(home, 7).unlink()
    report = verify(home)
    assert found(home) == [end]
    assert name_of(7) in report.findings[0].problem
    assert (report.entries, report.last_seq, report.segments) == (12, 18, 2)


def test_a_missing_first_segment_is_reported(home: Path) -> None:
    path_of(home, 1).unlink()
    assert found(home) == [Where(name_of(7), 0, 1)]


@pytest.mark.parametrize("known", ["lock record", "watermark"])
def test_a_missing_last_segment_is_reported(home: Path, known: str) -> None:
    forget(home, known)
    end = Where(name_of(7), path_of(home, 7).stat().st_size, 13)
    path_of(home, 13).unlink()
    assert found(home) == [end]


@pytest.mark.parametrize("known", ["lock record", "watermark"])
def test_a_log_without_any_segment_is_reported(home: Path, known: str) -> None:
    forget(home, known)
    for path in segments_in(home):
        path.unlink()
    assert found(home) == [Where(name_of(1), 0, 1)]


@pytest.mark.parametrize("known", EVIDENCE)
def test_swapped_segments_are_each_reported_and_verified_at_their_place(
    home: Path, known: str
) -> None:
    forget(home, known)
    one, other, aside = path_of(home, 1), path_of(home, 7), home / "aside"
    one.rename(aside), other.rename(one), aside.rename(other)
    report = verify(home)
    assert found(home) == [Where(name_of(1), 0, 7), Where(name_of(7), 0, 1)]
    assert (report.entries, report.last_seq) == (18, 18)


@pytest.mark.parametrize("known", EVIDENCE)
@pytest.mark.parametrize(("first", "name"), [(7, 9), (13, 14), (7, 20), (1, 4)])
def test_a_renamed_segment_is_reported(home: Path, known: str, first: int, name: int) -> None:
    forget(home, known)
    path_of(home, first).rename(path_of(home, name))
    assert found(home) == [Where(name_of(name), 0, first)]


@pytest.mark.parametrize("known", EVIDENCE)
@pytest.mark.parametrize("name", [9, 20])
def test_a_copy_of_a_segment_is_reported(home: Path, known: str, name: int) -> None:
    forget(home, known)
    shutil.copy(path_of(home, 7), path_of(home, name))
    assert found(home) == [Where(name_of(name), 0, name)]


@pytest.mark.parametrize("known", EVIDENCE)
def test_a_segment_overwritten_by_a_copy_of_another_is_reported_once(
    home: Path, known: str
) -> None:
    forget(home, known)
    shutil.copy(path_of(home, 1), path_of(home, 7))
    assert found(home) == [Where(name_of(7), 0, 7)]
    shutil.copy(path_of(home, 1), path_of(home, 13))
    assert found(home) == [Where(name_of(7), 0, 7), Where(name_of(13), 0, 13)]


@pytest.mark.parametrize("known", EVIDENCE)
def test_a_missing_segment_does_not_hide_later_damage(home: Path, known: str) -> None:
    forget(home, known)
    one, two = spans(home)[12:14]
    end = Where(name_of(1), path_of(home, 1).stat().st_size, 7)
    path_of(home, 7).unlink()
    put(home, one[0], b"#")
    assert found(home) == [end, one[0]]
    path = path_of(home, 13)
    path.write_bytes(path.read_bytes()[two[0].byte_offset :])
    assert found(home) == [end, one[0]]


@pytest.mark.parametrize("known", EVIDENCE)
def test_an_emptied_segment_is_reported(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 7).write_bytes(b"")
    assert found(home) == [Where(name_of(7), 0, 7)]


@pytest.mark.parametrize("known", ["lock record", "watermark"])
@pytest.mark.parametrize("segment", [1, 7, 13])
def test_a_truncated_segment_is_reported_once_at_its_end(
    home: Path, known: str, segment: int
) -> None:
    forget(home, known)
    path = path_of(home, segment)
    data = path.read_bytes()
    lines = [where for where, _ in spans(home) if where.segment == path.name]
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        last = max(where for where in lines if where.byte_offset <= length)
        assert found(home) == [last], f"cut at {length}"
    for where in lines[1:]:
        path.write_bytes(data[: where.byte_offset])
        assert found(home) == [where]


def test_a_segment_of_another_log_is_reported(home: Path, memory: Path) -> None:
    other = memory / "other"
    with EventLog(other, segment_bytes=1500) as log:
        for number in range(21, 33, 2):
            log.append_many([*signals(2, start=number), closed(number)])
    shutil.copy(path_of(other, 7), path_of(home, 7))
    assert found(home) == [Where(name_of(7), 0, 7), Where(name_of(13), 0, 13)]


def test_an_unknown_file_name_is_reported(home: Path) -> None:
    (home / "logs/copy.jsonl").write_bytes(b"what is this?")
    report = verify(home)
    assert [f.segment for f in report.findings] == ["copy.jsonl"]
    assert report.entries == 18


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_a_path_that_is_not_a_regular_file_is_reported_and_not_followed(
    home: Path, kind: str
) -> None:
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


@pytest.mark.parametrize("known", EVIDENCE)
def test_an_empty_last_segment_is_not_a_finding(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 19).touch()
    report = verify(home)
    assert report.ok and (report.entries, report.segments) == (18, 4)


@pytest.mark.parametrize("known", EVIDENCE)
def test_a_misnamed_empty_last_segment_is_reported(home: Path, known: str) -> None:
    forget(home, known)
    path_of(home, 21).touch()
    assert len(found(home)) == 1


# -- the end


def test_bytes_beyond_the_durable_end_are_torn_and_not_a_finding(home: Path) -> None:
    with path_of(home, 13).open("ab") as file:
        file.write(b'{"v":1,"seq":19,"batch":19,\0\0\0\n{}\n')
    report = verify(home)
    assert report.ok and report.torn_bytes == 34 and report.last_seq == 18


def test_a_batch_in_a_segment_that_was_just_made_is_torn(home: Path) -> None:
    path_of(home, 19).write_bytes(b"half a ba")
    report = verify(home)
    assert report.ok and report.torn_bytes == 9


def test_a_last_batch_cut_at_any_byte_is_torn_and_not_a_finding(home: Path) -> None:
    forget(home, "nothing")
    path = path_of(home, 13)
    data = path.read_bytes()
    lines = [where for where, _ in spans(home) if where.segment == path.name]
    for length in range(lines[3].byte_offset, len(data)):
        path.write_bytes(data[:length])
        last = max(where for where in lines if where.byte_offset <= length)
        report = verify(home)
        assert report.ok and report.torn_bytes == length - last.byte_offset
        assert report.last_seq == last.seq - 1


def test_a_torn_tail_does_not_hide_damage_before_it(home: Path) -> None:
    forget(home, "nothing")
    where, line = spans(home)[4]
    put(home, where, flipped(line, 100))
    path = path_of(home, 13)
    path.write_bytes(path.read_bytes()[:-10])
    assert found(home) == [where]
    assert verify(home).torn_bytes > 0


def test_the_end_of_a_closed_segment_is_never_torn(home: Path) -> None:
    forget(home, "nothing")
    path = path_of(home, 7)
    path.write_bytes(path.read_bytes()[:-10])
    shutil.copy(path_of(home, 1), path_of(home, 13))
    assert found(home) == [spans(home)[11][0], Where(name_of(13), 0, 13)]


def test_a_log_that_ends_below_its_watermark_is_reported(home: Path) -> None:
    forget(home, "watermark")
    path = path_of(home, 13)
    where, _ = spans(home)[15]
    path.write_bytes(path.read_bytes()[: where.byte_offset])
    assert found(home) == [where]
    assert "durable up to entry 18" in verify(home).findings[0].problem


def test_an_older_lock_record_hides_neither_entries_nor_their_loss(
    home: Path, undamaged: Path
) -> None:
    with EventLog(home) as log:
        log.append(a_signal(50))
    shutil.copy(undamaged / "logs/.lock", home / "logs/.lock")
    assert found(home) == []
    assert verify(home).last_seq == 19
    where, _ = spans(home)[18]
    os.truncate(path_of(home, 13), where.byte_offset)
    assert found(home) == [where]


def test_a_writer_that_starts_during_verification_is_taken_into_account(home: Path) -> None:
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
        import sys, time
        from eventlog import EventLog
        with EventLog(sys.argv[1], segment_bytes=3000) as log:
            for number in range(5_000):
                log.append_many([{"event": "tick", "n": number, "m": m} for m in range(3)])
                time.sleep(0.001)
                if number == 3:
                    print(flush=True)
    """
    command = [sys.executable, "-c", script, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            entries = []
            for _ in range(40):
                report = verify(home)
                assert report.ok, report.findings
                assert report.entries == report.last_seq
                entries.append(report.entries)
        finally:
            writer.kill()
    assert entries == sorted(entries) and entries[0] < entries[-1]
    report = verify(home)
    assert report.ok and report.last_seq >= entries[-1]


# -- lines that were changed, and chained anew


class Line(NamedTuple):
    """What a line is made of, its chain aside."""

    seq: int
    batch: int
    event: str
    body: bytes
    recorded_at: str = AT

    def with_body(self, body: bytes) -> "Line":
        return self._replace(body=body)


def parts(line: bytes) -> Line:
    fields = json.loads(line)
    body = line.partition(b'"event":"%b",' % fields["event"].encode())[2]
    body = body.rpartition(b',"chain":"')[0]
    return Line(fields["seq"], fields["batch"], fields["event"], body, fields["recorded_at"])


def chain_of(line: bytes) -> str:
    return line[-67:-3].decode()


def chained_anew(lines: list[Line], chain: str = CHAIN_START) -> list[bytes]:
    written = []
    for seq, batch, event, body, recorded_at in lines:
        line, chain = encode(
            event, body, seq=seq, batch=batch, recorded_at=recorded_at, prev_chain=chain
        )
        written.append(line)
    return written


def a_log_of(memory: Path, lines: list[bytes]) -> Path:
    """A log of one segment that nothing else speaks for."""
    home = Path(tempfile.mkdtemp(dir=memory))
    (home / "logs").mkdir()
    path_of(home, 1).write_bytes(b"".join(lines))
    return home


def reported(memory: Path, lines: list[bytes]) -> list[tuple[int, int]]:
    """The seqs that are reported, each with the line at which it is."""
    home = a_log_of(memory, lines)
    starts = [sum(map(len, lines[:index])) for index in range(len(lines) + 1)]
    findings = verify(home).findings
    return [(f.seq, starts.index(f.byte_offset) + 1) for f in findings]


@pytest.fixture
def lines(undamaged: Path) -> list[bytes]:
    """Lines of a whole log: batches of three, distinguished by evidence of later ones."""
    return lines_in(undamaged)


def test_deleted_lines_are_reported_once(memory: Path, lines: list[bytes]) -> None:
    assert reported(memory, lines[:4] + lines[5:]) == [(5, 5)]
    assert reported(memory, lines[:4] + lines[9:]) == [(5, 5)]
    assert reported(memory, lines[3:]) == [(1, 1)]


def test_a_duplicated_line_is_reported_once(memory: Path, lines: list[bytes]) -> None:
    assert reported(memory, lines[:4] + lines[3:]) == [(5, 5)]
    assert reported(memory, lines[:8] + lines[2:3] + lines[8:]) == [(9, 9)]


def test_a_line_from_another_place_is_reported_once(memory: Path, lines: list[bytes]) -> None:
    (alien,) = chained_anew([parts(lines[4])], chain="f" * 64)
    assert reported(memory, [*lines[:4], alien, *lines[4:]]) == [(5, 5)]
    # In the place of the line that it is but for its chain, only the chain is damaged.
    assert reported(memory, [*lines[:4], alien, *lines[5:]]) == [(5, 5)]
    (alien,) = chained_anew([parts(lines[7])._replace(seq=5)], chain="f" * 64)
    assert reported(memory, [*lines[:4], alien, *lines[5:]]) == [(5, 5), (6, 6)]
    assert reported(memory, [*lines[:4], b"# a note\n", *lines[4:]]) == [(5, 5)]


def test_reordered_lines_are_reported(memory: Path, lines: list[bytes]) -> None:
    one, two, three = lines[4:7]
    assert reported(memory, [*lines[:4], two, one, *lines[6:]]) == [(5, 5), (6, 7)]
    assert reported(memory, [*lines[:4], three, two, one, *lines[7:]])[0] == (5, 5)


def test_an_edited_and_rechained_line_is_reported_at_the_next_line(
    memory: Path, lines: list[bytes]
) -> None:
    five = parts(lines[4])._replace(event="note", body=b'"note":"edited"')
    (edited,) = chained_anew([five], chain_of(lines[3]))
    # The line itself is now in order; what follows it says that another stood there.
    assert reported(memory, [*lines[:4], edited, *lines[5:]]) == [(6, 6)]


def test_deleted_lines_are_reported_although_the_rest_was_rechained(
    memory: Path, lines: list[bytes]
) -> None:
    rest = chained_anew([parts(line) for line in lines[6:]], chain_of(lines[3]))
    assert reported(memory, lines[:4] + rest) == [(5, 5)]


def test_an_edited_signal_is_reported_although_the_rest_was_rechained(
    memory: Path, lines: list[bytes]
) -> None:
    all_parts = [parts(line) for line in lines]
    assert b"163.0" in all_parts[3].body
    all_parts[3] = all_parts[3].with_body(all_parts[3].body.replace(b"163.0", b"164.0"))
    assert reported(memory, chained_anew(all_parts)) == [(4, 4)]


def test_a_rewrite_of_the_whole_rest_is_not_detected_from_the_log_alone(
    memory: Path, lines: list[bytes]
) -> None:
    new = [parts(line) for line in lines]
    assert new[2].event == "closed"
    new[2] = new[2].with_body(new[2].body.replace(b"161.0", b"999.0"))
    home = a_log_of(memory, chained_anew(new))
    report = verify(home)
    assert report.ok  # accepted, and said in the README: only an anchor outside knows better
    assert report.chain != chain_of(lines[-1])  # such as a head that was printed


@pytest.mark.parametrize("known", ["lock record", "watermark"])
def test_a_rewrite_of_the_whole_rest_is_detected_from_the_durable_state(
    home: Path, known: str
) -> None:
    forget(home, known)
    new = [parts(line) for line in lines_in(home)]
    new[2] = new[2].with_body(new[2].body.replace(b"161.0", b"999.0"))
    for (where, _), line in zip(spans(home), chained_anew(new), strict=True):
        put(home, where, line)
    assert found(home) == [spans(home)[-1][0]]


def test_a_clock_that_went_back_is_reported(memory: Path, lines: list[bytes]) -> None:
    new = [parts(line) for line in lines]
    new[5] = new[5]._replace(recorded_at="2036-01-01T00:00:00.000000Z")
    assert reported(memory, chained_anew(new)) == [(7, 7)]


@pytest.mark.parametrize("batch", [2, 6, 99])
def test_an_impossible_batch_is_reported(memory: Path, lines: list[bytes], batch: int) -> None:
    new = [parts(line) for line in lines]
    new[4] = new[4]._replace(batch=batch)
    assert (5, 5) in reported(memory, chained_anew(new))


def test_a_line_of_a_later_version_is_reported(memory: Path, lines: list[bytes]) -> None:
    later = lines[4].replace(b'{"v":1,', b'{"v":2,')
    home = a_log_of(memory, [*lines[:4], later, *lines[5:]])
    (finding,) = verify(home).findings
    assert finding.seq == 5
    assert "is of format version 2; this program reads version 1" in finding.problem


# -- lines that are chained, and hostile


HOSTILE: dict[str, tuple[str, bytes]] = {
    "not JSON": ("note", b'"a":'),
    "half a string": ("note", b'"a":"x'),
    "two objects": ("note", b'"a":1},{"b":2'),
    "a brace too many": ("note", b'"a":1}'),
    "NaN": ("note", b'"a":NaN'),
    "an infinity": ("note", b'"a":-Infinity'),
    "1e400": ("note", b'"a":1e400'),
    "a huge integer": ("note", b'"a":' + b"9" * 5000),
    "2^64": ("note", b'"a":18446744073709551616'),
    "2^63": ("note", b'"a":9223372036854775808'),
    "a key given twice": ("note", b'"a":1,"a":2'),
    "a key given twice with a space": ("note", b'"a":1,"a" :2'),
    "a key given twice, deep within": ("note", b'"a":[{"b":1,"b":1}]'),
    "a key of the log": ("note", b'"seq":7'),
    "another chain": ("note", b'"chain":"' + b"0" * 64 + b'"'),
    "control characters": ("note", b'"a":"\x01\x1b[2J"'),
    "no UTF-8": ("note", b'"a":"\xff\xfe"'),
    "half a character": ("note", b'"a":"\\ud800"'),
    "too deep": ("note", b'"a":' + b"[" * 900 + b"]" * 900),
    "far too deep": ("note", b'"a":' + b"[" * 20_000 + b"]" * 20_000),
    "a carriage return": ("note", b'"a":\r1,"a":\r2'),
    "NUL": ("note", b"\0" * 100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_chained_line_not_written_by_a_writer_is_reported(memory: Path, name: str) -> None:
    event, body = HOSTILE[name]
    good = b'"a":1'
    new = [Line(1, 1, "note", good), Line(2, 2, event, body), Line(3, 3, "note", good)]
    assert reported(memory, chained_anew(new)) == [(2, 2)]


SIGNAL = {**a_signal(1), "asset_type": "stock", "data_source": "x"}
SIGNAL["timestamp"] = "2025-11-18T02:00:00.000000+00:00"


def signal_body(**changes: Any) -> bytes:
    """A signal's body with changes after it was hashed; None takes a key out."""
    fields = {**SIGNAL, "sha256": content_sha256(SIGNAL), **changes}
    fields = {key: value for key, value in fields.items() if value is not None}
    return json.dumps(fields, separators=(",", ":"))[1:-1].encode()


HOSTILE_SIGNALS: dict[str, bytes] = {
    "nothing": b"",
    "no symbol": signal_body(symbol=None),
    "no asset_type": signal_body(asset_type=None),
    "no sha256": signal_body(sha256=None),
    "a sha256 of another type": signal_body(sha256=7),
    "another sha256": signal_body(sha256="f" * 64),
    "another price": signal_body(entry_price=150.5),
    "a price that is text": signal_body(entry_price="151.0"),
    "a price that is true": signal_body(entry_price=True),
    "a price that is nested": signal_body(entry_price=[[[1.0]]]),
    "a symbol that is a number": signal_body(symbol=1),
    "a strategy that is null": signal_body().replace(b'"momentum"', b"null"),
    "a symbol twice": signal_body().replace(b'"sha256"', b'"symbol":"AAPL","sha256"'),
    "a number written otherwise": signal_body().replace(b"151.0", b"151.00"),
    "a timestamp of another type": signal_body(timestamp={"a": 1}),
    "an extra that is no JSON": signal_body().replace(b',"sha256"', b',"x":nope,"sha256"'),
}


@pytest.mark.parametrize("name", HOSTILE_SIGNALS)
def test_a_chained_signal_with_a_wrong_sha256_is_reported(memory: Path, name: str) -> None:
    good = Line(1, 1, "signal", signal_body())
    new = [good, Line(2, 2, "signal", HOSTILE_SIGNALS[name]), good._replace(seq=3, batch=3)]
    tellings = reported(memory, chained_anew(new))
    if name == "a number written otherwise":  # JSON says the same number: the hash is right
        assert tellings == []
    else:
        assert tellings == [(2, 2)]


def test_a_sha256_over_the_bytes_instead_of_the_values_is_reported(memory: Path) -> None:
    fields = {
        key: value for key, value in SIGNAL.items() if key not in ("asset_type", "data_source")
    }
    text = json.dumps(fields, sort_keys=True).replace("151.0", "151.00")
    body = signal_body(sha256=hashlib.sha256(text.encode()).hexdigest())
    new = [Line(1, 1, "signal", body.replace(b"151.0", b"151.00"))]
    assert reported(memory, chained_anew(new)) == [(1, 1)]


@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_it_never_crashes_on_any_chained_line(
    memory: Path, bodies: list[bytes], are_signals: bool
) -> None:
    event = "signal" if are_signals else "note"
    bodies = [body.replace(b"\n", b" ") for body in bodies]
    new = [Line(seq, seq, event, body) for seq, body in enumerate(bodies, start=1)]
    home = a_log_of(memory, chained_anew(new))
    report = verify(home)
    assert report.entries == report.last_seq == len(bodies)
    shutil.rmtree(home)


@given(st.binary(max_size=2000))
def test_it_never_crashes_on_any_segment_contents(memory: Path, data: bytes) -> None:
    home = a_log_of(memory, [data])
    verify(home)
    path_of(home, 2).touch()
    verify(home)
    shutil.rmtree(home)


def test_an_endless_line_is_one_finding(memory: Path, lines: list[bytes]) -> None:
    endless = b"x" * 1_000_000
    home = a_log_of(memory, [*lines[:5], endless, b"\n", *lines[5:]])
    report = verify(home)
    assert [(f.seq, f.byte_offset) for f in report.findings] == [(6, sum(map(len, lines[:5])))]
    assert report.last_seq == 18


def test_the_first_findings_are_kept_and_the_rest_are_counted(memory: Path) -> None:
    body = signal_body(sha256="f" * 64)
    count = FINDINGS_MAX + 50
    home = a_log_of(
        memory, chained_anew([Line(seq, seq, "signal", body) for seq in range(1, count + 1)])
    )
    report = verify(home)
    assert [f.seq for f in report.findings] == list(range(1, FINDINGS_MAX + 1))
    assert report.findings_left_out == 50
    assert not report.ok and report.entries == count


# -- a disk that fails, damage that was accepted


def test_an_unreadable_file_is_reported(home: Path) -> None:
    disk = FaultDisk()
    disk.fail("pread", path=name_of(7), onwards=True)
    report = verify(home, disk=disk)
    assert [(f.segment, f.byte_offset, f.seq) for f in report.findings] == [(name_of(7), 0, 7)]
    assert "Input/output error" in report.findings[0].problem
    assert report.last_seq == 18


def test_a_disk_that_syncs_nothing_because_it_is_read_only_is_verified(home: Path) -> None:
    forget(home, "watermark")
    disk = FaultDisk()
    disk.fail("fdatasync", error=errno.EINVAL, onwards=True)
    assert verify(home, disk=disk).ok
    disk = FaultDisk()
    disk.fail("fdatasync", onwards=True)
    with pytest.raises(OSError, match="Input/output error"):
        verify(home, disk=disk)


def test_accepted_damage_is_still_reported_once_and_marked_as_accepted(home: Path) -> None:
    for where, line in spans(home)[7:9]:
        put(home, where, b"#" * (len(line) - 1))
    now = "2026-01-02T03:04:05.000000Z"
    assert repair(home, backup=None, accept=True, now=now, lock_timeout_s=1.0).is_done
    with EventLog(home) as log:
        log.append(a_signal(50))
    report = verify(home)
    assert found(home) == [spans(home)[7][0]]
    assert report.findings[0].problem.endswith("(accepted on 2026-01-02)")
    assert report.last_seq == 19


@given(damages, st.sampled_from(EVIDENCE))
def test_after_all_damage_was_accepted_each_finding_is_marked_as_accepted(
    undamaged: Path, memory: Path, damages: list[Damage], known: str
) -> None:
    home = a_copy(undamaged, memory)
    forget(home, known)
    for damage in damages:
        damage.to(home)
    now = "2026-01-02T03:04:05.000000Z"
    assert repair(home, backup=None, accept=True, now=now, lock_timeout_s=1.0).is_done
    with EventLog(home) as log:
        log.append(a_signal(99))
        read = [entry.seq for entry in log.read()]
    report = verify(home)
    assert all(finding.problem.endswith("(accepted on 2026-01-02)") for finding in report.findings)
    assert (report.entries, report.last_seq) == (len(read), read[-1])
    shutil.rmtree(home)


# -- many processes


def in_fresh_process(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of one thread, which may fork."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def large(memory: Path) -> Path:
    """A log that is worth a second process, in some segments."""
    home = memory / "large"
    item = {"event": "note", "text": "x" * 1000}
    count = PARALLEL_BYTES_MIN // 1000 + 2000
    with EventLog(home, segment_bytes=PARALLEL_BYTES_MIN // 3, dedupe_entries=0) as log:
        items = [{**item, "n": number} for number in range(count)]
        for start in range(0, count, 500):
            log.append_many([*items[start : start + 500], a_signal(start)])
    return home


VERIFY = """if True:
    import json, sys
    from eventlog.verify.verify import verify
    report = verify(sys.argv[1], processes=int(sys.argv[2]))
    print(json.dumps(report.to_json()))
"""


def test_many_processes_find_what_one_finds(large: Path, memory: Path) -> None:
    home = a_copy(large, memory)
    rng = random.Random(5)
    flips = sorted(rng.sample(spans(home), 12))
    for where, line in flips:
        put(home, where, flipped(line, rng.randrange(len(line) - 1)))
    reports = [json.loads(in_fresh_process(VERIFY, home, n).stdout) for n in (1, 2, 5)]
    assert reports[0] == reports[1] == reports[2] == verify(home).to_json()
    tellings = [tuple(list(f.values())[:3]) for f in reports[0]["findings"]]
    assert tellings == [tuple(where) for where, _ in flips]


def test_ranges_cover_the_whole_log(large: Path) -> None:
    sizes = [path.stat().st_size for path in segments_in(large)]
    for piece_bytes in (1000, 65_536, 2_000_000, 10**9):
        groups = split_ranges(inventory(RealDisk(), home_at(large)).spans, piece_bytes)
        pieces = [piece for group in groups for piece in group]
        assert sum(piece.stop - piece.start for piece in pieces) == sum(sizes)
        assert all(sum(p.stop - p.start for p in group) >= piece_bytes for group in groups[:-1])


def test_ranges_of_a_killed_process_are_verified_by_another(large: Path) -> None:
    script = """if True:
        import json, os, signal, sys
        from eventlog.verify.verify import verify

        def kill_all(done, total):
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in children.read().split():
                    os.kill(int(pid), signal.SIGKILL)

        print(json.dumps(verify(sys.argv[1], processes=4, progress=kill_all).to_json()))
    """
    done = in_fresh_process(script, large)
    assert json.loads(done.stdout) == verify(large).to_json()
    assert "worker_died" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_all_processes_without_their_tracebacks(large: Path) -> None:
    script = """if True:
        import sys
        from eventlog.verify.verify import verify
        try:
            print(flush=True)
            while True:
                verify(sys.argv[1], processes=4)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    command = [sys.executable, "-c", script, str(large)]
    pipe = subprocess.PIPE
    for wait_s in (0.0, 0.05, 0.1, 0.2):
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGINT)
        # The pipes end only when the last process that holds them does.
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, b"")
