"""An open directory: its files are reached through its descriptor, whatever its path leads to."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.errors import UnsafePath
from eventlog.storage.directory import Directory
from eventlog.storage.locks import FileLock
from tests.harness.fault_disk import FaultDisk
from tests.harness.privileges import bound_by_modes

TEXT = b"of somebody else\n"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(TEXT)
    return elsewhere


@pytest.fixture
def moved(tmp_path: Path, elsewhere: Path) -> Iterator[tuple[Directory, Path]]:
    """A directory that is open while a link to another one stands at its path."""
    path, real = tmp_path / "directory", tmp_path / "real"
    path.mkdir()
    with Directory.open(path) as directory:
        path.rename(real)
        path.symlink_to(elsewhere)
        yield directory, real


def test_each_change_is_made_in_the_directory_that_was_opened(
    moved: tuple[Directory, Path], elsewhere: Path
) -> None:
    directory, real = moved
    os.close(directory.create("file"))
    directory.replace("file", b"ours\n")
    directory.rename("file", "ours")
    directory.make_subdirectory("sub").close()
    with directory.replacing("new") as fd:
        os.write(fd, b"1")
    assert sorted(directory.names()) == sorted(os.listdir(real)) == ["new", "ours", "sub"]
    assert directory.read("ours", 100) == b"ours\n"
    assert directory.identity("file") is None
    directory.unlink("new")
    directory.sync()
    assert sorted(os.listdir(real)) == ["ours", "sub"]
    assert os.listdir(elsewhere) == ["file"]
    assert (elsewhere / "file").read_bytes() == TEXT


def test_a_lock_is_taken_in_the_directory_that_was_opened(
    moved: tuple[Directory, Path], elsewhere: Path
) -> None:
    directory, real = moved
    for covers_directory in (False, True):
        lock, other = (
            FileLock("lock", dir_fd=directory.fd, covers_directory=covers_directory)
            for _ in range(2)
        )
        assert lock.try_take()
        assert not other.try_take()
        assert other.is_held()
        lock.drop()
        other.drop()
    assert os.listdir(real) == ["lock"]
    assert os.listdir(elsewhere) == ["file"]


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory"])
def test_no_file_is_opened_or_written_through_another_kind_of_file(
    tmp_path: Path, elsewhere: Path, kind: str
) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    odd = path / "odd"
    if kind == "link":
        odd.symlink_to(elsewhere / "file")
    elif kind == "dangling":
        odd.symlink_to(elsewhere / "nothing")
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.mkdir()
    with Directory.open(path) as directory:
        for writable in (False, True):
            with pytest.raises(UnsafePath):
                directory.open_file("odd", writable=writable)
        with pytest.raises(UnsafePath):
            directory.read("odd", 100)
        with pytest.raises(FileExistsError):
            directory.create("odd")
        assert directory.identity("odd") is None
    assert os.listdir(elsewhere) == ["file"]
    assert (elsewhere / "file").read_bytes() == TEXT


def test_a_link_to_a_directory_is_no_directory(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "file").write_bytes(TEXT)
    with Directory.open(tmp_path) as directory:
        for name in ("link", "file"):
            with pytest.raises(UnsafePath):
                directory.subdirectory(name)
            with pytest.raises(UnsafePath):
                directory.subdirectory(name, create=True)
            with pytest.raises(FileExistsError):
                directory.make_subdirectory(name)
            with pytest.raises(UnsafePath):
                Directory.open(tmp_path / name)
    with Directory.open(tmp_path / "link", follow=True) as directory:
        assert directory.names() == ["file"]


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_directories_and_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Directory.open(tmp_path) as directory, directory.make_subdirectory("made") as made:
            os.close(made.create("file"))
            made.replace("replaced", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    for name in ("file", "replaced"):
        assert stat.S_IMODE((tmp_path / "made" / name).stat().st_mode) == 0o600


def test_an_account_whose_umask_takes_its_own_bits_makes_directories(tmp_path: Path) -> None:
    code = "import os, sys; os.umask(0o777); from eventlog.storage.disk import RealDisk\n"
    code += "RealDisk().make_dir(sys.argv[1])"
    words = [*bound_by_modes(), sys.executable, "-c", code, str(tmp_path / "made")]
    subprocess.run(words, check=True)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


def test_a_directory_that_stands_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o2750)
    with Directory.open(tmp_path) as directory:
        directory.subdirectory("data", create=True).close()
        assert stat.S_IMODE(directory.stat("data").st_mode) == 0o2750


def test_a_file_larger_than_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with Directory.open(tmp_path) as directory:
        assert directory.read("file", 5) == b"12345"
        for name, limit in (("file", 4), ("sparse", 1 << 16)):
            with pytest.raises(UnsafePath, match=f"more than {limit} bytes"):
                directory.read(name, limit)


def test_each_call_of_a_directory_can_be_made_to_fail(tmp_path: Path) -> None:
    """So that the tests of what writes through it reach each of its steps."""
    disk = FaultDisk()
    with Directory.open(tmp_path, disk=disk) as directory:
        for kind in ("create", "pwrite", "fdatasync", "rename", "fsync_dir"):
            fault = disk.fail(kind)
            with pytest.raises(OSError):
                directory.replace("file", b"data")
            assert fault.fired, kind
            assert disk.calls[-1].path.startswith(str(tmp_path))
        directory.replace("file", b"data")
    assert os.listdir(tmp_path) == ["file"]
