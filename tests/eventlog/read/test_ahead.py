"""Small segments are read several at a time, with every check of a segment that is read alone."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pytest

from eventlog import Entry, EventLog, EventLogError, LogCorrupt
from eventlog.archive.compress import compress_log
from eventlog.format.segment import Position
from eventlog.read.inspect import raw_lines
from eventlog.read.reader import LogReader
from eventlog.storage.disk import RealDisk
from eventlog.storage.durable_state import read_durable_end
from eventlog.storage.home import Home
from eventlog.storage.segment_disk import SegmentDisk
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import lines_in, segments_in
from tests.harness.signals import a_signal, signals

SEGMENTS = 12
VICTIM = 7  # in the middle: the reader meets it among those that it has read ahead


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Twelve segments of one line, with a valid lock record."""
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=1) as log:
        for signal in signals(SEGMENTS):
            log.append(signal)
    assert len(segments_in(home)) == SEGMENTS
    return home


def segment(home: Path, seq: int) -> Path:
    return home / f"logs/{seq:020}.jsonl"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"AAPL")] ^= 1
    path.write_bytes(data)


def replace_by_link(path: Path) -> None:
    moved = path.with_suffix(".moved")
    path.rename(moved)
    path.symlink_to(moved.name)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def exchange_with_next(path: Path) -> None:
    following = segment(path.parents[1], VICTIM + 1)
    first, second = path.read_bytes(), following.read_bytes()
    path.write_bytes(second)
    following.write_bytes(first)


def append_the_next_line(path: Path) -> None:
    with path.open("ab") as file:
        file.write(segment(path.parents[1], VICTIM + 1).read_bytes())


DAMAGE: tuple[tuple[str, Callable[[Path], object], int], ...] = (
    ("a flipped byte", flip_a_byte, VICTIM - 1),
    ("cut", lambda path: os.truncate(path, 100), VICTIM - 1),
    ("without its newline", lambda path: os.truncate(path, path.stat().st_size - 1), VICTIM - 1),
    ("empty", lambda path: os.truncate(path, 0), VICTIM - 1),
    ("removed", Path.unlink, VICTIM - 1),
    ("zeros behind it", lambda path: os.truncate(path, path.stat().st_size + 9), VICTIM),
    ("the next line in it too", append_the_next_line, VICTIM + 1),
    ("exchanged with the next", exchange_with_next, VICTIM - 1),
    ("a link", replace_by_link, VICTIM - 1),
    ("a pipe", replace_by_pipe, VICTIM - 1),
    ("named like the next", lambda path: path.rename(segment(path.parents[1], 8)), VICTIM - 1),
    ("a copy of the one before", lambda path: shutil.copy(segment(path.parents[1], 6), path), 6),
)


@pytest.mark.parametrize(("damage", "good"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
@pytest.mark.parametrize("after", [0, 3])
def test_damage_in_a_small_segment_is_found_at_its_place(
    home: Path, damage: Callable[[Path], object], good: int, after: int
) -> None:
    lines = lines_in(home)
    damage(segment(home, VICTIM))
    found: list[bytes] = []
    with pytest.raises(EventLogError) as raised:
        found.extend(chain.from_iterable(raw_lines(str(home), after=after)))
    assert found == lines[after:good]
    if isinstance(raised.value, LogCorrupt):
        twice = damage is append_the_next_line
        assert raised.value.seq == (good if twice else good + 1)
    else:
        assert segment(home, VICTIM).name in str(raised.value)
    with pytest.raises(type(raised.value)), EventLog(home) as log:
        log.append(a_signal(99))
    assert [entry.seq for entry in _entries_before_damage(home)] == list(range(1, good + 1))


def _entries_before_damage(home: Path) -> list[Entry]:
    found: list[Entry] = []
    with pytest.raises(EventLogError):
        found.extend(EventLog(home).read())
    return found


def test_a_line_that_is_no_json_is_named_with_its_segment_and_offset(home: Path) -> None:
    """A line of another program can be chained and yet be no JSON object."""
    lines = lines_in(home)
    before = lines[VICTIM - 2][-67:-3]
    body = lines[VICTIM - 1][:-77].replace(b'"symbol":"AAPL"', b'"symbol":AAPL!!')
    digest = sha256(before + body).hexdigest().encode()
    segment(home, VICTIM).write_bytes(body + b',"chain":"' + digest + b'"}\n')
    for seq in range(VICTIM + 1, SEGMENTS + 1):
        body = lines[seq - 1][:-77]
        digest = sha256(digest + body).hexdigest().encode()
        segment(home, seq).write_bytes(body + b',"chain":"' + digest + b'"}\n')
    (home / "logs/.lock").unlink()
    (home / "logs/.durable").unlink()
    with EventLog(home) as log:
        log.append({"event": "tick"})  # a valid lock record again
    found: list[Entry] = []
    with pytest.raises(LogCorrupt) as raised:
        found.extend(EventLog(home).read())
    assert [entry.seq for entry in found] == list(range(1, VICTIM))
    assert (raised.value.segment, raised.value.byte_offset, raised.value.seq) == (
        segment(home, VICTIM).name,
        0,
        VICTIM,
    )


def test_lines_of_several_segments_know_their_positions(home: Path) -> None:
    with closing(LogReader(SegmentDisk(RealDisk()), Home(str(home)))) as reader:
        first, joined, last = (reader.read_joined() for _ in range(3))
        assert not reader.read_joined().lines
    assert first.segments == [1]
    assert joined.segments == list(range(2, SEGMENTS))
    assert last.segments == [SEGMENTS]
    sizes = [len(line) for line in lines_in(home)]
    assert list(joined.positions(2)) == [(seq, seq, 0) for seq in range(2, SEGMENTS)]
    assert joined.end == Position(SEGMENTS - 1, sizes[SEGMENTS - 2])
    assert [*first.lines, *joined.lines, *last.lines] == lines_in(home)


def test_compressed_moved_and_raw_segments_are_read_together(home: Path) -> None:
    lines = lines_in(home)
    compress_log(home, keep=6)
    closed = home / "logs/closed"
    closed.mkdir()
    for name in (f"{2:020}.jsonl.zst", f"{7:020}.jsonl"):
        (home / "logs" / name).rename(closed / name)
    assert list(chain.from_iterable(raw_lines(str(home)))) == lines
    with EventLog(home) as log:
        assert log.append(a_signal(2)).duplicate
        assert log.append(a_signal(7)).duplicate
        assert log.append(a_signal(13)).seq == SEGMENTS + 1


def test_an_accepted_gap_among_small_segments_is_skipped(home: Path) -> None:
    lines = lines_in(home)
    flip_a_byte(segment(home, VICTIM))
    segment(home, VICTIM + 2).unlink()
    assert eventlog("repair", "--accept", home=home, stdin=b"y\n").code in (0, 1)
    expected = [line for seq, line in enumerate(lines, 1) if seq not in (VICTIM, VICTIM + 2)]
    assert list(chain.from_iterable(raw_lines(str(home)))) == expected


def test_nothing_beyond_the_durable_end_is_read_ahead(home: Path) -> None:
    """Its lines may be rolled back by a power loss."""
    end = read_durable_end(RealDisk(), Home(str(home)))
    assert end is not None
    until = end._replace(
        segment=VICTIM, seq=VICTIM, byte_offset=segment(home, VICTIM).stat().st_size
    )
    with closing(LogReader(SegmentDisk(RealDisk()), Home(str(home)), until=until)) as reader:
        found = list(chain.from_iterable(iter(lambda: reader.read_joined().lines, [])))
    assert found == lines_in(home)[:VICTIM]


class _LosesTheRecord(RealDisk):
    """The lock record is gone once segment 7 is opened; notes which segments are synced."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.lock_path = home / "logs/.lock"
        self.names_of: dict[int, str] = {}
        self.synced: set[str] = set()

    def open(self, path: str, *, writable: bool, dir_fd: int | None = None) -> int:
        if path.endswith(f"{VICTIM:020}.jsonl"):
            self.lock_path.write_bytes(b"")
        fd = super().open(path, writable=writable, dir_fd=dir_fd)
        self.names_of[fd] = os.path.basename(path)
        return fd

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.synced.add(self.names_of[fd])


def test_what_was_read_ahead_of_a_log_that_was_replaced_is_synced_first(home: Path) -> None:
    """The segments of a copy may be in the page cache only."""
    disk = _LosesTheRecord(home)
    returned = 0
    with closing(LogReader(SegmentDisk(disk), Home(str(home)))) as reader:
        while (found := reader.read_joined()).lines:
            names = {segment(home, seq).name for seq in found.segments}
            assert found.segments == [1] or names <= disk.synced
            returned += len(found.lines)
    assert returned == SEGMENTS


def test_a_receipt_of_a_duplicate_comes_from_its_own_small_segment(home: Path) -> None:
    first = eventlog("append", home=home, stdin=jsonl(signals(SEGMENTS)))
    assert first.code == 0
    assert first.out.count(b'"duplicate":true') == SEGMENTS
