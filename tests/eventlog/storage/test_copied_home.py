"""A home copied by other programs is synced before anything of it is vouched for (C2).

Copies that `cp`, `rsync` or `tar` made are in the page cache only. Without a valid lock record a
writer syncs every segment and name before its first acknowledgement, and a reader before a line
leaves it.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from eventlog import EventLog, LogPoisoned
from tests.harness.command import Call, Done, eventlog, jsonl, strace, traced
from tests.harness.log_checks import assert_valid_log, lines_in
from tests.harness.loop_disk import LoopDisk
from tests.harness.mounts import mounted
from tests.harness.signals import a_signal, signals

CALLS = "openat,fsync,fdatasync,sync_file_range,flock,write,pwrite64"
SEGMENTS = 4


def fill(home: Path, segments: int = SEGMENTS) -> None:
    with EventLog(home, segment_bytes=1) as log:
        for number in range(segments):
            log.append_many(signals(3, start=1 + 3 * number))


def as_written(_home: Path) -> None:
    """Raw segments beside the active one."""


def compressed(home: Path) -> None:
    assert eventlog("compress", home=home).code == 0
    assert len(list((home / "logs").glob("*.zst"))) == SEGMENTS - 1


def in_closed(home: Path) -> None:
    (home / "logs/closed").mkdir()
    compress(home)


def behind_a_link(home: Path) -> None:
    archive = home.parent / f"{home.name}-archive"
    archive.mkdir()
    (home / "logs/closed").symlink_to(archive)
    compress(home)


def moved_by_hand(home: Path) -> None:
    """Raw ones in `closed`, as the documentation allows."""
    (home / "logs/closed").mkdir()
    for path in sorted((home / "logs").glob("*.jsonl"))[:-1]:
        path.rename(home / "logs/closed" / path.name)


def compress(home: Path) -> None:
    assert eventlog("compress", home=home).code == 0
    assert len(list((home / "logs/closed").iterdir())) == SEGMENTS - 1


KEPT = (as_written, compressed, in_closed, behind_a_link, moved_by_hand)


@pytest.fixture(params=KEPT, ids=lambda keep: keep.__name__)
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a home of four segments, made by a program that knows nothing of syncs."""
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    fill(origin)
    request.param(origin)
    shutil.copytree(origin, copy, symlinks=True)
    return copy


def files_in(home: Path) -> set[str]:
    """Real paths of all files that hold lines."""
    folders = (home / "logs", home / "logs/closed")
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {str(path.resolve()) for path in found if ".jsonl" in path.name}


def folders_in(home: Path) -> set[str]:
    """Real paths of the directories that hold their names, and of the one above."""
    folders = (home, home / "logs", home / "logs/closed")
    return {str(folder.resolve()) for folder in folders if folder.is_dir()}


def synced(calls: Iterable[Call]) -> set[str]:
    names = ("fsync", "fdatasync")
    return {call.path for call in calls if call.name in names and call.result.startswith("0")}


def before(calls: list[Call], condition: Callable[[Call], bool]) -> list[Call]:
    """The calls before the first one of a kind, which there must be."""
    index = next(index for index, call in enumerate(calls) if condition(call))
    return calls[:index]


def writes_to_stdout(call: Call) -> bool:
    return call.name == "write" and call.args.startswith("1<")


def in_database(signal_id: str, call: Call) -> bool:
    """A write of the row of that signal."""
    return call.name == "pwrite64" and "signals.db" in call.path and signal_id in call.args


def run(*words: object, home: Path, stdin: bytes = b"") -> tuple[Done, list[Call]]:
    done, calls = traced(*words, home=home, trace=CALLS, stdin=stdin)
    assert done.code == 0, done.err
    return done, calls


# -- writers


def test_every_segment_and_name_is_synced_before_the_first_receipt(copy: Path) -> None:
    files, folders = files_in(copy), folders_in(copy)
    done, calls = run("append", home=copy, stdin=jsonl([a_signal(100)]))
    assert done.answers[0]["seq"] == 3 * SEGMENTS + 1
    made_durable = synced(before(calls, writes_to_stdout))
    assert files - made_durable == set()
    assert folders - made_durable == set()


def test_the_names_of_link_targets_are_synced_before_the_first_receipt(tmp_path: Path) -> None:
    """The name of the home behind a link, and that of the archive to which `closed` leads."""
    real, archive = tmp_path / "volume/home", tmp_path / "disk/archive"
    archive.mkdir(parents=True)
    fill(tmp_path / "origin")
    shutil.copytree(tmp_path / "origin", real, symlinks=True)
    (real / "logs/closed").symlink_to(archive)
    (tmp_path / "home").symlink_to(real)
    _, calls = run("append", home=tmp_path / "home", stdin=jsonl([a_signal(100)]))
    made_durable = synced(before(calls, writes_to_stdout))
    assert {str(real.parent), str(archive), str(archive.parent)} <= made_durable


def test_a_segment_that_is_stored_elsewhere_is_not_hidden_by_a_new_one(tmp_path: Path) -> None:
    with EventLog(tmp_path / "home", segment_bytes=1) as log:
        log.append(a_signal(1))
        stored = tmp_path / "home/logs/00000000000000000002.jsonl.zst"
        stored.write_bytes(b"put there")
        with pytest.raises(LogPoisoned, match="exists already"):
            log.append(a_signal(2))
    assert not stored.with_suffix("").exists()


def test_the_receipt_of_a_duplicate_waits_for_every_segment_too(copy: Path) -> None:
    files = files_in(copy)
    done, calls = run("append", home=copy, stdin=jsonl([a_signal(1)]))
    assert done.answers[0]["duplicate"] is True
    assert files - synced(before(calls, writes_to_stdout)) == set()


def test_the_long_part_of_syncing_is_done_before_the_lock_is_taken(copy: Path) -> None:
    """Else other writers would run into LogLocked meanwhile."""
    closed = {path for path in files_in(copy) if not path.endswith(f"{3 * SEGMENTS - 2:020}.jsonl")}
    _, calls = run("append", home=copy, stdin=jsonl([a_signal(100)]))

    def takes_the_lock(call: Call) -> bool:
        return call.name == "flock" and call.path.endswith("/.lock") and call.result == "0"

    assert closed - synced(before(calls, takes_the_lock)) == set()


def test_a_second_append_syncs_no_closed_segment_again(copy: Path) -> None:
    run("append", home=copy, stdin=jsonl([a_signal(100)]))
    closed = files_in(copy)
    closed -= {max(closed, key=lambda path: Path(path).name)}
    for number in (101, 102):
        _, calls = run("append", home=copy, stdin=jsonl([a_signal(number)]))
        assert closed & synced(calls) == set()


def test_after_a_killed_writer_only_what_follows_its_record_is_synced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fill(home)
    kill = strace("-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=SIGKILL:when=1")
    eventlog("append", home=home, stdin=jsonl([a_signal(100)]), under=kill)
    assert b" writing " in (home / "logs/.lock").read_bytes()
    files = files_in(home)
    closed, last = sorted(files)[:-1], max(files)
    _, calls = run("append", home=home, stdin=jsonl([a_signal(101)]))
    found = synced(before(calls, writes_to_stdout))
    assert last in found
    assert set(closed) & found == set()
    assert_valid_log(home)


def test_a_handle_syncs_every_segment_once_for_all_its_appends(tmp_path: Path) -> None:
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    fill(origin)
    shutil.copytree(origin, copy, symlinks=True)
    (first, *_) = sorted(files_in(copy))
    lines = jsonl(signals(300, start=1000))
    _, calls = run("append", "--segment-bytes", 4000, home=copy, stdin=lines)
    names = [call for call in calls if call.name in ("fsync", "fdatasync") and call.path == first]
    assert len(names) == 1


def test_closed_segments_on_a_read_only_disk_count_as_synced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fill(home)
    in_closed(home)
    (home / "logs/.lock").unlink()
    closed = home / "logs/closed"
    under = mounted('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"', closed)
    done = eventlog("append", home=home, stdin=jsonl([a_signal(100)]), under=under)
    assert done.code == 0, done.err
    assert done.answers[0]["seq"] == 3 * SEGMENTS + 1


def test_a_segment_that_cannot_be_synced_is_not_vouched_for(copy: Path) -> None:
    """The disk fails: no receipt, and no damage is claimed."""
    under = strace("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1+")
    done = eventlog("append", home=copy, stdin=jsonl([a_signal(100)]), under=under)
    assert done.code in (1, 3)
    assert not any("seq" in answer for answer in done.answers)
    assert eventlog("cat", home=copy, under=under).out == b""


# -- readers


@pytest.mark.parametrize("words", [("cat",), ("tail", "-n", "100", "--json")], ids=" ".join)
def test_every_segment_is_synced_before_a_line_of_it_is_printed(
    copy: Path, words: tuple[str, ...]
) -> None:
    files, folders = files_in(copy), folders_in(copy)
    done, calls = run(*words, home=copy)
    assert done.out.count(b"\n") == 3 * SEGMENTS
    for path in files:
        first = int(Path(path).name[:20])

        def prints_a_line_of_it(call: Call, seq: int = first) -> bool:
            return writes_to_stdout(call) and rf"\"seq\":{seq}," in call.args

        made_durable = synced(before(calls, prints_a_line_of_it))
        assert path in made_durable
        assert folders <= made_durable


def test_every_segment_is_synced_before_a_projection_commits_a_row(copy: Path) -> None:
    """The rows of a segment are committed after its sync."""
    files, folders = files_in(copy), folders_in(copy)
    _, calls = run("project", "sqlite", "--once", home=copy)
    for path in files:
        signal_id = f"s-{int(Path(path).name[:20])}"
        made_durable = synced(before(calls, partial(in_database, signal_id)))
        assert path in made_durable
        assert folders <= made_durable


@pytest.mark.parametrize(
    "words",
    [("rebuild-database",), ("verify",), ("backup", "DEST"), ("status",)],
    ids=lambda words: words[0],
)
def test_every_command_that_hands_out_what_it_read_has_synced_it(
    copy: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    """`status` may read the last segment only, and then reports no more."""
    files = files_in(copy)
    if words[0] == "status":
        files = {max(files, key=lambda path: Path(path).name)}
    named = [str(tmp_path / "backup") if word == "DEST" else word for word in words]
    _, calls = run(*named, home=copy)
    assert files - synced(calls) == set()


def test_with_a_valid_record_a_reader_syncs_nothing(copy: Path) -> None:
    run("append", home=copy, stdin=jsonl([a_signal(100)]))
    for words in (("cat",), ("tail",), ("verify",)):
        _, calls = run(*words, home=copy)
        assert synced(calls) & files_in(copy) == set()


def test_a_copy_on_a_read_only_disk_can_be_read(copy: Path) -> None:
    lines = eventlog("cat", home=copy).out
    assert lines.count(b"\n") == 3 * SEGMENTS
    under = mounted('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"', copy)
    done = eventlog("cat", home=copy, under=under)
    assert (done.code, done.out) == (0, lines)
    assert eventlog("verify", home=copy, under=under).code == 0


# -- power loss, on a real file system


def write_input(tmp_path: Path) -> Path:
    fill(tmp_path / "origin")
    (tmp_path / "more.jsonl").write_bytes(jsonl([a_signal(100)]))
    return tmp_path / "origin"


COPIES = {
    "cp": 'cp -r "$1" "$disk/h"',
    "tar": 'mkdir "$disk/h" && tar -C "$1" -c . | tar -C "$disk/h" -x',
    "cp of the logs alone": 'mkdir "$disk/h" && cp -r "$1/logs" "$disk/h/"',
    "cp of a backup's logs": '"$eventlog" --home "$1" -q backup "$disk/backup" >/dev/null && '
    'mkdir "$disk/h" && cp -r "$disk/backup/logs" "$disk/h/"',
    "cp of a backup's logs, compressed": '"$eventlog" --home "$1" -q compress >/dev/null && '
    '"$eventlog" --home "$1" -q backup "$disk/backup" >/dev/null && '
    'mkdir "$disk/h" && cp -r "$disk/backup/logs" "$disk/h/"',
}


@pytest.mark.slow
@pytest.mark.parametrize("copying", COPIES.values(), ids=COPIES.keys())
def test_a_receipt_in_a_copied_home_survives_a_power_loss_with_all_before_it(
    tmp_path: Path, copying: str
) -> None:
    origin = write_input(tmp_path)
    lines = b"".join(lines_in(origin))
    disk = LoopDisk.make(tmp_path)
    script = f'{copying}\n"$eventlog" --home "$disk/h" append "$2"; power_fails'
    done = disk.run(script, origin, tmp_path / "more.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    (receipt,) = map(json.loads, done.stdout.splitlines())
    assert receipt["seq"] == 3 * SEGMENTS + 1
    done = disk.after_power_loss().run('another_boot; "$eventlog" --home "$disk/h" cat')
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(lines)
    assert done.stdout.count(b"\n") == receipt["seq"]
    assert json.loads(done.stdout.splitlines()[-1])["chain"] == receipt["chain"]


@pytest.mark.slow
def test_no_row_of_a_copied_home_outlives_its_line_in_a_power_loss(tmp_path: Path) -> None:
    origin = write_input(tmp_path)
    disk = LoopDisk.make(tmp_path)
    done = disk.run(
        'cp -r "$1" "$disk/h"; "$eventlog" --home "$disk/h" project sqlite --once; power_fails',
        origin,
    )
    assert done.returncode == 0, done.stderr.decode()
    done = disk.after_power_loss().run(
        """
        another_boot
        "$eventlog" --home "$disk/h" project sqlite --once
        "$eventlog" --home "$disk/h" cat
        """
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"".join(lines_in(origin))


@pytest.mark.slow
def test_a_line_that_cat_printed_of_a_copied_home_survives_a_power_loss(tmp_path: Path) -> None:
    origin = write_input(tmp_path)
    disk = LoopDisk.make(tmp_path)
    done = disk.run('cp -r "$1" "$disk/h"; "$eventlog" --home "$disk/h" cat; power_fails', origin)
    assert (done.returncode, done.stdout) == (0, b"".join(lines_in(origin))), done.stderr
    done = disk.after_power_loss().run('another_boot; "$eventlog" --home "$disk/h" cat')
    assert (done.returncode, done.stdout) == (0, b"".join(lines_in(origin))), done.stderr


@pytest.mark.slow
def test_a_restored_home_survives_a_power_loss(tmp_path: Path) -> None:
    origin = write_input(tmp_path)
    disk = LoopDisk.make(tmp_path)
    done = disk.run(
        """
        "$eventlog" --home "$1" -q backup "$2" >/dev/null
        "$eventlog" -q --home "$disk/h" restore "$2" >/dev/null
        power_fails
        """,
        origin,
        tmp_path / "backup",
    )
    assert done.returncode == 0, done.stderr.decode()
    home = disk.after_power_loss().copy_out("h", tmp_path / "h")
    assert lines_in(home) == lines_in(origin)


@pytest.mark.slow
def test_a_home_that_was_removed_and_copied_back_survives_a_power_loss(tmp_path: Path) -> None:
    """The copies get the inode numbers of the removed files."""
    origin = write_input(tmp_path)
    disk = LoopDisk.make(tmp_path)
    done = disk.run(
        """
        cp -r "$1" "$disk/h"
        "$eventlog" --home "$disk/h" append <"$2" >/dev/null
        sync
        ls -i "$disk/h/logs" >"$3.before"
        cp -r "$disk/h" "$3"
        rm -r "$disk/h"
        sync
        cp -r "$3" "$disk/h"
        ls -i "$disk/h/logs" >"$3.after"
        "$eventlog" --home "$disk/h" append <"$2"
        power_fails
        """,
        origin,
        tmp_path / "more.jsonl",
        tmp_path / "kept",
    )
    assert done.returncode == 0, done.stderr.decode()
    names = [
        set((tmp_path / f"kept.{when}").read_text().split("\n")) for when in ("before", "after")
    ]
    assert any(".jsonl" in line for line in names[0] & names[1]), "an inode number is used again"
    receipts = [json.loads(line) for line in done.stdout.splitlines()]
    done = disk.after_power_loss().run('another_boot; "$eventlog" --home "$disk/h" cat')
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"".join(lines_in(origin)))
    assert done.stdout.count(b"\n") >= receipts[-1]["seq"]


@pytest.mark.slow
@pytest.mark.parametrize("words", ["project sqlite --once", "tail -n 3", "cat --after 10"])
def test_what_is_read_from_a_checkpoint_on_vouches_for_the_segments_before_it(
    tmp_path: Path, words: str
) -> None:
    origin = write_input(tmp_path)
    assert eventlog("project", "sqlite", "--once", home=origin).code == 0
    with EventLog(origin, segment_bytes=1) as log:
        log.append_many(signals(3, start=500))
    disk = LoopDisk.make(tmp_path)
    script = f'cp -r "$1" "$disk/h"; "$eventlog" --home "$disk/h" {words} >&2; power_fails'
    done = disk.run(script, origin)
    assert done.returncode == 0, done.stderr.decode()
    done = disk.after_power_loss().run('another_boot; "$eventlog" --home "$disk/h" cat')
    assert (done.returncode, done.stdout) == (0, b"".join(lines_in(origin))), done.stderr
