"""`doctor` on what was signed: the key, the age of the checkpoint, the tree."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from projections.doctor.evidence import check_evidence
from projections.doctor.finding import NOTE, OK, PROBLEM, WARNING
from projections.doctor.home import check_permissions
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.raw_log import RawLog
from tests.harness.read_side import append
from tests.harness.signals import a_signal, signals

LINES = 5


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A home whose entries are old, and signed."""
    home = tmp_path / "home"
    RawLog(home).add([("signal", a_signal(number)) for number in range(1, LINES + 1)])
    create_key(home, "log.example/main")
    sign_checkpoint(home)
    return home


def add_old_lines(home: Path) -> None:
    log = RawLog(home)
    log.lines = (home / "logs" / f"{1:020}.jsonl").read_bytes().splitlines(keepends=True)
    log.add([("signal", a_signal(number)) for number in range(LINES + 1, LINES + 3)])


def become_replica(home: Path) -> None:
    (home / "logs" / ".replica").write_bytes(b'{"stream":"main","epoch":1}')


def remove(name: str) -> Callable[[Path], None]:
    return lambda home: (home / "evidence" / name).unlink()


def open_the_key(home: Path) -> None:
    (home / "evidence" / "key").chmod(0o640)


def lag_on_a_replica(home: Path) -> None:
    add_old_lines(home)
    become_replica(home)
    remove("key")(home)


def restore(home: Path) -> None:
    (home / "evidence" / "restored").touch()
    remove("key")(home)


def cut_the_log(home: Path) -> None:
    log = RawLog(home)
    log.lines = (home / "logs" / f"{1:020}.jsonl").read_bytes().splitlines(keepends=True)
    log.cut(2)


def append_now(home: Path) -> None:
    append(home, *signals(2, start=100))


SIGNED = (OK, "5 entries are signed")
CASES: dict[str, tuple[Callable[[Path], None], list[tuple[str, str]]]] = {
    "nothing wrong": (lambda home: None, [SIGNED]),
    "entries of today": (append_now, [SIGNED]),
    "an open key": (open_the_key, [(PROBLEM, "other accounts may use key"), SIGNED]),
    "no key": (remove("key"), [(WARNING, "there is no key"), SIGNED]),
    "no vkey": (remove("vkey"), [(WARNING, "there is no vkey"), SIGNED]),
    "restored": (restore, [(WARNING, "this home was restored from a backup"), SIGNED]),
    "old entries": (
        add_old_lines,
        [(WARNING, "no checkpoint covers the last 2 entries, the oldest since"), SIGNED],
    ),
    "a replica": (
        lag_on_a_replica,
        [(NOTE, "no checkpoint covers the last 2 entries"), SIGNED],
    ),
    "a cut log": (
        cut_the_log,
        [(PROBLEM, "5 entries were signed, and the log ends before that"), SIGNED],
    ),
    "no tree": (
        lambda home: shutil.rmtree(home / "data" / "tree"),
        [SIGNED, (NOTE, "the tree does not cover all")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_problem_is_found_and_nothing_else(signed: Path, name: str) -> None:
    change, expected = CASES[name]
    change(signed)
    found = list(check_evidence(signed))
    assert [finding.level for finding in found] == [level for level, _ in expected]
    for finding, (_, start) in zip(found, expected, strict=True):
        assert finding.found.startswith(start)


def test_a_home_without_evidence_has_no_finding(home: Path) -> None:
    append(home, *signals(1))
    assert list(check_evidence(home)) == []


def test_the_permissions_of_what_is_kept_are_checked(home: Path) -> None:
    append(home, *signals(1))
    create_key(home, "log.example/main")
    assert [finding.level for finding in check_permissions(home)] == [OK]
    (home / "evidence" / "vkey").chmod(0o666)
    levels = [finding.level for finding in check_permissions(home)]
    assert sorted(levels) == [PROBLEM, WARNING]
