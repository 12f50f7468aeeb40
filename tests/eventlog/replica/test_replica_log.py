"""The log of a replica: the bytes of the primary, and nothing that does not continue them."""

import json
import os
import stat
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from eventlog import (
    DiskFull,
    EventLog,
    EventLogError,
    LogCorrupt,
    LogDiverged,
    LogIsReplica,
    UnsafePath,
    back_up,
    restore_home,
)
from eventlog.append.dry_run import DryRun
from eventlog.clock import now_recorded
from eventlog.format.durability import LogEnd, decode_watermark
from eventlog.format.scan import TIP_START
from eventlog.replica.engine import StreamLine
from eventlog.replica.replica_log import ReplicaLog, parts_of
from eventlog.storage.disk import RealDisk
from eventlog.storage.durable_state import rewrite_watermarks
from eventlog.storage.home import home_at
from eventlog.storage.replica_file import ReplicaState, replica_path
from eventlog.storage.segment_disk import SegmentDisk
from eventlog.verify.verify import verify
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import (
    assert_valid_log,
    lines_in,
    segment_contents,
    segments_in,
    tree_contents,
)
from tests.harness.scripted_consumers import stream_lines
from tests.harness.signals import a_signal, signals

MAIN = ReplicaState(stream="main")
NOW = "2025-11-18T02:00:00.123456Z"


def write_primary(home: Path, *, start: int = 1) -> None:
    """Batches of one to four entries, in several segments."""
    with EventLog(home, segment_bytes=2000) as log:
        number = start
        for count in (1, 3, 1, 4, 2, 1):
            log.append_many(signals(count, start=number))
            number += count


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    home = tmp_path / "primary"
    write_primary(home)
    assert len(segments_in(home)) > 2
    return home


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[ReplicaLog]:
    log = ReplicaLog.open(tmp_path / "replica")
    log.begin(MAIN, TIP_START)
    yield log
    log.close()


def test_a_replica_has_the_bytes_and_the_segments_of_its_primary(
    primary: Path, replica: ReplicaLog, tmp_path: Path
) -> None:
    lines = stream_lines(primary)
    assert replica.write(lines[:5]).seq == 5
    assert replica.write(lines).seq == len(lines)  # the first five are known
    replica.close()
    assert segment_contents(Path(replica.home)) == segment_contents(primary)
    assert_valid_log(Path(replica.home))
    link = "logs/signals.log"
    assert (tmp_path / "replica" / link).readlink() == (primary / link).readlink()


@pytest.mark.parametrize("cut", range(1, 12))
def test_lines_may_come_in_any_portions(primary: Path, replica: ReplicaLog, cut: int) -> None:
    lines = stream_lines(primary)
    for start in range(0, len(lines), cut):
        replica.write(lines[start : start + cut])
    assert segment_contents(Path(replica.home)) == segment_contents(primary)


def test_one_write_holds_lines_of_one_segment_only(primary: Path) -> None:
    lines = stream_lines(primary)
    parts = list(parts_of(lines))
    assert [line for part in parts for line in part.lines] == lines_in(primary)
    assert [b"".join(part.lines) for part in parts] == list(segment_contents(primary).values())


def test_lines_that_arrive_together_cost_one_sync_for_each_segment(
    primary: Path, tmp_path: Path
) -> None:
    disk = FaultDisk()
    log = ReplicaLog(SegmentDisk(disk), home_at(tmp_path / "replica"))
    log.begin(MAIN, TIP_START)
    disk.calls.clear()
    log.write(stream_lines(primary))
    log.close()
    syncs = [call for call in disk.calls if call.kind == "fdatasync" and ".jsonl" in call.path]
    assert len(syncs) == len(segments_in(primary))


def change(line: StreamLine, data: bytes) -> StreamLine:
    return line._replace(line=data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda ls: [*ls[:3], change(ls[3], ls[3].line.replace(b"AAPL", b"AAPM"))],
         "entry 4 of the stream does not match its chain"),
        (lambda ls: [*ls[:3], ls[4]], "entry 4 of the stream is missing: the line says seq 5"),
        (lambda ls: [*ls[:3], change(ls[3], ls[3].line[:-1])], "entry 4 of the stream is not one"),
        (lambda ls: [*ls[:3], change(ls[3], ls[3].line + b"x")], "entry 5"),
        (lambda ls: [change(ls[0], ls[0].line + ls[1].line[:9]), change(ls[1], ls[1].line[9:])],
         "is not one whole line"),
        (lambda ls: [change(ls[0], b"")], "entry 1"),
        (lambda ls: [change(ls[0], b"hello\n")], "does not start like an entry"),
    ],
)  # fmt: skip
def test_what_does_not_continue_the_chain_is_refused_before_a_byte_is_written(
    primary: Path, replica: ReplicaLog, damage: object, named: str
) -> None:
    assert callable(damage)
    before = tree_contents(Path(replica.home))
    with pytest.raises(LogDiverged, match=named):
        replica.write(damage(stream_lines(primary)))
    after = tree_contents(Path(replica.home))
    assert {name: data for name, data in after.items() if name != "logs/.lock"} == {
        name: data for name, data in before.items() if name != "logs/.lock"
    }


def test_a_line_of_another_segment_than_the_active_one_is_refused(
    primary: Path, replica: ReplicaLog
) -> None:
    lines = stream_lines(primary)
    replica.write(lines[:1])
    with pytest.raises(LogDiverged, match=r"entry 2 in 0{19}7\.jsonl.* ends in 0{19}1\.jsonl"):
        replica.write([lines[1]._replace(segment=7)])
    replica.write(lines[1:])
    assert segment_contents(Path(replica.home)) == segment_contents(primary)


def test_a_full_disk_at_a_new_segment_is_an_error_and_no_line_goes_into_the_old_one(
    primary: Path, tmp_path: Path
) -> None:
    disk = FaultDisk()
    lines = stream_lines(primary)
    log = ReplicaLog(SegmentDisk(disk), home_at(tmp_path / "full"))
    log.begin(MAIN, TIP_START)
    log.write(lines[:1])
    disk.fail("create", path=segments_in(primary)[1].name, error=ENOSPC)
    with pytest.raises(DiskFull, match="next segment"):
        log.write(lines[1:])
    assert log.catch_up().seq == int(segments_in(primary)[1].name[:20]) - 1
    log.write(lines)
    log.close()
    assert segment_contents(tmp_path / "full") == segment_contents(primary)


def test_the_watermark_covers_all_lines_after_a_close(primary: Path, replica: ReplicaLog) -> None:
    replica.write(stream_lines(primary))
    replica.close()
    data = (Path(replica.home) / "logs/.durable").read_bytes()
    assert decode_watermark(data).end.seq == len(stream_lines(primary))  # type: ignore[union-attr]


def test_nothing_is_written_to_a_home_that_is_no_replica(primary: Path, tmp_path: Path) -> None:
    write_primary(tmp_path / "other", start=100)
    log = ReplicaLog.open(tmp_path / "other")
    with pytest.raises(EventLogError, match="this home is no replica"):
        log.write(stream_lines(primary))
    log.close()


def test_a_home_that_grew_since_it_was_compared_does_not_become_a_replica(tmp_path: Path) -> None:
    write_primary(tmp_path / "home")
    log = ReplicaLog.open(tmp_path / "home")
    tip = log.catch_up()
    with EventLog(tmp_path / "home") as other:
        other.append(a_signal(99))
    with pytest.raises(LogDiverged, match="was appended to"):
        log.begin(MAIN, tip)
    assert log.state is None
    log.close()


# -- the file


def test_the_file_names_the_stream_and_its_epoch_and_is_private(replica: ReplicaLog) -> None:
    path = Path(replica.home) / "logs/.replica"
    assert json.loads(path.read_bytes()) == {"stream": "main", "epoch": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert replica.state == MAIN


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"x", b'{"stream":"a"}', b"[" * 3000])
def test_a_file_that_cannot_be_understood_is_named(replica: ReplicaLog, data: bytes) -> None:
    path = Path(replica_path(home_at(replica.home)))
    path.write_bytes(data)
    with pytest.raises(UnsafePath, match=r"cannot be understood \(.*/\.replica\)"):
        _ = replica.state


# -- appends


def test_every_way_to_append_raises_on_a_replica_also_for_a_handle_that_was_open(
    tmp_path: Path,
) -> None:
    import asyncio

    home = tmp_path / "home"
    with EventLog(home) as opened_before:
        receipt = opened_before.append(a_signal(1))
        log = ReplicaLog.open(home)
        log.begin(MAIN, log.catch_up())
        log.close()
        before = lines_in(home)
        with EventLog(home) as opened_after:
            for handle in (opened_before, opened_after):
                with pytest.raises(LogIsReplica, match=r"is a replica.*append to the primary"):
                    handle.append(a_signal(2))
                with pytest.raises(LogIsReplica):
                    handle.append(a_signal(1))  # no receipt for a retry either
                with pytest.raises(LogIsReplica):
                    handle.append(a_signal(2), timeout_s=60.0)
                with pytest.raises(LogIsReplica):
                    handle.append_many(signals(3))
                (result,) = handle.append_each([a_signal(2)])
                assert isinstance(result, LogIsReplica)
                with pytest.raises(LogIsReplica):
                    asyncio.run(handle.append_async(a_signal(2)))
                assert handle.last_seq == receipt.seq
                assert [entry.seq for entry in handle.read()] == [1]
    with pytest.raises(LogIsReplica):
        DryRun(SegmentDisk(RealDisk()), home_at(home), now_recorded, 10)
    assert lines_in(home) == before


def test_a_backup_of_a_replica_holds_no_mark_of_it(
    primary: Path, replica: ReplicaLog, tmp_path: Path
) -> None:
    replica.write(stream_lines(primary))
    logs = Path(replica.home) / "logs"
    (logs / ".fenced").write_text("{}")
    (logs / "forked-9.aside").write_text("x")
    back_up(replica.home, tmp_path / "backup", now=NOW)
    assert not {".replica", ".fenced", "forked-9.aside"} & set(os.listdir(tmp_path / "backup/logs"))
    restore_home(tmp_path / "backup", tmp_path / "restored")
    with EventLog(tmp_path / "restored") as log:
        assert log.append(a_signal(99)).seq == len(stream_lines(primary)) + 1


def test_a_replica_can_be_seeded_from_a_backup(primary: Path, tmp_path: Path) -> None:
    back_up(primary, tmp_path / "backup", now=NOW)
    write_primary(primary, start=50)
    restore_home(tmp_path / "backup", tmp_path / "seeded")
    log = ReplicaLog.open(tmp_path / "seeded")
    log.begin(MAIN, log.catch_up())
    log.write(stream_lines(primary))
    log.close()
    assert segment_contents(tmp_path / "seeded") == segment_contents(primary)


# -- after a power loss


def lose_power_within_the_last_write(home: Path, primary: Path) -> int:
    """Leaves a replica whose last write lost its first line; returns that line's seq."""
    lines = stream_lines(primary)
    log = ReplicaLog.open(home)
    log.begin(MAIN, TIP_START)
    first = lines[-1].segment  # the first line of the last segment is durable
    log.write(lines[:first])
    log.flush_watermark()
    assert log.write(lines[first:]).seq > first + 2
    log.drop()  # without a watermark
    (home / "logs/.lock").unlink()  # it names the boot, and counts no longer
    path = segments_in(home)[-1]
    data = bytearray(path.read_bytes())
    at = data.index(b"\n") + 100
    data[at : at + 50] = bytes(50)
    path.write_bytes(data)
    return first + 1


@pytest.fixture
def long_primary(tmp_path: Path) -> Path:
    home = tmp_path / "primary"
    with EventLog(home, segment_bytes=4000) as log:
        for number in range(1, 15):
            log.append(a_signal(number))
    return home


def test_what_a_write_of_many_batches_lost_is_torn_and_comes_again(
    long_primary: Path, tmp_path: Path
) -> None:
    home = tmp_path / "replica"
    seq = lose_power_within_the_last_write(home, long_primary)
    with EventLog(home) as reader:
        assert [entry.seq for entry in reader.read()] == [*range(1, seq)]
    found = verify(home)
    assert (found.findings, found.torn_bytes > 0) == ((), True)
    log = ReplicaLog.open(home)
    assert log.catch_up().seq == seq - 1
    log.write(stream_lines(long_primary))
    log.close()
    assert segment_contents(home) == segment_contents(long_primary)
    assert list(home.glob("logs/*.torn"))


@pytest.mark.parametrize("what", ["the mark is removed", "the watermark covers it"])
def test_the_same_bytes_are_damage_where_they_were_durable_or_the_home_is_no_replica(
    long_primary: Path, tmp_path: Path, what: str
) -> None:
    home = tmp_path / "replica"
    seq = lose_power_within_the_last_write(home, long_primary)
    if what == "the mark is removed":
        (home / "logs/.replica").unlink()
    else:
        end = stream_lines(long_primary)[-1]
        size = segments_in(home)[-1].stat().st_size
        chain = json.loads(end.line)["chain"]
        rewrite_watermarks(RealDisk(), home_at(home), LogEnd(end.segment, size, end.seq, chain))
    with EventLog(home) as log, pytest.raises(LogCorrupt, match=f"entry {seq} "):
        list(log.read())
    assert verify(home).findings
