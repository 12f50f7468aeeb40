"""Starting in the middle of a log, also where it is damaged: contract sections 5 and 6, T4, R3."""

import errno
import shutil
import sys
from itertools import accumulate
from pathlib import Path
from types import FrameType

import pytest

from eventlog import EventLog, LogCorrupt, LogDiverged
from eventlog.format.line import LINE_BYTES_MAX, stored_chain
from eventlog.read.reader import LogReader
from eventlog.read.seek import find_line
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import Home
from tests.harness.command import eventlog
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in, segments_in
from tests.harness.signals import a_signal, signals

COUNT = 1000


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of one segment, many times as large as what is searched line by line."""
    home = tmp_path_factory.mktemp("original") / "home"
    with EventLog(home) as log:
        for start in range(1, COUNT, 10):
            log.append_many([a_signal(n, note="x" * 900) for n in range(start, start + 10)])
    assert segments_in(home)[0].stat().st_size > 15 * LINE_BYTES_MAX
    return home


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / "segment"
    path.write_bytes(segments_in(original)[0].read_bytes())
    return path


def found_in(path: Path, seq: int) -> int | None:
    disk = RealDisk()
    fd = disk.open(str(path), writable=False)
    try:
        found = find_line(disk, fd, seq)
        return None if found is None else found.byte_from
    finally:
        disk.close(fd)


def starts(original: Path) -> list[int]:
    return [0, *accumulate(map(len, lines_in(original)))]


@pytest.mark.slow
@pytest.mark.parametrize("fill", [b"\0", b"\n", b"x"], ids=["zeros", "newlines", "text"])
@pytest.mark.parametrize("lost", [(1, 700), (300, 700), (480, 999), (499, 501)], ids=str)
def test_each_line_that_is_left_is_found_however_much_is_damaged(
    original: Path, path: Path, lost: tuple[int, int], fill: bytes
) -> None:
    at = starts(original)
    first, last = lost
    with path.open("r+b") as file:
        file.seek(at[first - 1])
        file.write(fill * (at[last] - at[first - 1]))
    for seq in (*range(1, COUNT + 1, 50), first - 1, first, last, last + 1, COUNT):
        is_there = 1 <= seq < first or last < seq <= COUNT
        assert found_in(path, seq) == (at[seq - 1] if is_there else None), seq


def test_after_a_large_loss_was_accepted_the_log_goes_on(original: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(original, home, symlinks=True)
    at = starts(original)
    with segments_in(home)[0].open("r+b") as file:
        file.seek(at[300] + 100)
        file.write(bytes(at[700] - at[300]))
    assert eventlog("repair", "--accept", home=home).code == 0
    done = eventlog("cat", "--after", 900, home=home)
    assert (done.code, done.out.count(b"\n")) == (0, 100)
    with EventLog(home, dedupe_entries=100) as log:
        assert log.append(a_signal(COUNT + 1)).seq == COUNT + 1
    assert eventlog("tail", "-n", 5, home=home).code == 0


def test_a_start_at_a_damaged_line_is_damage_and_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(20))
    at = starts(home)
    data = bytearray(segments_in(home)[0].read_bytes())
    data[at[9] + 3] ^= 1
    segments_in(home)[0].write_bytes(data)
    with pytest.raises(LogCorrupt, match="entry 10 ") as caught, EventLog(home) as log:
        list(log.read(after=10))
    assert caught.value.byte_offset == at[9]
    with pytest.raises(LogCorrupt, match="entry 10 "), EventLog(home, dedupe_entries=10) as log:
        log.append(a_signal(21))
    with pytest.raises(LogDiverged):
        LogReader(RealDisk(), Home(str(home)), after=21)


def test_a_log_on_a_disk_that_cannot_sync_for_it_is_read_only_is_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(3))
    (home / "logs" / ".lock").unlink()
    for error in (errno.EROFS, errno.EINVAL):
        disk = FaultDisk()
        disk.fail("fdatasync", error=error, onwards=True)
        log = EventLog(home, disk=disk)
        assert [entry.seq for entry in log.read()] == [1, 2, 3]
        assert log.last_seq == 3
    disk = FaultDisk()
    disk.fail("fdatasync", onwards=True)
    with pytest.raises(OSError, match="Input/output error"):
        list(EventLog(home, disk=disk).read())


@pytest.mark.parametrize("digit", [b"0", b"1"])
def test_a_damaged_chain_before_the_last_segment_cuts_nothing_in_it(
    tmp_path: Path, digit: bytes
) -> None:
    """R3, on a bare copy: neither lock record nor watermark shows how far it was durable."""
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=1) as log:
        log.append_many(signals(5))
        log.append(a_signal(6))
        log.append(a_signal(7))
    for name in (".lock", ".durable"):
        (home / "logs" / name).unlink()
    before, last = segments_in(home)[-2:]
    data, kept = before.read_bytes(), last.read_bytes()
    before.write_bytes(data[:-4] + digit + data[-3:])
    if data[-4:-3] != digit:
        with pytest.raises(LogCorrupt, match="entry 6 "), EventLog(home) as log:
            log.append(a_signal(8))
    assert last.read_bytes() == kept


def test_a_seek_parses_each_line_of_its_last_window_once(original: Path, path: Path) -> None:
    parses = 0

    def count_parses(frame: FrameType, event: str, _: object) -> None:
        nonlocal parses
        parses += event == "call" and frame.f_code is stored_chain.__code__

    sys.setprofile(count_parses)
    try:
        found = found_in(path, COUNT // 2)
    finally:
        sys.setprofile(None)
    assert found == starts(original)[COUNT // 2 - 1]
    window_lines = 5 * LINE_BYTES_MAX // min(map(len, lines_in(original)))
    steps = 8  # of the bisection, each of which parses one line twice at most
    assert 0 < parses <= window_lines + 2 * steps
