"""The tree over a log of many segments, which several processes hash."""

from pathlib import Path

import pytest

from eventlog import EventLog, LogCorrupt
from projections.evidence.tree import many_leaves
from projections.evidence.tree import projection as tree
from projections.evidence.tree.projection import update_tree
from tests.harness.log_checks import lines_in
from tests.harness.signals import signals
from tests.projections.evidence.tree.test_projection import assert_is_model, root_on_disk

SEGMENT_BYTES = 4096
RUN_LINES = 20


@pytest.fixture
def segments(home: Path) -> list[Path]:
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        for start in range(1, 90):
            log.append_many(signals(1, start=start))
    found = sorted((home / "logs").glob("*.jsonl"))
    assert len(found) > 8
    return found


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_leaves, "RUN_LINES", RUN_LINES)


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_the_tree_is_the_same_however_many_processes_hash_it(
    home: Path, segments: list[Path], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_leaves, "RUNS_AT_ONCE", at_once)
    assert update_tree(home).seq == len(lines_in(home))
    assert_is_model(home)
    with EventLog(home) as log:
        log.append_many(signals(40, start=1000))
    update_tree(home)
    assert_is_model(home)


def test_all_whole_runs_are_added_by_it(
    home: Path, segments: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_batches", lambda _home, _after: ())
    assert update_tree(home).seq == len(lines_in(home)) // RUN_LINES * RUN_LINES


@pytest.mark.parametrize("number", [0, 3, -2])
def test_damage_ends_the_tree_before_it(home: Path, segments: list[Path], number: int) -> None:
    """No run behind a damaged one is added, also where another process has hashed it."""
    damaged = segments[number]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    lines = bytes(data[: len(data) // 2]).count(b"\n")
    damaged.write_bytes(data)
    with pytest.raises(LogCorrupt):
        update_tree(home)
    assert root_on_disk(home)[0] == int(damaged.stem) - 1 + lines
