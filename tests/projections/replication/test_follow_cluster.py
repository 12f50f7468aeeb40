"""A replica of a primary over three real servers that are killed: it becomes the primary's log."""

from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.generators import appending
from tests.harness.log_checks import lines_in, segments_in
from tests.harness.nats import nats_cluster

pytestmark = pytest.mark.slow


def test_a_node_the_leader_and_all_servers_killed_in_turn(tmp_path: Path) -> None:
    primary, replica = tmp_path / "primary", tmp_path / "replica"

    def has_new_line(before: int) -> bool:
        return len(lines_in(replica)) > before

    with nats_cluster() as cluster:
        cluster.create_stream("main")
        env = cluster.env("main")
        with (
            appending(primary),
            daemon(primary, "mirror", env=env),
            daemon(replica, command="follow", env=env) as follower,
        ):
            until(lambda: has_new_line(0))
            leader = cluster.leader("main")
            for victims in ([(leader + 1) % 3], [leader], [0, 1, 2]):
                cluster.kill(*victims)
                before = len(lines_in(replica))
                cluster.start()
                cluster.wait_until_healthy()
                until(lambda n=before: has_new_line(n + 20), lambda: follower.err)  # type: ignore[misc]
            assert follower.process.poll() is None, follower.err
        assert eventlog("project", "mirror", "--once", home=primary, env=env).code == 0
        assert eventlog("follow", "--once", home=replica, env=env).code == 0
    assert [path.name for path in segments_in(replica)] == [p.name for p in segments_in(primary)]
    assert all(
        (replica / "logs" / path.name).read_bytes() == path.read_bytes()
        for path in segments_in(primary)
    )
    assert len(segments_in(primary)) > 1
