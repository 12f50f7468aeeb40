"""Scratch directories in a directory that another account may write to."""

import fcntl
import os
from pathlib import Path

import pytest

from eventlog import EventLogError
from projections.sqlite.scratch import SCRATCH_PREFIX, scratch_directory


def scratch_in(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"{SCRATCH_PREFIX}*"))


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_a_scratch_directory_is_for_its_owner_alone_and_goes_away(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        with scratch_directory(tmp_path) as path:
            (found,) = scratch_in(tmp_path)
            assert found.stat().st_mode & 0o7777 == 0o700
            assert found.samefile(path)
    finally:
        os.umask(before)
    assert scratch_in(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux has /proc/self/fd")
def test_a_scratch_directory_swapped_for_a_link_is_still_the_one_that_was_made(
    tmp_path: Path,
) -> None:
    parent, victim = tmp_path / "parent", tmp_path / "victim"
    parent.mkdir()
    victim.mkdir()
    (victim / "kept").write_text("kept")
    with scratch_directory(parent) as path:
        (made,) = scratch_in(parent)
        moved = parent / "moved"
        made.rename(moved)
        made.symlink_to(victim)
        (path / "file").write_text("ours")
        (path / "folder").mkdir()
        (path / "folder" / "file").write_text("ours")
        assert sorted(os.listdir(moved)) == ["file", "folder"]
    assert os.listdir(moved) == []
    assert {file.name: file.read_text() for file in victim.iterdir()} == {"kept": "kept"}


def test_an_error_names_the_directory_by_its_own_path(tmp_path: Path) -> None:
    with pytest.raises(EventLogError) as found, scratch_directory(tmp_path) as path:  # noqa: PT012
        (made,) = scratch_in(tmp_path)
        raise EventLogError(f"no space in {path}", where=f"{path}/home")
    assert found.value.what == f"no space in {made}"
    assert found.value.where == f"{made}/home"


def test_a_directory_of_a_killed_owner_is_removed_and_one_that_is_locked_is_not(
    tmp_path: Path,
) -> None:
    stale, in_use, file = (tmp_path / f"{SCRATCH_PREFIX}{name}" for name in ("a", "b", "c"))
    link, victim = tmp_path / f"{SCRATCH_PREFIX}d", tmp_path / "victim"
    for directory in (stale, in_use, victim):
        (directory / "inner").mkdir(parents=True)
        (directory / "inner" / "file").touch()
    file.touch()
    link.symlink_to(victim)
    fd = os.open(in_use, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with scratch_directory(tmp_path):
            assert not stale.exists()
            assert (in_use / "inner" / "file").exists()
            assert (victim / "inner" / "file").exists()
    finally:
        os.close(fd)
