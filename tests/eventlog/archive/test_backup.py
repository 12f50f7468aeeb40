"""Backup, its proof, and restore: on real files, beside real writers, killed, and on bad disks."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from eventlog import (
    BackupUnusable,
    EventLog,
    EventLogError,
    LogCorrupt,
    back_up,
    compress_log,
    restore_home,
)
from eventlog.archive.manifest import decode_manifest, encode_manifest
from eventlog.repair.repair import repair
from eventlog.storage.disk import RealDisk
from eventlog.verify.verify import verify
from projections.monitoring.restore_drill import run_restore_drill
from tests.harness.command import Pipe, child_of, command_line, eventlog, pipe, strace
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import (
    assert_valid_log,
    entries_in,
    lines_in,
    segments_in,
    tree_contents,
)
from tests.harness.mounts import on_small_disk
from tests.harness.read_side import append
from tests.harness.signals import a_signal, signals

NOW = "2025-11-19T00:00:00.000000Z"
SEGMENT_BYTES = 5_000  # some ten entries
ENTRIES = 45


def build(home: Path, count: int = ENTRIES, *, start: int = 1) -> Path:
    """A log of some segments, or more of it."""
    # A short window: a writer that opens a damaged log reads no more of it than that.
    with EventLog(home, segment_bytes=SEGMENT_BYTES, dedupe_entries=5) as log:
        for number in range(start, start + count):
            log.append_many([a_signal(number)])
    return home


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It stays as it is."""
    return build(tmp_path_factory.mktemp("original") / "home")


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


# -- small verbs


def listed(dest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dest / "backup.json").read_bytes())
    return found


def assert_restorable(dest: Path) -> list[dict[str, Any]]:
    """Restores it, and checks with no code of ours that it is the log up to what it says."""
    target = dest.with_name(f"restored-{random.getrandbits(64)}")
    restored = restore_home(dest, target)
    try:
        entries = assert_valid_log(target)
        assert len(entries) == restored.manifest.last_seq == listed(dest)["last_seq"]
        chain = entries[-1]["chain"] if entries else "0" * 64
        assert chain == restored.manifest.chain == listed(dest)["chain"]
        return entries
    finally:
        shutil.rmtree(target)


def assert_holds(dest: Path, home: Path) -> None:
    """The backup is the whole log, byte for byte."""
    assert_restorable(dest)
    assert [p.name for p in segments_in(dest)] == [p.name for p in segments_in(home)]
    assert [p.read_bytes() for p in segments_in(dest)] == [
        p.read_bytes() for p in segments_in(home)
    ]


def flip(path: Path, byte_offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte_offset] ^= 1
    path.write_bytes(data)


def proof_of(home: Path, dest: Path) -> tuple[int, dict[str, Any]]:
    done = eventlog("backup", "--verify", dest, "--json", home=home)
    (found,) = done.answers
    return done.code, found


# -- what is in it


def test_a_backup_is_the_log_byte_for_byte_and_is_read_like_a_home(home: Path, dest: Path) -> None:
    before = tree_contents(home)
    done = eventlog("backup", dest, "--json", home=home)
    assert (done.code, done.err) == (0, "")
    (said,) = done.answers
    head = entries_in(home)[-1]
    assert (said["last_seq"], said["chain"]) == (ENTRIES, head["chain"])
    assert said["segments"] == said["copied_segments"] == len(segments_in(home))
    assert said["bytes"] == said["copied_bytes"] == len(b"".join(lines_in(home)))
    assert said["mended"] == []
    assert_holds(dest, home)
    assert tree_contents(home) == before
    assert sorted(p.name for p in dest.iterdir()) == ["backup.json", "backup.lock", "logs"]
    assert not {p.name for p in (dest / "logs").iterdir()} & {".lock", ".durable", "signals.log"}
    assert eventlog("verify", home=dest).code == 0
    assert eventlog("cat", home=dest).out == b"".join(lines_in(home))


def test_directories_and_files_are_ours_alone(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    modes = {path.stat().st_mode & 0o777 for path in (dest, *dest.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    assert {p.stat().st_mode & 0o777 for p in dest.rglob("*") if p.is_file()} == {0o600}


def test_segments_already_in_the_backup_are_not_written_again(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    before = {path: path.stat() for path in segments_in(dest)}
    build(home, 15, start=ENTRIES + 1)
    done = back_up(home, dest, now=NOW)
    assert_holds(dest, home)
    *closed, grown = before
    for path in closed:
        now, then = path.stat(), before[path]
        assert (now.st_ino, now.st_mtime_ns) == (then.st_ino, then.st_mtime_ns)
    assert grown.stat().st_ino != before[grown].st_ino  # a new file took its place
    assert grown.stat().st_size > before[grown].st_size
    new = len(b"".join(lines_in(home))) - sum(status.st_size for status in before.values())
    assert done.copied_bytes == new
    assert done.copied_segments == len(segments_in(home)) - len(closed)


def test_without_new_entries_nothing_is_copied(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in segments_in(dest)}
    done = eventlog("backup", dest, home=home)
    assert b"nothing: the log has nothing new" in done.out
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in segments_in(dest)} == before


@pytest.mark.parametrize("step", [1, 3, 7])
def test_backups_in_many_small_steps_end_as_the_log(tmp_path: Path, dest: Path, step: int) -> None:
    home = tmp_path / "home"
    for start in range(1, 36, step):
        build(home, step, start=start)
        back_up(home, dest, now=NOW)
    assert_holds(dest, home)


def test_log_and_backup_may_be_compressed_and_the_next_run_goes_on(home: Path, dest: Path) -> None:
    wanted = lines_in(home)
    compress_log(home, lock_timeout_s=DEADLINE_S)
    back_up(home, dest, now=NOW)
    assert lines_in(dest) == wanted
    compress_log(dest, lock_timeout_s=DEADLINE_S)
    build(home, 20, start=ENTRIES + 1)
    found = back_up(home, dest, now=NOW)
    assert found.repaired == ()
    assert verify(dest).ok
    assert verify(dest).last_seq == ENTRIES + 20


def test_an_empty_last_segment_is_not_backed_up_and_appends_continue(
    home: Path, dest: Path
) -> None:
    (home / "logs" / f"{ENTRIES + 1:020}.jsonl").touch()
    (home / "logs" / ".lock").unlink()
    back_up(home, dest, now=NOW)
    assert_restorable(dest)
    build(home, 3, start=ENTRIES + 1)
    back_up(home, dest, now=NOW)
    assert_holds(dest, home)


def test_only_durable_entries_are_copied(home: Path, dest: Path) -> None:
    with segments_in(home)[-1].open("ab") as segment:  # behind the end in the lock record
        segment.write(lines_in(home)[-1][:100])
    back_up(home, dest, now=NOW)
    assert len(assert_restorable(dest)) == ENTRIES
    (home / "logs" / ".lock").unlink()  # as after a reboot: it is torn then
    assert back_up(home, dest, now=NOW).copied_bytes == 0


@pytest.mark.parametrize("is_copied", [False, True])  # a copied home has no valid lock record
def test_continuous_writers_do_not_keep_a_backup_from_finishing(
    home: Path, dest: Path, is_copied: bool
) -> None:
    numbers = iter(range(ENTRIES + 1, ENTRIES + 300))
    with EventLog(home) as log:
        last_seq = ENTRIES if is_copied else log.append(a_signal(next(numbers))).seq
        done = back_up(home, dest, now=NOW, progress=lambda *_: log.append(a_signal(next(numbers))))
    if is_copied:
        assert last_seq <= done.manifest.last_seq < last_seq + 50
    else:
        assert done.manifest.last_seq == last_seq
    assert len(assert_restorable(dest)) == done.manifest.last_seq


def test_a_home_without_a_log_cannot_be_backed_up(tmp_path: Path, dest: Path) -> None:
    done = eventlog("backup", dest, home=tmp_path / "home")
    assert (done.code, dest.exists()) == (3, False)
    assert "no log" in done.err


# -- damage


@pytest.mark.parametrize("index", [0, 2, -1])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_is_found_by_the_restore_drill_and_repaired_by_the_next_backup(
    home: Path, dest: Path, index: int, place: float
) -> None:
    back_up(home, dest, now=NOW)
    bad = segments_in(dest)[index]
    flip(bad, int(bad.stat().st_size * place))
    proof = run_restore_drill(home, dest, scratch_parent=None, now=NOW, progress_factory=no_watch)
    assert not proof.ok
    assert bad.name in (proof.problem or "")
    build(home, 3, start=ENTRIES + 1)
    assert back_up(home, dest, now=NOW).repaired == (bad.name,)
    assert_holds(dest, home)


@pytest.mark.slow
def test_the_command_exits_1_on_a_damaged_copy_and_reports_its_repair(
    home: Path, dest: Path
) -> None:
    back_up(home, dest, now=NOW)
    bad = segments_in(dest)[1]
    flip(bad, 700)
    code, found = proof_of(home, dest)
    assert (code, found["ok"], found["proven_at"]) == (1, False, None)
    assert bad.name in found["problem"]
    done = eventlog("backup", dest, home=home)
    assert (done.code, bad.name in done.out.decode(), "damaged" in done.err) == (0, True, True)
    assert proof_of(home, dest)[0] == 0


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: os.truncate(path, 100)])
def test_a_missing_or_truncated_copy_is_found_and_written_again(
    home: Path, dest: Path, spoil: Callable[[Path], None]
) -> None:
    back_up(home, dest, now=NOW)
    bad = segments_in(dest)[2]
    spoil(bad)
    assert not run_restore_drill(
        home, dest, scratch_parent=None, now=NOW, progress_factory=no_watch
    ).ok
    assert back_up(home, dest, now=NOW).repaired == (bad.name,)
    assert_holds(dest, home)


def test_a_good_copy_is_not_overwritten_by_a_damaged_segment(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    flip(segments_in(home)[1], 700)
    build(home, 3, start=ENTRIES + 1)
    back_up(home, dest, now=NOW)
    assert len(assert_restorable(dest)) == ENTRIES + 3


def test_if_copy_and_log_are_both_damaged_neither_is_overwritten(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    flip(segments_in(dest)[1], 700)
    flip(segments_in(home)[1], 900)
    before = tree_contents(dest)
    with pytest.raises(BackupUnusable, match="damaged in the backup, and the log no longer"):
        back_up(home, dest, now=NOW)
    assert tree_contents(dest) == before


def test_damage_in_new_entries_ends_the_backup_and_keeps_the_entries_before_it(
    home: Path, dest: Path
) -> None:
    flip(segments_in(home)[2], 700)
    done = eventlog("backup", dest, home=home)
    assert done.code == 3
    assert segments_in(home)[2].name in done.err
    second = segments_in(home)[2].name
    assert len(assert_restorable(dest)) == int(second[:20]) - 1


@pytest.mark.parametrize("place", range(0, 900, 61))
def test_a_flipped_byte_in_the_manifest_is_reported_as_such(
    home: Path, dest: Path, place: int
) -> None:
    back_up(home, dest, now=NOW)
    path = dest / "backup.json"
    flip(path, place % path.stat().st_size)
    before = tree_contents(dest)
    with pytest.raises(BackupUnusable, match="the manifest of the backup is damaged"):
        back_up(home, dest, now=NOW)
    with pytest.raises(BackupUnusable, match="the manifest of the backup is damaged"):
        restore_home(dest, dest.with_name("new"))
    assert tree_contents(dest) == before
    assert not dest.with_name("new").exists()


def test_damage_that_was_accepted_is_backed_up_and_restored_as_such(home: Path, dest: Path) -> None:
    flip(segments_in(home)[1], 700)
    repair(home, accept=True, now=NOW, lock_timeout_s=1)
    assert back_up(home, dest, now=NOW).manifest.last_seq == ENTRIES
    with EventLog(home) as log:
        entries = list(log.read())
    assert len(entries) == ENTRIES - 1
    proof = run_restore_drill(home, dest, scratch_parent=None, now=NOW, progress_factory=no_watch)
    assert (proof.ok, proof.entries, proof.last_seq) == (True, ENTRIES - 1, ENTRIES)
    assert "WITHOUT   1 entry accepted as lost" in proof.to_text()
    restore_home(dest, dest.with_name("new"))
    with EventLog(dest.with_name("new")) as log:
        assert list(log.read()) == entries


def test_a_good_copy_stays_when_damage_of_the_log_is_accepted_later(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    flip(segments_in(home)[1], 700)
    repair(home, accept=True, now=NOW, lock_timeout_s=1)
    back_up(home, dest, now=NOW)
    assert len(assert_restorable(dest)) == ENTRIES
    proof = run_restore_drill(home, dest, scratch_parent=None, now=NOW, progress_factory=no_watch)
    assert proof.ok
    assert "WITHOUT" not in "".join(proof.to_text())


# -- of which log it is


def refused(home: Path, dest: Path, match: str) -> None:
    before = tree_contents(dest)
    done = eventlog("backup", dest, home=home)
    assert done.code == 3
    assert match in done.err
    assert tree_contents(dest) == before


@pytest.mark.parametrize("count", [ENTRIES, ENTRIES + 10])
def test_a_backup_of_another_log_is_refused_and_not_touched(
    home: Path, dest: Path, count: int
) -> None:
    back_up(home, dest, now=NOW)
    other = build(home.with_name("other"), count)
    refused(other, dest, "is not the one in the backup")


@pytest.mark.slow
@pytest.mark.parametrize("has_word", [True, False])
def test_a_log_that_was_rolled_back_is_refused_loudly(
    home: Path, dest: Path, has_word: bool
) -> None:
    build(home, 1, start=ENTRIES)  # a duplicate: now the lock record names the files of this home
    old = {path: path.read_bytes() for path in (home / "logs").iterdir() if not path.is_symlink()}
    build(home, 5, start=ENTRIES + 1)
    back_up(home, dest, now=NOW)
    for path in (home / "logs").iterdir():
        if path not in old and not path.is_symlink():
            path.unlink()
    for path, data in old.items():
        path.write_bytes(data)  # in place, so that the record is still of these files
    if not has_word:
        (home / "logs" / ".lock").unlink()  # as after a reboot
    ends = ", which ends at entry 45," if has_word else ""
    refused(home, dest, f"THE BACKUP IS AHEAD: it holds entry 50, and the log{ends} does not")
    code, found = proof_of(home, dest)
    assert (code, found["ok"], found["log"], found["last_seq"]) == (1, False, "differs", 50)
    build(home, 10, start=1000)  # and written on
    refused(home, dest, "entry 50 of the log is not the one in the backup")


# -- places that cannot be used


def test_a_destination_inside_the_home_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home / "logs")
    before = tree_contents(home)
    for place in (home, home / "logs", home / "logs" / "x", home / "b", tmp_path / "link" / "x"):
        with pytest.raises(BackupUnusable, match="inside the home"):
            back_up(home, place, now=NOW)
    assert tree_contents(home) == before


def test_a_directory_that_is_not_a_backup_is_refused_and_not_touched(
    home: Path, dest: Path
) -> None:
    dest.mkdir()
    (dest / "notes.txt").write_text("mine")
    refused(home, dest, "not empty, and no backup")
    other = build(dest.with_name("other"), 3)
    refused(home, other, "not empty, and no backup")


def test_an_unmounted_disk_is_refused_as_destination(home: Path, dest: Path) -> None:
    done = eventlog("backup", dest / "backup", home=home)
    assert (done.code, dest.exists()) == (3, False)
    assert "mounted" in done.err


def test_a_file_is_refused_as_destination(home: Path, dest: Path) -> None:
    dest.write_text("mine")
    with pytest.raises(EventLogError, match="a file is where a directory should"):
        back_up(home, dest, now=NOW)


@pytest.mark.slow
def test_links_and_unknown_files_among_the_copies_are_refused(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    for name in ("notes.txt", "00000000000000000099.jsonl", ".lock"):
        path = dest / "logs" / name
        path.write_text("mine")
        refused(home, dest, "a foreign file is among the segments")
        path.unlink()
    path = segments_in(dest)[1]
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refused(home, dest, "a symbolic link")
    path.unlink()
    (dest / "logs").rename(tmp_path / "elsewhere")
    (dest / "logs").symlink_to(tmp_path / "elsewhere")
    refused(home, dest, "a symbolic link")


def test_a_backup_that_was_appended_to_is_refused(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    append(dest, a_signal(99))
    refused(home, dest, "a foreign file is among the segments")


def test_two_runs_at_once_do_not_write_over_each_other(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    disk = RealDisk()
    fd = disk.open(str(dest / "backup.lock"), writable=True)
    assert disk.try_lock(fd)
    with pytest.raises(EventLogError, match="another run is at work"):
        back_up(home, dest, now=NOW)
    disk.close(fd)
    back_up(home, dest, now=NOW)


def test_deleting_the_lock_file_lets_no_second_run_in_beside_the_first(
    home: Path, dest: Path
) -> None:
    refusals: list[EventLogError] = []

    def run_another(_done: int, _total: int) -> None:
        (dest / "backup.lock").unlink(missing_ok=True)
        with pytest.raises(EventLogError, match="another run is at work") as refusal:
            back_up(home, dest, now=NOW)
        refusals.append(refusal.value)

    back_up(home, dest, now=NOW, progress=run_another)
    assert refusals
    back_up(home, dest, now=NOW)


# -- killed, and on bad disks


def begun(home: Path, dest: Path) -> None:
    """A backup with an older part, so that a run copies, extends and lists."""
    part = home.with_name("part")
    build(part, 25)
    for path in segments_in(part):  # the same log, as it was then
        whole = (home / "logs" / path.name).read_bytes()
        path.write_bytes(whole[: path.stat().st_size])
    for path in (part / "logs").iterdir():
        if path.name in (".lock", ".durable"):
            path.unlink()
    back_up(part, dest, now=NOW)


def calls_of_a_run(home: Path, dest: Path) -> int:
    disk = FaultDisk()
    shutil.copytree(dest, trial := dest.with_name("trial"))
    back_up(home, trial, now=NOW, disk=disk)
    assert_holds(trial, home)
    shutil.rmtree(trial)
    return len(disk.calls)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("onwards", [False, True])  # True: as good as killed there
def test_a_run_may_fail_or_die_at_any_call_and_the_next_one_completes_it(
    original: Path, in_memory: Path, late: bool, onwards: bool
) -> None:
    home, dest = in_memory / "home", in_memory / "dest"
    shutil.copytree(original, home, symlinks=True)
    begun(home, dest)
    for nth in range(1, calls_of_a_run(home, dest) + 1):
        shutil.copytree(dest, trial := dest.with_name("trial"))
        seq = listed(trial)["last_seq"]
        disk = FaultDisk()
        disk.fail(nth=nth, onwards=onwards, late=late, error=EIO)
        with suppress(EventLogError):
            back_up(home, trial, now=NOW, disk=disk)
        assert len(assert_restorable(trial)) >= seq
        back_up(home, trial, now=NOW)
        assert_holds(trial, home)
        assert {p.name for p in (trial / "logs").iterdir()} == {p.name for p in segments_in(home)}
        shutil.rmtree(trial)


@pytest.mark.slow
def test_a_first_run_may_die_at_any_call_and_the_next_one_completes_it(
    original: Path, in_memory: Path
) -> None:
    home, dest = in_memory / "home", in_memory / "dest"
    shutil.copytree(original, home, symlinks=True)
    nth = calls = 1
    while nth <= calls:
        disk = FaultDisk()
        disk.fail(nth=nth, onwards=True, late=bool(nth % 2))
        with suppress(EventLogError):
            back_up(home, dest, now=NOW, disk=disk)
        if (dest / "backup.json").exists():
            assert_restorable(dest)
        disk = FaultDisk()
        back_up(home, dest, now=NOW, disk=disk)
        assert_holds(dest, home)
        calls = max(calls, len(disk.calls))
        shutil.rmtree(dest)
        nth += 1
    assert calls > 50


def test_a_copy_that_reads_back_differently_is_not_listed(home: Path, dest: Path) -> None:
    class LyingDisk(FaultDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            if len(data) > 3000:
                data = data[:1000] + b"?" + data[1001:]
            return super().pwrite(fd, data, offset)

    with pytest.raises(BackupUnusable, match="the copy reads back different"):
        back_up(home, dest, now=NOW, disk=LyingDisk())
    assert listed(dest)["segments"] == []
    assert segments_in(dest) == []
    back_up(home, dest, now=NOW)
    with pytest.raises(BackupUnusable, match="the copy reads back different"):
        restore_home(dest, dest.with_name("new"), disk=LyingDisk())
    assert not (dest.with_name("new") / "logs").exists()


@pytest.mark.parametrize("size", ["24k", "32k", "40k"])
def test_a_full_disk_is_reported_and_the_earlier_copies_stay_valid(
    home: Path, dest: Path, tmp_path: Path, size: str
) -> None:
    mount, out = tmp_path / "disk", tmp_path / "dest"
    mount.mkdir()
    script = '"$0" --home "$1" backup "$2/dest"; code=$?; cp -r "$2/dest" "$3"; exit $code'
    command = command_line((), None, ())[0]
    words = (*on_small_disk(size, mount), "sh", "-c", script, command, home, mount, out)
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 3
    assert "no space for the backup" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 < len(assert_restorable(out)) < ENTRIES
    back_up(home, out, now=NOW)
    assert_holds(out, home)


@pytest.mark.parametrize("error", [ENOSPC, EIO])
def test_a_disk_error_is_reported_with_what_where_and_do(
    home: Path, dest: Path, error: int
) -> None:
    disk = FaultDisk()
    disk.fail("pwrite", nth=3, error=error, onwards=True)
    with pytest.raises(EventLogError) as raised:
        back_up(home, dest, now=NOW, disk=disk)
    assert raised.value.where.startswith(str(dest))
    assert "the copies made before are intact" in raised.value.do


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_run_that_is_interrupted_leaves_nothing_half_done(
    home: Path, dest: Path, nth: int
) -> None:
    begun(home, dest)
    disk = FaultDisk()
    disk.fail("pwrite", nth=nth, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        back_up(home, dest, now=NOW, disk=disk)
    assert not [p for p in dest.rglob(".*") if p.name.endswith(".new")]
    assert_restorable(dest)


@pytest.mark.slow
def test_sigterm_ends_the_command_and_leaves_a_valid_backup(home: Path, dest: Path) -> None:
    begun(home, dest)
    slow = strace("-e", "inject=pwrite64:delay_exit=300000")
    with pipe(home, dest, command="backup", under=slow) as running:
        until(lambda: list((dest / "logs").glob(".*.new")))
        os.kill(child_of(running.process), signal.SIGTERM)
        assert running.wait() == 130
        assert "Traceback" not in running.err
    assert not list((dest / "logs").glob(".*.new"))
    assert_restorable(dest)


class Feeder:
    """Keeps a pipe busy for a while, as often as it is asked to; notes what was acknowledged."""

    def __init__(self, running: Pipe, name: str) -> None:
        self.last_seq = 0
        self._pipe = running
        self._name = name
        self._more = threading.Semaphore()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def _feed(self) -> None:
        number = 0
        while self._more.acquire() and not self._is_stopped:
            items = [a_signal(n, signal_id=f"{self._name}-{n}") for n in range(number, number + 4)]
            self._pipe.send_items(*items)
            self.last_seq = self._pipe.read_answers(len(items))[-1]["seq"]
            number += len(items)
            time.sleep(0.02)

    def go_on(self) -> None:
        """Some tenths of a second. So the log grows with the runs, however slow the machine is."""
        self._more.release(12)

    def stop(self) -> None:
        self._is_stopped = True
        self._more.release()
        self._thread.join()


@contextmanager
def four_writers(home: Path) -> Iterator[list[Feeder]]:
    with (
        pipe(home, "--segment-bytes", 100_000) as a,
        pipe(home, "--segment-bytes", 100_000) as b,
        pipe(home, "--segment-bytes", 100_000) as c,
        pipe(home, "--segment-bytes", 100_000) as d,
    ):
        feeders = [Feeder(p, f"w{i}") for i, p in enumerate((a, b, c, d))]
        try:
            until(lambda: all(feeder.last_seq for feeder in feeders))
            yield feeders
        finally:
            for feeder in feeders:
                feeder.stop()


@pytest.mark.slow
def test_with_four_writers_and_repeated_kills_the_backup_always_matches_its_manifest(
    tmp_path: Path, dest: Path
) -> None:
    home = tmp_path / "home"
    chance = random.Random(20251119)
    seq = kills = 0
    took_s = 1.0
    with four_writers(home) as feeders:
        for number in range(30):
            for feeder in feeders:
                feeder.go_on()
            acknowledged = max(feeder.last_seq for feeder in feeders)
            started_s = time.monotonic()
            process = subprocess.Popen(
                command_line(("backup", dest), home, ()),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            try:
                if number % 5:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(took_s * chance.uniform(0.3, 1.0))
                else:
                    process.wait(DEADLINE_S)
                    took_s = time.monotonic() - started_s
                if process.poll() is None:
                    process.kill()
                    kills += 1
                _, err = process.communicate()
            finally:
                process.kill()
                process.wait()
            assert process.returncode in (0, -signal.SIGKILL), err
            if (dest / "backup.json").exists():
                found = len(assert_restorable(dest))
                assert found >= seq, "it lost what it held"
                seq = found
            if process.returncode == 0:
                assert seq >= acknowledged, "what was acknowledged before it began is in it"
        code, proof = proof_of(home, dest)
        assert (code, proof["ok"], proof["log"], proof["last_seq"]) == (0, True, "same", seq)
    assert kills > 5
    assert len(segments_in(dest)) > 3
    back_up(home, dest, now=NOW)
    assert_holds(dest, home)


# -- the proof


@contextmanager
def no_watch(_label: str) -> Iterator[Callable[[int, int], object]]:
    yield lambda done, total: None


@pytest.mark.slow
def test_a_restore_drill_reports_its_seq_and_status_its_age(home: Path, dest: Path) -> None:
    status = json.loads(eventlog("status", "--json", home=home).out)
    assert status["backup"] is None
    back_up(home, dest, now=NOW)
    before = tree_contents(dest)
    code, proof = proof_of(home, dest)
    chain = entries_in(home)[-1]["chain"]
    assert code == 0
    assert proof | {"digest": "", "proven_at": ""} == {
        "ok": True,
        "dest": str(dest),
        "last_seq": ENTRIES,
        "chain": chain,
        "entries": ENTRIES,
        "rows": ENTRIES,
        "digest": "",
        "backed_up_at": NOW,
        "proven_at": "",
        "log": "same",
        "kept_files": 0,
        "problem": None,
    }
    assert tree_contents(dest) == before
    eventlog("rebuild-database", home=home)
    assert eventlog("digest", home=home).out.decode().strip() == proof["digest"]
    status = json.loads(eventlog("status", "--json", home=home).out)
    assert status["backup"].pop("age_seconds") >= 0
    assert status["backup"] == {
        "proven_seq": ENTRIES,
        "proven_at": proof["proven_at"],
        "dest": str(dest),
    }
    text = eventlog("status", home=home).out.decode()
    assert ["proven_seq", str(ENTRIES)] in [line.split() for line in text.splitlines()]
    said = eventlog("backup", "--verify", dest, home=home).out.decode()
    assert said.startswith(f"proven restorable up to seq {ENTRIES}, chain {chain}\n")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proven_seq":1}', '{"proven_at":1,"dest":2}'])
def test_an_unreadable_drill_record_counts_as_none(home: Path, text: str) -> None:
    (home / "data" / "backup-proven.json").write_text(text)
    done = eventlog("status", "--json", home=home)
    assert (done.code, json.loads(done.out)["backup"]) == (0, None)


def test_a_restore_drill_works_without_the_log(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    shutil.rmtree(home)
    code, proof = proof_of(home, dest)
    assert (code, proof["ok"], proof["log"], proof["last_seq"]) == (0, True, "absent", ENTRIES)
    assert not home.exists()


def test_an_edited_manifest_with_a_valid_checksum_fails_the_restore_drill(
    home: Path, dest: Path
) -> None:
    back_up(home, dest, now=NOW)
    path = dest / "backup.json"
    manifest = decode_manifest(path.read_bytes())
    for edited in (
        replace(manifest, last_seq=ENTRIES + 1),
        replace(manifest, chain="0" * 64),
        replace(manifest, segments=manifest.segments[:-1]),
        replace(manifest, segments=manifest.segments[1:]),
        replace(manifest, segments=()),
    ):
        path.write_bytes(encode_manifest(edited))
        lost = home.with_name("lost")  # so that the log does not show it
        assert not run_restore_drill(
            lost, dest, scratch_parent=None, now=NOW, progress_factory=no_watch
        ).ok


def test_a_manifest_with_impossible_contents_is_reported_as_damaged(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    path = dest / "backup.json"
    manifest = decode_manifest(path.read_bytes())
    first = manifest.segments[0]
    text, number, truth = cast(tuple[Any, Any, Any], ("45", 7, True))
    for edited in (
        replace(manifest, last_seq=text),
        replace(manifest, last_seq=-1),
        replace(manifest, chain=number),
        replace(manifest, segments=()),
        replace(manifest, segments=(replace(first, bytes=truth),)),
        replace(manifest, segments=(replace(first, sha256=number),)),
    ):
        path.write_bytes(encode_manifest(edited))
        with pytest.raises(BackupUnusable, match="is damaged"):
            back_up(home, dest, now=NOW)
        with pytest.raises(BackupUnusable, match="is damaged"):
            restore_home(dest, tmp_path / "new")


def test_the_scratch_directory_goes_away_and_may_be_elsewhere(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = eventlog("backup", "--verify", dest, "--scratch", elsewhere, home=home)
    assert (done.code, list(elsewhere.iterdir())) == (0, [])
    assert eventlog("backup", dest, "--scratch", elsewhere, home=home).code == 2
    assert eventlog("backup", "--verify", tmp_path / "none", home=home).code == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_restore_drill_leaves_no_scratch_directory(
    tmp_path: Path, dest: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    append(home, *signals(20_000))
    back_up(home, dest, now=NOW)
    with pipe(home, "--verify", dest, command="backup") as running:
        until(lambda: list(dest.glob(".eventlog-scratch-*/home/run/.rebuild-*/signals.db")))
        running.send(number)
        code = running.wait()
        assert code == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    if number == signal.SIGKILL:  # the next one removes it
        assert list(dest.glob(".eventlog-scratch-*"))
        assert proof_of(home, dest)[0] == 0
    assert not list(dest.glob(".eventlog-scratch-*"))
    assert sorted(p.name for p in dest.iterdir()) == ["backup.json", "backup.lock", "logs"]


# -- restore


def test_appends_to_a_restored_home_continue_its_chain(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new" / "home"
    done = eventlog("restore", dest, "--json", home=new)
    assert (done.code, done.err) == (0, "")
    (said,) = done.answers
    assert (said["last_seq"], said["segments"]) == (ENTRIES, len(segments_in(home)))
    assert said["next"] == [f"eventlog --home {new} rebuild-database"]
    assert lines_in(new) == lines_in(home)
    assert verify(new).ok
    append(new, a_signal(ENTRIES), a_signal(ENTRIES + 1))
    assert len(assert_valid_log(new)) == ENTRIES + 1  # the retry found its first receipt
    assert eventlog("rebuild-database", home=new).code == 0


def test_a_restored_log_that_loses_its_end_is_detected(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    for bytes_cut in (10, len(lines_in(home)[-1]), None):
        new = tmp_path / f"new-{bytes_cut}"
        restore_home(dest, new)
        last = segments_in(new)[-1]
        if bytes_cut is None:
            last.unlink()
        else:
            os.truncate(last, last.stat().st_size - bytes_cut)
        assert not verify(new).ok
        with pytest.raises(LogCorrupt), EventLog(new) as log:
            log.append(a_signal(99))


@pytest.mark.parametrize(
    "name", ["notes.txt", "logs/00000000000000000001.jsonl", "data/signals.db", ".hidden"]
)
def test_a_home_that_holds_anything_is_refused_and_not_touched(
    home: Path, dest: Path, tmp_path: Path, name: str
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    (new / name).parent.mkdir(parents=True)
    (new / name).write_text("mine")
    before = tree_contents(tmp_path)
    done = eventlog("restore", dest, home=new)
    assert done.code == 3
    assert tree_contents(tmp_path) == before
    done = eventlog("restore", dest, home=home)
    assert (done.code, "the home is not empty" in done.err) == (3, True)
    assert tree_contents(tmp_path) == before


def test_empty_directories_do_not_count_as_a_home(home: Path, dest: Path, tmp_path: Path) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    (new / "logs").mkdir(parents=True)
    (new / "data").mkdir()
    (new / "data").chmod(0o750)  # whatever the umask
    restore_home(dest, new)
    assert_valid_log(new)
    assert (new / "data").stat().st_mode & 0o777 == 0o750


def test_a_damaged_copy_leaves_the_home_without_a_log(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    bad = segments_in(dest)[3]
    new = tmp_path / "new"
    flip(bad, 10)
    done = eventlog("restore", dest, home=new)
    assert done.code == 3
    assert bad.name in done.err
    assert not (new / "logs").exists()
    flip(bad, 10)
    assert eventlog("restore", dest, home=new).code == 0
    assert [p.name for p in new.iterdir()] == ["logs"]


def test_a_directory_that_is_not_a_backup_is_not_restored(home: Path, tmp_path: Path) -> None:
    for source in (home, tmp_path, tmp_path / "none"):
        done = eventlog("restore", source, home=tmp_path / "new")
        assert (done.code, "no backup" in done.err) == (3, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("onwards", [False, True])
def test_a_restore_may_die_at_any_call_and_leaves_no_log_or_the_whole(
    home: Path, dest: Path, tmp_path: Path, onwards: bool
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    disk = FaultDisk()
    restore_home(dest, new, disk=disk)
    for nth in range(1, len(disk.calls) + 1):
        shutil.rmtree(new)
        disk = FaultDisk()
        disk.fail(nth=nth, onwards=onwards, late=bool(nth % 2))
        with suppress(EventLogError):
            restore_home(dest, new, disk=disk)
        if not (new / "logs").exists():
            restore_home(dest, new)
        assert lines_in(new) == lines_in(home)
        assert verify(new).ok
        assert not (new / ".restoring").exists()


def test_two_restores_at_once_do_not_write_over_each_other(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    (new / ".restoring").mkdir(parents=True)
    (new / ".restoring" / ".lock").touch()
    disk = RealDisk()
    fd = disk.open(str(new / ".restoring" / ".lock"), writable=True)
    assert disk.try_lock(fd)
    with pytest.raises(EventLogError, match="another restore is at work"):
        restore_home(dest, new)
    disk.close(fd)
    restore_home(dest, new)
    assert_valid_log(new)


def test_repair_takes_a_backup_as_it_is(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    build(home, 5, start=ENTRIES + 1)
    lines = lines_in(home)
    flip(segments_in(home)[1], 700)
    segments_in(home)[2].unlink()
    done = eventlog("repair", "--from", dest, home=home)
    assert done.code == 0, done.err
    assert lines_in(home) == lines
    assert_valid_log(home)


@pytest.mark.slow
def test_a_progress_bar_is_drawn_only_on_a_terminal(home: Path, dest: Path) -> None:
    done = eventlog("backup", dest, home=home)
    assert done.err == ""
    script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    for words in (("backup", dest), ("backup", "--verify", dest)):
        shown = subprocess.run(
            [sys.executable, "-c", script, *command_line(words, home, ())],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_S,
            check=False,
        )
        assert shown.returncode == 0
        assert b"100%" in shown.stdout


@pytest.mark.parametrize("kind", ["a link", "a file"])
def test_a_restore_touches_nothing_behind_a_link_in_place_of_its_scratch_directory(
    home: Path, dest: Path, tmp_path: Path, kind: str
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    new.mkdir()
    before = tree_contents(home)
    if kind == "a link":
        (new / ".restoring").symlink_to(home / "logs")
    else:
        (new / ".restoring").write_bytes(b"")
    done = eventlog("restore", dest, home=new)
    assert done.code == 3
    assert ".restoring" in done.err
    assert tree_contents(home) == before
    assert not (new / "logs").exists()


@pytest.mark.parametrize(
    "change",
    [
        *({"last_seq": 0}, {"last_seq": 2**63}, {"chain": "x" * 64}, {"chain": "a" * 63}),
        *({"v": True}, {"last_seq": 2, "chain": "a" * 64}),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_changes_and_restores_nothing(
    home: Path, dest: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    back_up(home, dest, now=NOW)
    fields = listed(dest) | change
    del fields["sha256"]
    body = orjson.dumps(fields)[:-1]
    digest = hashlib.sha256(body).hexdigest()
    (dest / "backup.json").write_bytes(body + f',"sha256":"{digest}"}}\n'.encode())
    before = tree_contents(dest)
    build(home, 3, start=ENTRIES + 1)
    for words, at in ((("backup", dest), home), (("restore", dest), tmp_path / "new")):
        done = eventlog(*words, home=at)
        assert done.code == 3, done
        assert "Traceback" not in done.err
    assert tree_contents(dest) == before
    assert not (tmp_path / "new/logs").exists()


def test_a_manifest_that_lists_less_of_a_copy_than_its_last_entry_shortens_nothing(
    home: Path, dest: Path
) -> None:
    back_up(home, dest, now=NOW)
    fields = listed(dest)
    del fields["sha256"]
    copy = segments_in(dest)[-1].read_bytes()
    fields["segments"][-1] |= {"bytes": 700, "sha256": hashlib.sha256(copy[:700]).hexdigest()}
    body = orjson.dumps(fields)[:-1]
    digest = hashlib.sha256(body).hexdigest()
    (dest / "backup.json").write_bytes(body + f',"sha256":"{digest}"}}\n'.encode())
    for words, at in ((("backup", dest), home), (("restore", dest), dest.with_name("new"))):
        assert eventlog(*words, home=at).code == 3
    assert segments_in(dest)[-1].read_bytes() == copy
