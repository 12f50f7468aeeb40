"""A table that was built in `run/` takes its place in `data/`, with the mode and group of there."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projections.rebuild.rebuild import rebuild
from tests.harness.read_side import append, project
from tests.harness.rebuilds import assert_healthy_database, assert_nothing_left
from tests.harness.signals import signals
from tests.harness.tables import assert_caught_up, database_of

GROUP = 54_321  # no group of this machine: only its number counts


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


@pytest.fixture
def elsewhere(home: Path) -> Iterator[Path]:
    """`data/` leads to a directory of another file system."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("there is no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        if os.stat(path).st_dev == home.stat().st_dev:
            pytest.skip("/dev/shm is the file system of the tests")
        (home / "data").rmdir()
        (home / "data").symlink_to(path)
        yield Path(path)


BUILDERS: dict[str, Callable[[Path], object]] = {"project": project, "rebuild": rebuild}


def damage(home: Path) -> None:
    database_of(home).write_bytes(b"no database at all")


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_table_is_built_where_data_is_another_file_system(
    home: Path, elsewhere: Path, builder: str, is_damaged: bool
) -> None:
    if is_damaged:
        damage(home)
    BUILDERS[builder](home)
    assert (elsewhere / "signals.db").stat().st_mode & 0o777 == 0o600
    assert_healthy_database(database_of(home))
    assert_caught_up(home)
    assert_nothing_left(home)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_table_has_the_group_of_a_directory_that_hands_it_down(
    home: Path, builder: str, is_damaged: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give data/ to another group")
    if is_damaged:
        damage(home)
    os.chown(home / "data", -1, GROUP)
    (home / "data").chmod(0o2750)
    BUILDERS[builder](home)
    found = database_of(home).stat()
    assert (found.st_gid, found.st_mode & 0o777) == (GROUP, 0o640)
