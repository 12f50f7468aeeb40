"""Random kills of servers, mirror and follower; `python -m tools.crash.machines` runs longer."""

from pathlib import Path

import pytest

from tools.crash.machines import FOLLOWER, MIRROR, run

SECONDS = 45


@pytest.mark.slow
def test_whatever_counted_as_replicated_survives_random_kills_and_the_replica_is_the_primary(
    tmp_path: Path,
) -> None:
    found = run(tmp_path, seconds=SECONDS, seed=1)
    assert found.problems == []
    assert found.checked > 0  # noted outside the mirror, and looked up in the replica
    assert found.kills[MIRROR] > 0
    assert found.kills[FOLLOWER] > 0
    assert found.kills.total() > SECONDS / 5
    assert found.segments > 5
