"""Links that another account puts in the place of what is created in `data/` (mode 2770)."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.forked import forked, moments
from tests.harness.log_checks import assert_valid_log, tree_contents
from tests.harness.read_side import append, project
from tests.harness.shared_data import open_to_group
from tests.harness.signals import signals
from tests.harness.tables import assert_caught_up, database_of
from tests.harness.tiny_alpine import tiny_alpine

pytestmark = pytest.mark.slow  # a command is run for each of its calls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    open_to_group(home)
    return home


def modes(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): oct(path.lstat().st_mode) for path in root.rglob("*")}


def fresh_data(home: Path) -> Callable[[], None]:
    """Puts `data/` back to what it is now; the log is not touched by what is tested here."""
    kept = home.with_name("kept-data")
    shutil.copytree(home / "data", kept)

    def restore() -> None:
        shutil.rmtree(home / "data")
        shutil.rmtree(home / "run", ignore_errors=True)
        shutil.copytree(kept, home / "data")
        open_to_group(home)

    return restore


def a_database(path: Path) -> bytes:
    """A database of the service's own, which is nobody else's business."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE accounts(owner TEXT, balance REAL)")
        db.execute("INSERT INTO accounts VALUES ('service', 1.0)")
        db.commit()
    path.chmod(0o600)
    return path.read_bytes()


@pytest.mark.parametrize("has_table", [False, True])
def test_a_scratch_directory_swapped_for_a_link_never_opens_the_log_to_others(
    home: Path, has_table: bool
) -> None:
    if has_table:
        project(home)
    before, modes_before = tree_contents(home / "logs"), modes(home / "logs")
    restore = fresh_data(home)
    for moment in moments():
        restore()
        swap = home / "data" / ".rebuild-*"
        done = forked("rebuild-database", home=home, nth=moment.number, swap=swap, to=home / "logs")
        moment.has_come(done.fired)
        assert (home / "logs").stat().st_mode & 0o7777 == 0o700, (moment, done)
        assert modes(home / "logs") == modes_before, (moment, done)
        assert tree_contents(home / "logs") == before, (moment, done)
        assert done.code in (0, 3), (moment, done)
    assert_valid_log(home)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("project", "sqlite", "--once"), "signals.db.new"),
        (("project", "sqlite", "--once"), "signals.db"),
        (("rebuild-database",), "signals.db"),
        (("rebuild-database",), ".rebuild-*/signals.db"),
    ],
)
@pytest.mark.parametrize("has_table", [False, True])
@pytest.mark.parametrize("victim", ["a database", "an empty file"])
def test_a_database_swapped_for_a_link_leaves_the_other_file_as_it_is(
    home: Path, tmp_path: Path, command: tuple[str, ...], name: str,
    has_table: bool, victim: str,
) -> None:  # fmt: skip
    if has_table:
        project(home)
        append(home, *signals(2, start=4))
    target = tmp_path / "other.db"
    if victim == "a database":
        a_database(target)
    else:
        target.touch(mode=0o600)
    before = target.read_bytes()
    restore = fresh_data(home)
    for moment in moments():
        restore()
        done = forked(*command, home=home, nth=moment.number, swap=home / "data" / name, to=target)
        moment.has_come(done.fired)
        assert target.read_bytes() == before, (moment, done)
        assert target.stat().st_mode & 0o777 == 0o600, (moment, done)
        assert sorted(path.name for path in tmp_path.glob("other.db*")) == ["other.db"]
        assert done.code in (0, 3), (moment, done)
        assert "Traceback" not in done.err, (moment, done)


def test_a_delivery_state_swapped_for_a_link_leaves_the_other_file_as_it_is(
    home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "other.db"
    before = a_database(target)
    restore = fresh_data(home)
    with tiny_alpine() as alpine:
        for moment in moments():
            restore()
            swap = home / "data" / "alpine.db"
            done = forked(
                "project",
                "alpine",
                "--once",
                home=home,
                env=alpine.env,
                nth=moment.number,
                swap=swap,
                to=target,
            )
            moment.has_come(done.fired)
            assert target.read_bytes() == before, (moment, done)
            assert sorted(path.name for path in tmp_path.glob("other.db*")) == ["other.db"]
            assert done.code in (0, 3), (moment, done)
            assert "Traceback" not in done.err, (moment, done)


def test_a_table_that_is_a_link_to_another_database_of_ours_is_refused(
    home: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    append(other, *signals(7))
    project(other)
    before = database_of(other).read_bytes()
    os.symlink(database_of(other), database_of(home))
    for words in (
        ("project", "sqlite", "--once"),
        ("rebuild-database",),
        ("signals",),
        ("stats",),
        ("digest",),
        ("export",),
    ):
        done = forked(*words, home=home)
        assert done.code == 3, (words, done)
        assert "Traceback" not in done.err, (words, done)
        assert database_of(other).read_bytes() == before, words
    database_of(home).unlink()
    project(home)
    assert_caught_up(home)
