"""The network fails: what the majority does not hold never counts, and all catch up afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventlog.plumbing import MIRRORING, WAITING, is_replicated, read_mirror_record
from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.generators import appending
from tests.harness.log_checks import lines_in, segment_contents
from tests.harness.mirrors import record_of
from tests.harness.partitions import Network, can_make_namespaces, network

pytestmark = pytest.mark.slow

LINES = 30  # by which something must grow


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Network]:
    with network(with_namespaces=request.param) as running:
        yield running


# Both ways to cut a link are used, where this machine has both.
in_namespaces = pytest.mark.parametrize("net", [can_make_namespaces()], indirect=True)
through_proxies = pytest.mark.parametrize("net", [False], indirect=True)


class Machines:
    """A primary and a replica on the network."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.net = net
        self.primary, self.replica = directory / "primary", directory / "replica"
        self.stream = "main"
        net.servers.create_stream(self.stream)
        self.leader = f"n{net.servers.leader(self.stream)}"

    @contextmanager
    def running(self, mirror_at: str) -> Iterator[None]:
        """Everything runs; the mirror is at one of the places."""
        where = [(self.net.env(p, self.stream), self.net.under(p)) for p in (mirror_at, "follower")]
        (near, under), (far, beyond) = where
        with (
            appending(self.primary),
            daemon(self.primary, "mirror", env=near, under=under) as mirror,
            daemon(self.replica, command="follow", env=far, under=beyond) as follower,
        ):
            until(lambda: self.copied() > LINES, lambda: mirror.err + follower.err)
            until(lambda: record_of(self.primary).state == MIRRORING)
            yield
            assert [d.process.poll() for d in (mirror, follower)] == [None, None]

    def appended(self) -> int:
        return len(lines_in(self.primary))

    def copied(self) -> int:
        return len(lines_in(self.replica))

    def replicated(self) -> int:
        """The last seq that counts as replicated. Fails where the majority does not hold it."""
        record = read_mirror_record(self.primary)
        if record is None or not is_replicated(str(self.primary), record.acked):
            return 0
        servers = self.net.servers
        if servers.cut_off:  # later an old leader that does not know yet of the new one may answer
            held = servers.request(f"STREAM.INFO.EVENTLOG_{self.stream}")["state"]["last_seq"]
            assert held >= record.acked, "the majority does not hold it"
        return record.acked

    def catch_up(self, after: int) -> None:
        """All of it goes on, and soon the replica has lines that are newer than `after`."""
        until(lambda: record_of(self.primary).state == MIRRORING)
        until(lambda: self.replicated() > after)
        until(lambda: self.copied() > after)

    def assert_same(self) -> None:
        """The replica becomes the primary's log, byte for byte."""
        for home, *words in (
            (self.primary, "project", "mirror"),
            (self.replica, "follow"),
        ):
            env, under = self.net.env("mirror", self.stream), self.net.under("mirror")
            done = eventlog(*words, "--once", home=home, env=env, under=under)
            assert done.code == 0, done.err
        assert segment_contents(self.replica) == segment_contents(self.primary)
        assert record_of(self.primary).lost_acked == 0


@in_namespaces
def test_a_leader_that_is_cut_off_with_its_clients_acknowledges_nothing_more(
    net: Network, tmp_path: Path
) -> None:
    machines = Machines(net, tmp_path)
    with machines.running(mirror_at=machines.leader):
        net.cut(machines.leader)
        try:
            until(lambda: record_of(machines.primary).state == WAITING)
            counted = machines.replicated()  # by the other two, who have another leader now
            before = machines.appended()
            until(lambda: machines.appended() > before + LINES)
            assert machines.replicated() == counted
            waited = eventlog(
                *("wait", before, "--for", "replicated", "--timeout", 0.1), home=machines.primary
            )
            assert (waited.code, "the mirror is waiting" in waited.err) == (1, True)
        finally:
            net.heal(machines.leader)
        machines.catch_up(machines.appended())
    machines.assert_same()


@through_proxies
def test_a_mirror_and_then_a_follower_that_are_cut_off_catch_up(
    net: Network, tmp_path: Path
) -> None:
    machines = Machines(net, tmp_path)
    with machines.running(mirror_at="mirror"):
        net.cut("mirror")
        try:
            until(lambda: record_of(machines.primary).state == WAITING)
            counted, before = machines.replicated(), machines.appended()
            until(lambda: machines.appended() > before + LINES)
            assert machines.replicated() == counted
        finally:
            net.heal("mirror")
        machines.catch_up(machines.appended())
        net.cut("follower")
        try:
            before = machines.replicated()
            until(lambda: machines.replicated() > before + LINES)
            behind = machines.copied()
            before = machines.replicated()
            until(lambda: machines.replicated() > before + LINES)
            assert machines.copied() == behind
        finally:
            net.heal("follower")
        machines.catch_up(machines.appended())
    machines.assert_same()
