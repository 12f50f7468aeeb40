"""A backup whose directory others write to, or whose files share their bytes with other files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.forked import forked, moments
from tests.harness.log_checks import assert_valid_log, segments_in, tree_contents
from tests.harness.mounts import mounted
from tests.harness.read_side import append
from tests.harness.signals import signals

TEXT = b"a file that has nothing to do with the backup\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


@pytest.fixture
def dest(home: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "dest"
    back_up(home, dest)
    return dest


def back_up(home: Path, dest: Path) -> None:
    done = forked("backup", dest, home=home)
    assert done.code == 0, done.err


def first_segment(root: Path) -> Path:
    return segments_in(root)[0]


def assert_log_is_whole(home: Path, entries: int) -> None:
    assert len(assert_valid_log(home)) == entries
    done = forked("verify", home=home)
    assert done.code == 0, done.out.decode() + done.err


def assert_backup_is_whole(home: Path, dest: Path) -> None:
    """This run completed the backup, or the next one does without interference."""
    back_up(home, dest)
    done = forked("backup", "--verify", dest, home=home)
    assert done.code == 0, done.out.decode() + done.err
    assert first_segment(dest).stat().st_nlink == 1
    assert first_segment(dest).stat().st_ino != first_segment(home).stat().st_ino


def test_a_backup_never_cuts_the_live_segment_that_a_copy_was_linked_to(
    home: Path, dest: Path
) -> None:
    """Links the copies to the segments, as `hardlink -t` does to save space."""
    copy = first_segment(dest)
    copy.unlink()
    os.link(first_segment(home), copy)
    append(home, *signals(3, start=4))
    done = forked("backup", dest, home=home)
    assert done.code in (0, 3), done.err
    assert "Traceback" not in done.err
    assert_log_is_whole(home, 6)
    assert_backup_is_whole(home, dest)


def test_a_backup_never_cuts_a_closed_segment_that_a_copy_was_linked_to(tmp_path: Path) -> None:
    home, dest = tmp_path / "home", tmp_path / "dest"
    for number in range(1, 13):
        append(home, *signals(1, start=number), segment_bytes=1_500)
    back_up(home, dest)
    for segment in segments_in(home):
        (dest / "logs" / segment.name).unlink()
        os.link(segment, dest / "logs" / segment.name)
    before = len(segments_in(home))
    for number in range(13, 20):
        append(home, *signals(1, start=number), segment_bytes=1_500)
    assert len(segments_in(home)) > before > 2
    done = forked("backup", dest, home=home)
    assert done.code in (0, 3), done.err
    assert_log_is_whole(home, 19)
    assert_backup_is_whole(home, dest)


def test_a_snapshot_of_the_backup_by_hard_links_keeps_its_bytes(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """`cp -al` and rsnapshot keep generations of a directory so: a file is replaced."""
    generation = tmp_path / "generation"
    shutil.copytree(dest, generation, copy_function=os.link)
    before = tree_contents(generation)
    append(home, *signals(3, start=4))
    back_up(home, dest)
    assert tree_contents(generation) == before
    assert_backup_is_whole(home, dest)


def test_a_repaired_copy_leaves_the_file_that_it_was_linked_to(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """The linked file is longer than what the backup lists: it is not cut to that length."""
    other = tmp_path / "other"
    other.write_bytes(first_segment(home).read_bytes() + TEXT)
    copy = first_segment(dest)
    copy.unlink()
    os.link(other, copy)
    before = other.read_bytes()
    done = forked("backup", dest, home=home)
    assert done.code in (0, 3), done.err
    assert other.read_bytes() == before
    assert_backup_is_whole(home, dest)


def test_a_copy_with_a_second_name_is_replaced_by_a_file_of_its_own(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """A writer of the other name could change the bytes after they were checked."""
    other = tmp_path / "other"
    os.link(first_segment(dest), other)
    before = other.read_bytes()
    back_up(home, dest)
    assert other.read_bytes() == before
    assert other.stat().st_nlink == 1
    assert_backup_is_whole(home, dest)


def test_a_file_that_a_run_left_behind_is_replaced_and_not_written_through(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """Links that wait at the temporary names of a backup: symbolic ones and hard ones."""
    victim = tmp_path / "victim"
    victim.write_bytes(TEXT)
    os.symlink(victim, dest / ".backup.json.new")
    os.link(victim, dest / "logs" / f".{first_segment(home).name}.new")
    append(home, *signals(3, start=4))
    back_up(home, dest)
    assert victim.read_bytes() == TEXT
    assert_backup_is_whole(home, dest)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["the log of the home", "longer copies elsewhere"])
def test_a_link_swapped_in_at_any_moment_leads_a_backup_nowhere(
    home: Path, dest: Path, tmp_path: Path, target: str
) -> None:
    append(home, *signals(3, start=4))  # longer than what the backup lists
    restore = saved(home, dest)
    to = home / "logs"
    if target != "the log of the home":
        to = tmp_path / "elsewhere"
        shutil.copytree(dest / "logs", to)
        with next(to.glob("*.jsonl")).open("ab") as copy:
            copy.write(TEXT)
    before = tree_contents(to)
    for moment in moments():
        restore()
        done = forked("backup", dest, home=home, nth=moment.number, swap=dest / "logs", to=to)
        moment.has_come(done.fired)
        assert done.code in (0, 3), (moment, done)
        assert tree_contents(to) == before, (moment, done)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["backup.json", "backup.lock", ".backup.json.new"])
def test_a_file_of_the_backup_swapped_for_a_link_at_any_moment_changes_no_other_file(
    home: Path, dest: Path, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(TEXT)
    append(home, *signals(3, start=4))
    restore = saved(home, dest)
    for moment in moments():
        restore()
        done = forked("backup", dest, home=home, nth=moment.number, swap=dest / name, to=victim)
        moment.has_come(done.fired)
        assert done.code in (0, 3), (moment, done)
        assert victim.read_bytes() == TEXT, (moment, done)


@pytest.mark.slow
def test_a_drill_whose_scratch_directory_is_swapped_changes_nothing_elsewhere(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """An account that may write to DEST can put a link where `backup --verify` restores."""
    victim = tmp_path / "victim"
    (victim / "logs").mkdir(parents=True)
    (victim / "kept").write_bytes(TEXT)
    victim.chmod(0o700)
    before = tree_contents(victim)
    restore = saved(home, dest)
    for moment in moments():
        restore()
        swap = dest / ".eventlog-scratch-*"
        done = forked(
            "backup", "--verify", dest, home=home, nth=moment.number, swap=swap, to=victim
        )
        moment.has_come(done.fired)
        assert tree_contents(victim) == before, (moment, done)
        assert done.code in (0, 1, 3), (moment, done)
        assert "Traceback" not in done.err, (moment, done)


def saved(*roots: Path) -> Callable[[], None]:
    """Puts directories back to what they are now."""
    kept = roots[0].parent / "kept"
    for root in roots:
        shutil.copytree(root, kept / root.name, symlinks=True)

    def restore() -> None:
        for root in roots:
            for found in root.parent.glob(f"{root.name}*"):
                shutil.rmtree(found)
            shutil.copytree(kept / root.name, root, symlinks=True)

    return restore


def test_a_backup_into_the_logs_own_directory_is_refused(
    home: Path, dest: Path, tmp_path: Path
) -> None:
    """A bind mount gives the log's directory a second path, without any link."""
    before = tree_contents(home / "logs")
    shutil.rmtree(dest / "logs")
    (dest / "logs").mkdir()
    script = 'mount --bind "$1/logs" "$2/logs"'
    done = eventlog("backup", dest, home=home, under=mounted(script, home, dest))
    assert done.code == 3, done
    assert "the log's own directory" in done.err
    assert tree_contents(home / "logs") == before
