"""Options that name a file or directory to write: none writes into a home or through a link."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.command import Done
from tests.harness.forked import forked
from tests.harness.log_checks import assert_valid_log, segments_in, tree_contents
from tests.harness.read_side import append, project
from tests.harness.shared_data import assert_ended_well
from tests.harness.signals import a_signal, signals

LINE = json.dumps(a_signal(9)).encode() + b"\n"
SECRET = b"what has nothing to do with it\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    project(home)
    return home


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """An old tracker's log with one line that cannot pass."""
    path = tmp_path / "legacy.log"
    good = a_signal(1) | {"timestamp": "2025-01-01T00:00:00"}
    path.write_text(json.dumps(good) + "\n" + '{"signal_id":"bad","symbol":""}\n')
    return path


def run_import(home: Path, legacy: Path, rejects: Path, *, umask: int = -1) -> Done:
    words = ("import-legacy", "--log", legacy, "--rejects", rejects)
    return forked(*words, home=home, umask=umask)


def assert_refused_cleanly(done: Done) -> None:
    assert done.code in (2, 3), done
    assert "Traceback" not in done.err


IN_A_HOME = ["logs/00000000000000000001.jsonl", "logs/.lock", "logs/.durable", "logs/signals.log"]
IN_A_HOME += ["logs/new.jsonl", "logs/.accepted", "data/signals.db", "data/new", "new", "run/new"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_HOME)
@pytest.mark.parametrize("which", ["its own home", "another home"])
def test_rejects_never_go_into_a_home(
    home: Path, legacy: Path, tmp_path: Path, name: str, which: str
) -> None:
    new = home if which == "its own home" else tmp_path / "new-home"
    before = tree_contents(home / "logs")
    database = (home / "data" / "signals.db").read_bytes()
    done = run_import(new, legacy, home / name)
    assert_refused_cleanly(done)
    assert tree_contents(home / "logs") == before
    assert (home / "data" / "signals.db").read_bytes() == database
    assert not (home / name).exists() or name in {*IN_A_HOME[:4], "data/signals.db"}
    assert_valid_log(home)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_HOME)
@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_an_export_never_goes_into_a_home(home: Path, name: str, format_: str) -> None:
    before = tree_contents(home / "logs")
    database = (home / "data" / "signals.db").read_bytes()
    words = ("export", "--format", format_, "--output", home / name)
    done = forked(*words, home=home)
    assert_refused_cleanly(done)
    assert tree_contents(home / "logs") == before
    assert (home / "data" / "signals.db").read_bytes() == database
    assert not (home / name).exists() or name in {*IN_A_HOME[:4], "data/signals.db"}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a link to the directory", "dots", "a link to the home"])
def test_a_home_is_recognised_by_whatever_path_it_is_named(
    home: Path, legacy: Path, tmp_path: Path, way: str
) -> None:
    before = tree_contents(home / "logs")
    segment = segments_in(home)[0].name
    if way == "dots":
        outputs = [home / "data" / ".." / "logs" / segment]
    elif way == "a link to the directory":
        os.symlink(home / "logs", tmp_path / "link")
        outputs = [tmp_path / "link" / segment, tmp_path / "link" / "new"]
    else:
        os.symlink(home, tmp_path / "link")
        outputs = [tmp_path / "link" / "logs" / segment, tmp_path / "link" / "new"]
    for output in outputs:
        assert_refused_cleanly(run_import(tmp_path / "new-home", legacy, output))
        done = forked("export", "--output", output, home=home)
        assert_refused_cleanly(done)
    assert tree_contents(home / "logs") == before
    assert not (home / "new").exists()


@pytest.mark.slow
def test_an_output_is_never_written_through_a_link(
    home: Path, legacy: Path, tmp_path: Path
) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(SECRET)
    os.symlink(victim, link)
    dangling, nowhere = tmp_path / "dangling", tmp_path / "nowhere"
    os.symlink(nowhere, dangling)
    for output in (link, dangling):
        assert_refused_cleanly(run_import(tmp_path / "new-home", legacy, output))
        assert_refused_cleanly(forked("export", "--output", output, home=home))
    assert victim.read_bytes() == SECRET
    assert not nowhere.exists()


@pytest.mark.slow
def test_the_metadata_beside_an_export_is_never_written_through_a_link(
    home: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    os.symlink(victim, tmp_path / "out.csv.meta.json")
    done = forked("export", "--output", tmp_path / "out.csv", home=home)
    assert_refused_cleanly(done)
    assert victim.read_bytes() == SECRET


@pytest.mark.slow
def test_a_file_that_stands_is_replaced_whole_and_never_cut_in_place(
    home: Path, legacy: Path, tmp_path: Path
) -> None:
    for command in ("import", "export"):
        output, other = tmp_path / f"{command}.out", tmp_path / f"{command}.other"
        output.write_bytes(SECRET)
        os.link(output, other)
        if command == "import":
            assert run_import(tmp_path / "new-home", legacy, output).code == 1
        else:
            assert_ended_well(forked("export", "--output", output, home=home))
        assert other.read_bytes() == SECRET, command
        assert output.read_bytes() != SECRET


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0, 0o022])
def test_an_output_is_for_this_account_alone_whatever_the_umask(
    home: Path, legacy: Path, tmp_path: Path, umask: int
) -> None:
    rejects, output = tmp_path / "rejects", tmp_path / "out.csv"
    assert run_import(tmp_path / "new-home", legacy, rejects, umask=umask).code == 1
    done = forked("export", "--output", output, home=home, umask=umask)
    assert_ended_well(done)
    for path in (rejects, output, tmp_path / "out.csv.meta.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.slow
def test_rejects_of_an_import_that_cannot_run_leave_the_file_that_stood_there(
    home: Path, legacy: Path, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects"
    rejects.write_bytes(SECRET)
    broken = tmp_path / "not-a-database"
    broken.write_bytes(b"no database at all")
    words = ("import-legacy", "--db", broken, "--rejects", rejects)
    done = forked(*words, home=tmp_path / "new-home")
    assert done.code == 3
    assert rejects.read_bytes() == SECRET


@pytest.mark.slow
def test_rejects_never_wait_for_the_reader_of_a_fifo(legacy: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused_cleanly(run_import(tmp_path / "new-home", legacy, tmp_path / "pipe"))


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["logs", "data", "."])
def test_scratch_directories_are_never_in_a_home(home: Path, tmp_path: Path, inside: str) -> None:
    """Also where another process could look at them as if they were part of it."""
    dest = tmp_path / "dest"
    assert_ended_well(forked("backup", dest, home=home))
    before = tree_contents(home)
    words = ("backup", "--verify", dest, "--scratch", home / inside)
    assert_refused_cleanly(forked(*words, home=home))
    trial = ("doctor", "--disk", home / inside, "--seconds", "1")
    assert_refused_cleanly(forked(*trial, home=home))
    assert tree_contents(home) == before


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["logs/new", "data/new", "new"])
def test_a_backup_never_goes_into_another_home(home: Path, tmp_path: Path, inside: str) -> None:
    other = tmp_path / "other"
    append(other, *signals(2))
    before = tree_contents(other)
    assert_refused_cleanly(forked("backup", other / inside, home=home))
    assert tree_contents(other) == before


def linked_archive(home: Path) -> Path:
    """The documented layout: closed segments are on another disk, behind a link."""
    archive = home.parent / "archive"
    archive.mkdir()
    (home / "logs/closed").symlink_to(archive)
    assert forked("append", "--segment-bytes", "1", home=home, stdin=LINE).code == 0
    assert forked("compress", home=home).code == 0
    return next(archive.glob("*.zst"))


def linked_logs(home: Path) -> Path:
    (home / "logs").rename(home.parent / "volume")
    (home / "logs").symlink_to(home.parent / "volume")
    return home.parent / "volume" / segments_in(home)[0].name


def linked_data(home: Path) -> Path:
    (home / "data").rename(home.parent / "volume")
    (home / "data").symlink_to(home.parent / "volume")
    return home.parent / "volume" / "signals.db"


@pytest.mark.parametrize("layout", [linked_archive, linked_logs, linked_data])
@pytest.mark.parametrize("which", ["its own home", "another home"])
def test_no_output_replaces_a_file_of_a_home_that_is_reached_by_another_path(
    home: Path, legacy: Path, layout: Callable[[Path], Path], which: str
) -> None:
    path = layout(home)
    before = path.read_bytes()
    new = home if which == "its own home" else home.parent / "new-home"
    assert_refused_cleanly(forked("export", "--output", path, home=home))
    assert_refused_cleanly(run_import(new, legacy, path))
    assert path.read_bytes() == before
    assert forked("verify", home=home).code == 0


@pytest.mark.parametrize("words", [("doctor", "--disk"), ("backup",)], ids=" ".join)
def test_no_directory_is_made_in_an_archive_of_closed_segments(
    home: Path, words: tuple[str, ...]
) -> None:
    archive = linked_archive(home).parent
    before = tree_contents(archive)
    assert_refused_cleanly(forked(*words, archive / "new", home=home))
    assert tree_contents(archive) == before
