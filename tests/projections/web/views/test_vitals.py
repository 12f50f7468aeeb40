"""The verdict on the figures of a home: damage without a verify, and what a replica leaves out."""

from pathlib import Path

from eventlog.plumbing import ReplicaLog, ReplicaState
from projections.web.answers import Redactor
from projections.web.views.verdict import BAD, WARN, verdict
from projections.web.views.vitals import take_sample
from tests.harness.read_side import append, project
from tests.harness.signals import signals


def reasons(home: Path, level: str) -> list[str]:
    """The reasons of a level."""
    found = take_sample(home, Redactor(home))
    every = verdict(found.watched, problem=None, findings=found.findings)["reasons"]
    assert isinstance(every, list)
    return [reason["text"] for reason in every if reason["level"] == level]


def daemons(home: Path) -> object:
    """The text of the check of the daemons."""
    found = take_sample(home, Redactor(home)).checks
    return next(each["text"] for each in found if each["name"] == "daemons")


def test_damage_that_keeps_the_table_from_going_on_is_shown_once_and_without_a_verify(
    home: Path,
) -> None:
    append(home, *signals(3))
    project(home)
    append(home, *signals(3, start=4))
    assert reasons(home, BAD) == []  # only late
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"symbol":"', b'"symbol":"X', 1)
    segment.write_bytes(b"".join(lines))
    (reason,) = reasons(home, BAD)
    assert "entry 4 does not match its chain" in reason
    assert "run `eventlog verify`" in reason


def test_a_replica_is_not_expected_to_deliver(home: Path) -> None:
    """`project all` leaves delivery out there: the primary delivers."""
    append(home, *signals(3))
    project(home)
    table = "No process keeps the table up to date"
    delivery = "Nothing is being delivered: no process delivers"
    assert reasons(home, WARN) == [table, delivery]
    assert daemons(home) == "Not running: alpine, sqlite"
    log = ReplicaLog.open(home)
    log.begin(ReplicaState(stream="main"), log.catch_up())
    log.close()
    assert reasons(home, WARN) == [table]
    assert daemons(home) == "Not running: sqlite"
