"""Real pipes are killed at random moments; `python -m tools.crash.kill` is a longer run."""

from pathlib import Path

import pytest

from tools.crash.kill import run

KILLS = 200


@pytest.mark.slow
def test_each_receipt_printed_by_a_killed_pipe_is_in_the_log_once(tmp_path: Path) -> None:
    found = run(tmp_path, kills=KILLS, pipes=4, seed=20251118)
    assert found.kills == KILLS
    assert found.receipts > KILLS  # the processes lived long enough to append
    assert found.problems == []
