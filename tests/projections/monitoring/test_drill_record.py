"""The note of the last restore drill, in a `data/` that other accounts may write to."""

import json
import os
import urllib.request
from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import listening
from tests.harness.forked import forked, moments
from tests.harness.mounts import mounted
from tests.harness.read_side import append, project
from tests.harness.shared_data import assert_ended_well, open_to_group
from tests.harness.signals import signals

RECORD = "backup-proven.json"
SECRET = b"what only this account may read and change\n"
HUGE_BYTES = 3 << 40  # sparse: it takes no space


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    project(home)
    open_to_group(home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", [f".{RECORD}.new", RECORD])
def test_a_link_swapped_in_at_any_moment_has_no_other_file_overwritten(
    home: Path, tmp_path: Path, name: str
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    assert_ended_well(forked("backup", dest, home=home))
    victim.write_bytes(SECRET)
    victim.chmod(0o600)
    for moment in moments():
        for found in (home / "data").glob(f"*{RECORD}*"):
            found.unlink()
        done = forked(
            *("backup", "--verify", dest),
            home=home,
            nth=moment.number,
            about=RECORD,
            swap=home / "data" / name,
            to=victim,
        )
        moment.has_come(done.fired)
        assert victim.read_bytes() == SECRET, (moment, done)
        assert victim.stat().st_mode & 0o777 == 0o600, (moment, done)
        assert done.code in (0, 3), (moment, done)


def test_a_drill_replaces_whatever_stands_where_its_note_belongs(
    home: Path, tmp_path: Path
) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    assert_ended_well(forked("backup", dest, home=home))
    victim.write_bytes(SECRET)
    os.symlink(victim, home / "data" / RECORD)
    os.mkfifo(home / "data" / f".{RECORD}.new")
    assert_ended_well(forked("backup", "--verify", dest, home=home))
    assert victim.read_bytes() == SECRET
    (answer,) = forked("status", "--json", home=home).answers
    assert answer["backup"]["proven_seq"] == 3
    assert not (home / "data" / RECORD).is_symlink()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def deep_json(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


def deep_json_within_the_limit(path: Path) -> None:
    path.write_bytes(b"[" * 20_000)


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE_BYTES)


def a_link_to_zeros(path: Path) -> None:
    os.symlink("/dev/zero", path)


def a_link_elsewhere(path: Path) -> None:
    record = {"proven_seq": 3, "chain": "", "proven_at": "2025-11-19T00:00:00Z", "dest": "no"}
    other = path.with_name("other.json")
    other.write_text(json.dumps(record))
    os.symlink(other, path)


def a_directory(path: Path) -> None:
    path.mkdir()


def bad_fields(path: Path) -> None:
    fields = {"proven_seq": "3", "chain": 5, "proven_at": "0001-01-01T00:00:00", "dest": ["no"]}
    path.write_text(json.dumps(fields))


ODD_NOTES = [
    *(
        deep_json_within_the_limit,
        a_fifo,
        deep_json,
        a_huge_file,
        a_link_to_zeros,
        a_link_elsewhere,
        a_directory,
        bad_fields,
    )
]
MEMORY_BYTES_MAX = 4 << 30  # what would take more ends at once


@pytest.mark.parametrize("odd", ODD_NOTES)
def test_status_shows_no_drill_where_something_else_stands_in_place_of_its_note(
    home: Path, odd: object
) -> None:
    assert callable(odd)
    odd(home / "data" / RECORD)
    done = forked("status", "--json", home=home, memory_bytes=MEMORY_BYTES_MAX)
    assert_ended_well(done)
    assert done.answers[0]["backup"] is None
    assert done.answers[0]["projections"]["sqlite"]["rows"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD_NOTES)
def test_a_daemon_answers_and_stops_while_something_else_stands_in_place_of_the_note(
    home: Path, odd: object
) -> None:
    with listening(home, "sqlite") as (d, url):
        assert callable(odd)
        odd(home / "data" / RECORD)
        for path in ("/health", "/metrics"):
            with urllib.request.urlopen(url + path, timeout=15) as answer:
                assert answer.status == 200, path
        d.process.terminate()
        assert d.process.wait(10) == 0  # P1: within ten seconds
        assert "Traceback" not in d.err


def test_a_drill_whose_note_cannot_be_written_is_still_a_proof(home: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert_ended_well(forked("backup", dest, home=home))
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    under = mounted(script, home / "data")
    done = eventlog("backup", "--verify", dest, home=home, under=under)
    assert_ended_well(done)
    assert b"proven restorable" in done.out
