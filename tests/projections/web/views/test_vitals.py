"""The verdict on a damaged log: the damage is shown before a verify has found it."""

from pathlib import Path

from projections.web.answers import Redactor
from projections.web.views.verdict import BAD, verdict
from projections.web.views.vitals import take_sample
from tests.harness.read_side import append, project
from tests.harness.signals import signals


def bad_reasons(home: Path) -> list[str]:
    """The reasons of the level `bad`."""
    found = take_sample(home, Redactor(home))
    reasons = verdict(found.projections, problem=None, findings=found.findings)["reasons"]
    assert isinstance(reasons, list)
    return [reason["text"] for reason in reasons if reason["level"] == BAD]


def test_damage_that_keeps_the_table_from_going_on_is_shown_once_and_without_a_verify(
    home: Path,
) -> None:
    append(home, *signals(3))
    project(home)
    append(home, *signals(3, start=4))
    assert bad_reasons(home) == []  # only late
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"symbol":"', b'"symbol":"X', 1)
    segment.write_bytes(b"".join(lines))
    (reason,) = bad_reasons(home)
    assert "entry 4 does not match its chain" in reason
    assert "run `eventlog verify`" in reason
