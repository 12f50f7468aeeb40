"""A home that may lack what was signed signs nothing until it has shown that it contains it."""

import os
import shutil
from contextlib import suppress
from errno import EIO
from pathlib import Path

import pytest

from eventlog import (
    BackupUnusable,
    EventLog,
    LogDiverged,
    LogIsReplica,
    UnsafePath,
    back_up,
    restore_home,
)
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.keys import LOG, VerifierKey, new_key
from projections.evidence.signing.resuming import resume
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.fault_disk import FaultDisk
from tests.harness.promotions import promote_alone
from tests.harness.signals import signals

NOW = "2025-11-19T00:00:00.000000Z"
ORIGIN = "log.example/main"


def fill(home: Path, count: int, *, start: int) -> None:
    with EventLog(home) as log:
        log.append_many(signals(count, start=start))


def checkpoint_file(home: Path, size: int) -> Path:
    return home / "evidence" / f"{size:020d}.checkpoint"


class Operator:
    """A home of 9 entries with checkpoints at 3 and 8, a backup of each, and a copy of its key."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.backups = {size: directory / f"backup-{size}" for size in (3, 8)}
        self.key_file = directory / "key"
        fill(self.home, 3, start=1)
        self.key = create_key(self.home, ORIGIN)
        shutil.copy(self.home / "evidence" / "key", self.key_file)
        sign_checkpoint(self.home)
        back_up(self.home, self.backups[3], now=NOW)
        fill(self.home, 5, start=4)
        sign_checkpoint(self.home)
        back_up(self.home, self.backups[8], now=NOW)
        self.newest = checkpoint_file(self.home, 8).read_bytes()
        fill(self.home, 1, start=9)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Its homes and backups stay as they are."""
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture
def new(original: Operator, tmp_path: Path) -> Path:
    """A home that was restored from the newest backup."""
    restore_home(original.backups[8], tmp_path / "new")
    return tmp_path / "new"


def names(home: Path) -> set[str]:
    return {path.name for path in (home / "evidence").iterdir()}


def test_a_restored_home_signs_once_it_has_shown_the_newest_checkpoint(
    original: Operator, new: Path
) -> None:
    with pytest.raises(ProjectionError, match="restored from a backup"):
        sign_checkpoint(new)
    found = resume(new, original.newest, original.key_file)
    assert (found.size, found.is_new) == (8, False)
    assert names(new) >= {"key", "vkey", "resumed"}
    assert "restored" not in names(new)
    assert (new / "evidence" / "key").stat().st_mode & 0o777 == 0o600
    fill(new, 1, start=100)
    assert sign_checkpoint(new).size == 9


def test_a_backup_that_lacks_the_newest_checkpoint_but_has_its_lines_resumes(
    original: Operator, new: Path
) -> None:
    checkpoint_file(new, 8).unlink()
    found = resume(new, original.newest, original.key_file)
    assert (found.size, found.is_new) == (8, True)
    assert checkpoint_file(new, 8).read_bytes() == original.newest
    fill(new, 1, start=100)
    assert sign_checkpoint(new).size == 9


def test_a_home_without_the_signed_lines_never_signs(original: Operator, tmp_path: Path) -> None:
    new = tmp_path / "new"
    restore_home(original.backups[3], new)
    before = names(new)
    with pytest.raises(LogDiverged, match="ends with entry 3, and 8 entries were signed"):
        resume(new, original.newest, original.key_file)
    fill(new, 6, start=100)  # other lines in their place
    with pytest.raises(LogDiverged, match="not the one that was signed at size 8"):
        resume(new, original.newest, original.key_file)
    assert names(new) == before
    with pytest.raises(ProjectionError, match="restored from a backup"):
        sign_checkpoint(new)


def test_an_older_checkpoint_than_one_that_is_kept_is_refused(
    original: Operator, new: Path
) -> None:
    older = checkpoint_file(original.home, 3).read_bytes()
    with pytest.raises(ProjectionError, match="a newer checkpoint is kept here") as error:
        resume(new, older, original.key_file)
    assert error.value.where == str(checkpoint_file(new, 8))
    assert "restored" in names(new)


def test_no_other_key_and_no_unsigned_checkpoint_is_taken(
    original: Operator, new: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text(new_key(ORIGIN).to_secret() + "\n")
    other.chmod(0o600)
    with pytest.raises(ProjectionError, match="not that of this log"):
        resume(new, original.newest, other)
    changed = original.newest.replace(b"\n8\n", b"\n7\n")
    with pytest.raises(NotProved, match="signature"):
        resume(new, changed, original.key_file)
    shutil.copy(original.key_file, other)
    other.chmod(0o640)
    with pytest.raises(UnsafePath, match="can read the key"):
        resume(new, original.newest, other)
    with pytest.raises(ProjectionError, match="no key in that file"):
        resume(new, original.newest, tmp_path / "nothing")
    assert names(new) & {"key", "restored"} == {"restored"}


@pytest.mark.slow
def test_a_run_that_dies_at_any_call_has_not_resumed_or_can_be_repeated(
    original: Operator, new: Path
) -> None:
    checkpoint_file(new, 8).unlink()
    nth = calls = 1
    trial = new.with_name("trial")
    while nth <= calls:
        shutil.copytree(new, trial, symlinks=True)
        disk = FaultDisk()
        disk.fail(nth=nth, onwards=True, late=bool(nth % 2), error=EIO)
        with suppress(OSError):
            resume(trial, original.newest, original.key_file, disk=disk)
        if "restored" not in names(trial):  # then all the rest is there
            fill(trial, 1, start=100)
            assert sign_checkpoint(trial).size == 9
        disk = FaultDisk()
        if checkpoint_file(trial, 9).exists():
            calls = max(calls, nth)
        else:
            resume(trial, original.newest, original.key_file, disk=disk)
            calls = max(calls, len(disk.calls))
            fill(trial, 1, start=100)
            assert sign_checkpoint(trial).size == 9
        shutil.rmtree(trial)
        nth += 1
    assert calls > 20


def test_a_former_replica_signs_once_it_has_resumed(original: Operator, tmp_path: Path) -> None:
    """Also where the operator has brought the key over by hand."""
    home = tmp_path / "home"
    shutil.copytree(original.home, home, symlinks=True)
    evidence = tmp_path / "evidence"
    os.rename(home / "evidence", evidence)
    promote_alone(home)  # at entry 10
    os.rename(evidence, home / "evidence")
    with pytest.raises(ProjectionError, match="became the primary at entry 10"):
        sign_checkpoint(home)
    assert not checkpoint_file(home, 10).exists()
    resume(home, original.newest, original.key_file)
    assert sign_checkpoint(home).size == 10
    fill(home, 1, start=100)
    assert sign_checkpoint(home).size == 11
    promote_alone(home)
    (home / "evidence" / f"{11:020d}.peaks").unlink()
    with pytest.raises(ProjectionError, match="became the primary at entry 12"):
        sign_checkpoint(home)


def bring(original: Operator, home: Path, *more: str) -> None:
    """Copies key and vkey by hand, as an operator does who does not know `resume`."""
    (home / "evidence").mkdir(mode=0o700, exist_ok=True)
    for name in ("key", "vkey", *more):
        shutil.copy(original.home / "evidence" / name, home / "evidence" / name)


@pytest.fixture
def older(original: Operator, tmp_path: Path) -> Path:
    """A home with all that was signed, restored from a backup that was made without evidence/."""
    source, backup = tmp_path / "source", tmp_path / "old-backup"
    shutil.copytree(original.home, source, symlinks=True)
    shutil.rmtree(source / "evidence")
    back_up(source, backup, now=NOW)
    restore_home(backup, tmp_path / "older")
    return tmp_path / "older"


def test_a_key_that_was_brought_by_hand_signs_nothing_until_resume(
    original: Operator, older: Path
) -> None:
    bring(original, older)
    fill(older, 1, start=100)
    with pytest.raises(ProjectionError, match="brought to this home") as error:
        sign_checkpoint(older)
    assert "evidence resume" in str(error.value.do)
    for name in ("resumed", f"{3:020d}.checkpoint"):  # neither of an older state allows it
        bring(original, older, name)
    (older / "evidence" / "resumed").write_text("3\n")
    with pytest.raises(ProjectionError, match="brought to this home"):
        sign_checkpoint(older)
    resume(older, original.newest, original.key_file)
    assert sign_checkpoint(older).size == 10


def test_a_promoted_home_signs_nothing_with_a_key_alone(original: Operator, older: Path) -> None:
    promote_alone(older)  # at entry 10
    bring(original, older)
    with pytest.raises(ProjectionError, match="brought to this home"):
        sign_checkpoint(older)
    bring(original, older, "resumed")
    with pytest.raises(ProjectionError, match="became the primary at entry 10"):
        sign_checkpoint(older)
    assert not list((older / "evidence").glob("*.checkpoint"))
    resume(older, original.newest, original.key_file)
    assert sign_checkpoint(older).size == 10


def test_what_was_examined_of_lines_that_are_gone_does_not_count(
    original: Operator, older: Path, new: Path
) -> None:
    resume(new, original.newest, original.key_file)
    fill(new, 3, start=100)  # 9 to 11, which are never replicated
    resume(new, original.newest, original.key_file)
    promote_alone(older)
    promote_alone(older)  # at 10 and 11; its entry 9 is another one
    shutil.rmtree(new / "logs")
    shutil.rmtree(new / "data", ignore_errors=True)
    shutil.copytree(older / "logs", new / "logs", symlinks=True)
    with pytest.raises(ProjectionError, match="has lost entry 11"):
        sign_checkpoint(new)
    assert not checkpoint_file(new, 11).exists()


def test_resume_needs_neither_the_directory_nor_a_vkey(original: Operator, older: Path) -> None:
    other = original.newest.replace(b"\n8\n", b"\n7\n")
    with pytest.raises(NotProved):
        resume(older, other, original.key_file)
    assert not (older / "evidence").exists()
    resume(older, original.newest, original.key_file)
    vkey = (original.home / "evidence" / "vkey").read_bytes()
    assert (older / "evidence" / "vkey").read_bytes() == vkey
    assert sign_checkpoint(older).size == 9


def test_a_new_key_signs_at_once_whatever_happened_before(original: Operator, older: Path) -> None:
    """It has signed nothing elsewhere: also in a home that was restored, and one promoted."""
    promote_alone(older)
    (older / "evidence").mkdir(mode=0o700)
    (older / "evidence" / "restored").touch()
    key = create_key(older, ORIGIN)
    assert "restored" not in names(older)
    assert sign_checkpoint(older).size == 10
    signed = checkpoint_file(older, 10).read_bytes()
    assert open_checkpoint(signed, key).head.size == 10
    promote_alone(older)
    with pytest.raises(ProjectionError, match="became the primary at entry 11"):
        sign_checkpoint(older)


def test_a_key_that_has_signed_nothing_is_replaced_by_a_new_one(older: Path) -> None:
    create_key(older, ORIGIN)
    promote_alone(older)
    with pytest.raises(ProjectionError, match="became the primary at entry 10") as error:
        sign_checkpoint(older)
    assert "has signed nothing at all" in str(error.value.do)
    for name in ("key", "vkey"):
        (older / "evidence" / name).unlink()
    create_key(older, ORIGIN)
    assert sign_checkpoint(older).size == 10


def test_the_mark_stays_where_a_key_without_its_vkey_was_brought(
    original: Operator, new: Path
) -> None:
    bring(original, new)
    (new / "evidence" / "vkey").unlink()
    with pytest.raises(ProjectionError, match="a key already"):
        create_key(new, ORIGIN)
    assert "restored" in names(new)


def test_no_line_of_a_stranger_is_kept_with_the_newest_checkpoint(
    original: Operator, new: Path
) -> None:
    checkpoint_file(new, 8).unlink()
    text, _, line = original.newest.decode().rpartition("\n\n")
    forged = line.replace(ORIGIN, "w.example")
    resume(new, f"{text}\n\n{forged}{line}".encode(), original.key_file)
    assert checkpoint_file(new, 8).read_bytes() == original.newest


def test_resume_replaces_no_other_key(original: Operator, new: Path) -> None:
    path = new / "evidence" / "key"
    path.write_text(new_key("other.example").to_secret() + "\n")
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(ProjectionError, match="another key is here"):
        resume(new, original.newest, original.key_file)
    assert (path.read_bytes(), "restored" in names(new)) == (before, True)


def test_a_replica_does_not_resume(original: Operator, new: Path) -> None:
    (new / "logs" / ".replica").write_bytes(b'{"stream":"main","epoch":1}')
    with pytest.raises(LogIsReplica):
        resume(new, original.newest, original.key_file)
    assert "restored" in names(new)


def test_the_restored_key_verifies_what_it_signed(original: Operator, new: Path) -> None:
    resume(new, original.newest, original.key_file)
    fill(new, 2, start=100)
    sign_checkpoint(new)
    key: VerifierKey = original.key
    assert key.kind == LOG
    assert open_checkpoint(checkpoint_file(new, 10).read_bytes(), key).head.size == 10


def test_with_a_backup_no_entry_is_signed_that_it_lacks(original: Operator, tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    shutil.copytree(original.home, home, symlinks=True)
    shutil.copytree(original.backups[8], backup)
    found = sign_checkpoint(home, backup=backup)
    assert (found.size, found.is_new) == (8, False)
    back_up(home, backup, now=NOW)
    fill(home, 2, start=100)
    assert sign_checkpoint(home, backup=backup).size == 9
    back_up(home, backup, now=NOW)
    last = max((backup / "logs").glob("*.jsonl"))
    good = last.read_bytes()
    for bad, problem in (
        (good[:-1], "missing or cut"),
        (good[:-20] + b"x" + good[-19:], "does not end with entry 11"),
    ):
        last.write_bytes(bad)
        with pytest.raises(BackupUnusable, match=problem):
            sign_checkpoint(home, backup=backup)
    last.unlink()
    with pytest.raises(BackupUnusable, match="missing or cut"):
        sign_checkpoint(home, backup=backup)
    with pytest.raises(BackupUnusable, match="no backup"):
        sign_checkpoint(home, backup=tmp_path / "nothing")
    other = tmp_path / "other"
    fill(other, 5, start=200)
    back_up(other, tmp_path / "others", now=NOW)
    with pytest.raises(ProjectionError, match="this log does not have that entry"):
        sign_checkpoint(home, backup=tmp_path / "others")
    assert not checkpoint_file(home, 11).exists()
    last.write_bytes(good)
    assert sign_checkpoint(home, backup=backup).size == 11
