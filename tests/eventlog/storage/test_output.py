"""Output files: whole under their name or not there, and never in a home."""

import os
from pathlib import Path

import pytest

from eventlog.errors import UnsafePath
from eventlog.storage.output import output_file, refuse_in_home
from tests.harness.read_side import append
from tests.harness.signals import signals

OLD, NEW = b"what stood there\n", b"what is new\n"


def write(path: Path, data: bytes, error: Exception | None, *, keeps_partial: bool) -> None:
    with output_file(path, home=path.parent / "home", keeps_partial=keeps_partial) as file:
        file.write(data)
        if error is not None:
            raise error


@pytest.mark.parametrize("keeps_partial", [False, True])
@pytest.mark.parametrize("data", [b"", NEW])
def test_what_was_written_before_an_error_is_kept_only_where_it_is_wanted(
    tmp_path: Path, data: bytes, keeps_partial: bool
) -> None:
    path = tmp_path / "output"
    path.write_bytes(OLD)
    with pytest.raises(ValueError, match="early"):
        write(path, data, ValueError("early"), keeps_partial=keeps_partial)
    assert path.read_bytes() == (data if data and keeps_partial else OLD)
    write(path, NEW, None, keeps_partial=keeps_partial)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["output"]


def test_a_name_that_a_killed_run_left_is_not_reused(tmp_path: Path) -> None:
    left = tmp_path / f".output.{os.getpid()}.part"
    left.write_bytes(OLD)
    write(tmp_path / "output", NEW, None, keeps_partial=False)
    assert left.read_bytes() == OLD
    assert (tmp_path / "output").read_bytes() == NEW


def test_a_directory_is_a_home_by_what_it_holds(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    append(home, *signals(1))
    (other / "logs").mkdir(parents=True)
    (other / "logs" / "app.log").write_bytes(OLD)
    refuse_in_home(other)
    refuse_in_home(other / "logs" / "new")
    refuse_in_home(tmp_path)
    for inside in (home, home / "logs", home / "data" / "not" / "yet"):
        with pytest.raises(UnsafePath, match="in a home"):
            refuse_in_home(inside)
    for left in (".lock", ".durable", "signals.log"):
        (home / "logs" / left).unlink()
    with pytest.raises(UnsafePath, match="in a home"):
        refuse_in_home(home)
    with pytest.raises(UnsafePath, match="in a home"):
        refuse_in_home(other / "sub", home=other)
