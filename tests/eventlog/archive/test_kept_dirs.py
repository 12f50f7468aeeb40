"""A backup keeps the directories beside logs/ that no log gives back, without their secret."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from errno import EIO
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from eventlog import BackupUnusable, EventLog, EventLogError, back_up, restore_home
from projections.monitoring.restore_drill import DrillResult, run_restore_drill
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in
from tests.harness.signals import signals

NOW = "2025-11-19T00:00:00.000000Z"
FILES = {"vkey": b"public\n", "00000000000000000003.checkpoint": b"signed\n", "lost": b""}


def build(home: Path, count: int, *, start: int = 1) -> None:
    with EventLog(home, segment_bytes=2_000) as log:
        log.append_many(signals(count, start=start))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    build(home, 3)
    evidence = home / "evidence"
    evidence.mkdir(mode=0o700)
    for name, data in FILES.items():
        (evidence / name).write_bytes(data)
    for name in ("key", "restored", "resumed", ".vkey.new"):
        (evidence / name).write_bytes(b"stays")
    return home


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


def files_in(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "evidence").iterdir()}


def test_a_backup_has_the_directory_without_what_stays_on_its_machine(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    done = back_up(home, dest, now=NOW)
    assert files_in(dest) == FILES
    assert (dest / "evidence").stat().st_mode & 0o777 == 0o700
    assert done.to_json()["kept_files"] == 3
    assert "kept      3 files of evidence/" in done.to_text()
    new = tmp_path / "new"
    restored = restore_home(dest, new)
    assert files_in(new) == {**FILES, "restored": b""}
    assert restored.to_json()["kept_files"] == 3
    assert (new / "evidence").stat().st_mode & 0o777 == 0o700
    assert back_up(new, tmp_path / "again", now=NOW).to_json()["kept_files"] == 3
    assert files_in(tmp_path / "again") == FILES


def test_a_backup_without_the_directory_is_what_it_was(home: Path, dest: Path) -> None:
    shutil.rmtree(home / "evidence")
    done = back_up(home, dest, now=NOW)
    assert "kept" not in json.loads((dest / "backup.json").read_bytes())
    assert not (dest / "evidence").exists()
    assert (done.to_json()["kept_files"], len(done.to_text())) == (0, 3)
    new = home.with_name("new")
    restore_home(dest, new)
    assert sorted(path.name for path in new.iterdir()) == ["logs"]


def test_what_has_grown_is_copied_and_what_is_gone_stays(home: Path, dest: Path) -> None:
    back_up(home, dest, now=NOW)
    evidence = home / "evidence"
    (evidence / "00000000000000000003.checkpoint").write_bytes(b"signed\ncosigned\n")
    (evidence / "00000000000000000004.checkpoint").write_bytes(b"new\n")
    (evidence / "vkey").unlink()
    before = (dest / "evidence" / "lost").stat().st_ino
    build(home, 2, start=4)
    back_up(home, dest, now=NOW)
    assert files_in(dest) == {
        **FILES,
        "00000000000000000003.checkpoint": b"signed\ncosigned\n",
        "00000000000000000004.checkpoint": b"new\n",
    }
    assert (dest / "evidence" / "lost").stat().st_ino == before
    shutil.rmtree(evidence)
    assert back_up(home, dest, now=NOW).to_json()["kept_files"] == 4


@pytest.mark.parametrize("data", [b"signeD\n", b"signeD\nand more\n", b"signed"])
def test_a_good_copy_is_not_replaced_by_another_file(home: Path, dest: Path, data: bytes) -> None:
    back_up(home, dest, now=NOW)
    (home / "evidence" / "00000000000000000003.checkpoint").write_bytes(data)
    (home / "evidence" / "more").write_bytes(b"more")
    build(home, 2, start=4)
    with pytest.raises(BackupUnusable, match="is not the file that was backed up") as error:
        back_up(home, dest, now=NOW)
    assert error.value.where.endswith("00000000000000000003.checkpoint")
    assert files_in(dest) == {**FILES, "more": b"more"}
    assert lines_in(dest) == lines_in(home)  # the log was copied all the same
    assert json.loads((dest / "backup.json").read_bytes())["last_seq"] == 5


def drill(home: Path, dest: Path) -> DrillResult:
    def progress(_title: str) -> AbstractContextManager[Callable[[int, int], object]]:
        return nullcontext(lambda _done, _total: None)

    return run_restore_drill(home, dest, scratch_parent=None, now=NOW, progress_factory=progress)


def damage(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [damage, cut, Path.unlink])
def test_a_damaged_copy_is_noticed_by_the_drill_and_made_again(
    home: Path, dest: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    back_up(home, dest, now=NOW)
    harm(dest / "evidence" / "vkey")
    with pytest.raises(BackupUnusable, match="evidence/vkey is missing or damaged"):
        restore_home(dest, tmp_path / "new")
    assert not (tmp_path / "new" / "logs").exists()
    if harm is damage:
        found = drill(home, dest)
        assert (found.ok, found.kept_files) == (False, None)
        assert "evidence/vkey" in str(found.problem)
    back_up(home, dest, now=NOW)
    assert files_in(dest) == FILES
    if harm is damage:
        found = drill(home, dest)
        assert (found.ok, found.kept_files) == (True, 3)
        assert "kept      3 files beside logs/" in found.to_text()
    harm(dest / "evidence" / "vkey")
    (home / "evidence" / "vkey").unlink()
    with pytest.raises(BackupUnusable, match="the home does not have its bytes"):
        back_up(home, dest, now=NOW)


def test_a_checkpoint_that_is_signed_during_the_backup_is_left_to_the_next_one(
    home: Path, dest: Path
) -> None:
    """The log in a backup covers what the backup has of it."""

    def sign(done: int, total: int) -> None:
        (home / "evidence" / "00000000000000000009.checkpoint").write_bytes(b"later")

    back_up(home, dest, now=NOW, progress=sign)
    assert files_in(dest) == FILES
    back_up(home, dest, now=NOW)
    assert "00000000000000000009.checkpoint" in files_in(dest)


def test_links_and_directories_in_it_are_refused_after_the_log_was_copied(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    evidence = home / "evidence"
    (evidence / "a-link").symlink_to(tmp_path / "elsewhere")
    (evidence / "b-directory").mkdir()
    os.mkfifo(evidence / "c-fifo")
    (evidence / "d-huge").touch()
    os.truncate(evidence / "d-huge", (64 << 20) + 1)
    for name in ("a-link", "b-directory", "c-fifo", "d-huge"):
        with pytest.raises(BackupUnusable, match="was not backed up") as error:
            back_up(home, dest, now=NOW)
        assert error.value.where == str(evidence / name)
        path = evidence / name
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    assert lines_in(dest) == lines_in(home)
    assert files_in(dest) == FILES
    restore_home(dest, tmp_path / "new")  # so all else is listed
    assert files_in(tmp_path / "new") == {**FILES, "restored": b""}


@pytest.mark.parametrize("is_link", [True, False])
def test_the_log_is_backed_up_where_the_directory_is_none(
    home: Path, dest: Path, tmp_path: Path, is_link: bool
) -> None:
    back_up(home, dest, now=NOW)
    os.rename(home / "evidence", tmp_path / "elsewhere")
    if is_link:
        (home / "evidence").symlink_to(tmp_path / "elsewhere")
    else:
        (home / "evidence").touch()
    build(home, 2, start=4)
    with pytest.raises(BackupUnusable, match="was not backed up") as error:
        back_up(home, dest, now=NOW)
    assert error.value.where == str(home / "evidence")
    assert lines_in(dest) == lines_in(home)
    restore_home(dest, tmp_path / "new")
    assert lines_in(tmp_path / "new") == lines_in(home)
    assert files_in(tmp_path / "new") == {**FILES, "restored": b""}


def test_no_copy_of_the_key_gets_into_a_backup_under_any_name(home: Path, dest: Path) -> None:
    secret = b"PRIVATE+KEY+log.example/main+bfbe92f2+AQYAlD\n"
    for name, data in (("key.old", secret), ("key~", secret), (".key.swp", b"\0" * 99 + secret)):
        (home / "evidence" / name).write_bytes(data)
    assert back_up(home, dest, now=NOW).to_json()["kept_files"] == 3
    assert files_in(dest) == FILES


def test_what_is_derived_is_left_out(home: Path, dest: Path) -> None:
    """Peaks are replaced at each checkpoint, and a backup would keep each of them for ever."""
    (home / "evidence" / "00000000000000000003.peaks").write_bytes(b"peaks")
    back_up(home, dest, now=NOW)
    assert files_in(dest) == FILES


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "key", "restored", ".a.new", 7])
def test_a_manifest_cannot_name_another_path(home: Path, dest: Path, name: object) -> None:
    back_up(home, dest, now=NOW)
    fields = json.loads((dest / "backup.json").read_bytes())
    del fields["sha256"]
    fields["kept"][0]["name"] = name
    body = orjson.dumps(fields)[:-1]
    digest = sha256(body).hexdigest().encode()
    (dest / "backup.json").write_bytes(body + b',"sha256":"' + digest + b'"}\n')
    with pytest.raises(BackupUnusable, match="manifest of the backup is damaged"):
        restore_home(dest, home.with_name("new"))


@pytest.mark.slow
def test_a_restore_that_dies_at_any_call_leaves_no_log_without_the_mark(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    nth = calls = 1
    while nth <= calls:
        disk = FaultDisk()
        disk.fail(nth=nth, onwards=True, late=bool(nth % 2), error=EIO)
        with suppress(EventLogError):
            restore_home(dest, new, disk=disk)
        if not (new / "logs").exists():
            restore_home(dest, new, disk=(disk := FaultDisk()))
            calls = max(calls, len(disk.calls))
        assert files_in(new) == {**FILES, "restored": b""}
        shutil.rmtree(new)
        nth += 1
    assert calls > 30


def test_a_home_that_has_signed_is_not_restored_over(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(home, dest, now=NOW)
    new = tmp_path / "new"
    for names in (["vkey"], ["restored", "key"]):
        (new / "evidence").mkdir(parents=True)
        for name in names:
            (new / "evidence" / name).touch()
        with pytest.raises(EventLogError, match="not empty: it holds evidence"):
            restore_home(dest, new)
        assert sorted(files_in(new)) == sorted(names)
        shutil.rmtree(new)
    (new / "evidence").mkdir(parents=True)
    for name in ("restored", "of another backup"):
        (new / "evidence" / name).touch()
    restore_home(dest, new)
    assert files_in(new) == {**FILES, "restored": b""}
