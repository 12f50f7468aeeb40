"""The checks of the overview: damage of the log is shown before a verify has found it."""

from pathlib import Path

from projections.web.answers import Redactor
from projections.web.views.vitals import take_sample
from tests.harness.read_side import append, project
from tests.harness.signals import signals


def test_damage_that_keeps_the_table_from_going_on_is_shown_without_a_verify(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    append(home, *signals(3, start=4))
    assert take_sample(home, Redactor(home)).damage is None  # only late
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"symbol":"', b'"symbol":"X', 1)
    segment.write_bytes(b"".join(lines))
    damage = take_sample(home, Redactor(home)).damage
    assert damage is not None
    assert "4" in damage
