"""The number of signals above a page: that of the table, at every entry."""

import os
from pathlib import Path

import pytest

from projections.queries.table import read_home
from projections.serving.app import QueryParams
from projections.sqlite.database import database_path
from projections.web.views import signals as view
from projections.web.views.moment import Moments
from projections.web.views.signals import SignalCount, count_signals
from tests.harness.read_side import append, project
from tests.harness.signals import closed, signals


def count_at(home: Path, counted: SignalCount, seq: int) -> int:
    return read_home(home, lambda database: counted.at(database, seq))


def test_signals_are_counted_as_of_any_entry_after_any_other(home: Path) -> None:
    append(home, *signals(3), closed(1), closed(2))
    project(home)
    counted = SignalCount(home)
    expected = [0, 1, 2, 3, 3, 3]
    for seq in (5, 2, 0, 4, 3, 1, 5):
        assert count_at(home, counted, seq) == expected[seq]
    append(home, *signals(2, start=4))
    project(home)
    assert count_at(home, counted, 7) == 5


def test_signals_of_another_table_are_counted_anew(home: Path, tmp_path: Path) -> None:
    """As after a restore, or where the table was rebuilt."""
    for where, items in ((home, signals(3)), (tmp_path / "other", [*signals(1), closed(1)])):
        append(where, *items)
        project(where)
    counted = SignalCount(home)
    assert count_at(home, counted, 3) == 3
    os.replace(database_path(tmp_path / "other"), database_path(home))
    assert count_at(home, counted, 2) == 1
    assert count_at(home, counted, 0) == 0


@pytest.mark.parametrize("limit", [("COUNT_MAX", 2), ("COUNT_S_MAX", 0.0)])
def test_a_count_ends_at_its_limits_and_says_so(
    home: Path, limit: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    append(home, *signals(3))
    project(home)
    monkeypatch.setattr(view, *limit)
    found = count_signals(home, Moments(home), QueryParams("symbol=AAPL"))
    assert (found["count"], found["complete"]) == (2 if limit[0] == "COUNT_MAX" else 0, False)
