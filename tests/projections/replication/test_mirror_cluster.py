"""The mirror on three real servers that are killed and paused: what is acknowledged stays."""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from eventlog import EventLog, NotReplicated
from eventlog.plumbing import MIRRORING, WAITING, StreamSettings
from eventlog.replica.stream_rules import SINGLE_KEY, SINGLE_VALUE, stream_config
from projections.replication.mirror import SETTLE_S
from tests.harness.command import eventlog
from tests.harness.deadline import until_async
from tests.harness.log_checks import lines_in
from tests.harness.mirrors import RunningMirror, mirroring, record_of
from tests.harness.nats import NatsServers, nats_cluster
from tests.harness.signals import a_signal, signals

pytestmark = pytest.mark.slow

NUMBERS = count(1)
APPEND_PAUSE_S = 0.01


@pytest.fixture(scope="module")
def cluster() -> Iterator[NatsServers]:
    with nats_cluster() as running:
        yield running


@pytest.fixture
def stream(cluster: NatsServers) -> Iterator[str]:
    cluster.start()
    cluster.wait_until_healthy()
    name = f"stream-{next(NUMBERS)}"
    cluster.create_stream(name)
    yield name
    for index in range(3):
        cluster.send(index, signal.SIGCONT)


async def kill_a_follower(cluster: NatsServers, stream: str, mirror: RunningMirror) -> None:
    victim = (await asyncio.to_thread(cluster.leader, stream) + 1) % 3
    cluster.kill(victim)
    await asyncio.sleep(1)
    cluster.start(victim)


async def lose_the_disk_of_a_follower(
    cluster: NatsServers, stream: str, mirror: RunningMirror
) -> None:
    leader = await asyncio.to_thread(cluster.leader, stream)
    victim, other = (leader + 1) % 3, (leader + 2) % 3
    cluster.kill(victim)
    shutil.rmtree(cluster.store(victim))
    cluster.start(victim)
    await asyncio.to_thread(cluster.wait_until_healthy)  # the others fill it
    cluster.kill(other)  # from here on a quorum needs the one that was filled
    before = mirror.seq
    await until_async(lambda: mirror.seq > before + 20)
    cluster.start(other)


async def kill_the_leader(cluster: NatsServers, stream: str, mirror: RunningMirror) -> None:
    victim = await asyncio.to_thread(cluster.leader, stream)
    cluster.kill(victim)
    await asyncio.sleep(1)
    cluster.start(victim)


async def kill_all(cluster: NatsServers, stream: str, mirror: RunningMirror) -> None:
    cluster.kill()
    await until_async(lambda: mirror.state == WAITING)
    cluster.start()


async def pause_the_leader(cluster: NatsServers, stream: str, mirror: RunningMirror) -> None:
    victim = await asyncio.to_thread(cluster.leader, stream)
    cluster.send(victim, signal.SIGSTOP)
    await until_async(lambda: mirror.state == WAITING)
    await until_async(lambda: mirror.state == MIRRORING)  # by a new leader
    cluster.send(victim, signal.SIGCONT)


def test_a_stream_of_one_server_that_is_raised_to_three_replicates_nothing(
    home: Path, cluster: NatsServers
) -> None:
    """The leader calls the new servers current long before they have the lines of the first one."""
    cluster.start()
    cluster.wait_until_healthy()
    single = {"num_replicas": 1, "metadata": {SINGLE_KEY: SINGLE_VALUE}}
    cluster.create_stream("raised", **single)
    settings = cluster.settings("raised")

    async def run() -> None:
        with EventLog(home) as log:
            log.append_many(signals(500))
        async with mirroring(home, settings) as mirror:
            await until_async(lambda: mirror.seq == 500)
            config = stream_config(settings, replicas=3) | {"metadata": single["metadata"]}
            raised = await asyncio.to_thread(
                cluster.request, "STREAM.UPDATE.EVENTLOG_raised", config
            )
            assert raised["config"]["num_replicas"] == 3
            await until_async(lambda: record_of(home).replicas_current == 3)
            with EventLog(home) as log:
                log.append(a_signal(501))
                await until_async(lambda: mirror.acked == 501)
                with pytest.raises(NotReplicated, match="1 of the 3 replicas"):
                    await asyncio.to_thread(log.wait_replicated, 501)
            assert mirror.failures == []

    asyncio.run(run())
    created = eventlog("mirror", "create", home=home, env=cluster.env("raised"))
    assert (created.code, "it was created with --allow-single" in created.err) == (3, True)


def test_with_the_disks_of_a_majority_lost_the_log_fills_the_stream_again(
    home: Path, tmp_path: Path
) -> None:
    async def publish(settings: StreamSettings, seq: int) -> None:
        async with mirroring(home, settings) as mirror:
            await until_async(lambda: mirror.acked == seq)

    with nats_cluster() as cluster, EventLog(home) as log:
        cluster.create_stream("lost")
        settings, env = cluster.settings("lost"), cluster.env("lost")
        log.append_many(signals(200))
        asyncio.run(publish(settings, 200))
        assert eventlog("follow", "--once", home=tmp_path / "replica", env=env).code == 0
        wipe(cluster, 0, 1)
        log.append_many(signals(50, start=201))
        # The empty servers may know of no stream, elect no leader, or be filled by the third one.
        done = eventlog("project", "mirror", "--once", home=home, env=env)
        before = record_of(home)
        assert (done.code, before.state) in ((3, WAITING), (0, MIRRORING)), done.err
        assert before.acked + before.lost_acked >= 200
        wipe(cluster, 0, 1, 2)
        cluster.create_stream("lost")
        asyncio.run(publish(settings, 250))
        assert cluster.messages("lost") == lines_in(home)
        assert record_of(home).lost_acked == before.acked + before.lost_acked
        assert eventlog("follow", "--once", home=tmp_path / "replica", env=env).code == 0
    assert lines_in(tmp_path / "replica") == lines_in(home)


def wipe(cluster: NatsServers, *victims: int) -> None:
    """The servers stop, some lose their disks, and all start again."""
    cluster.kill()
    for victim in victims:
        shutil.rmtree(cluster.store(victim))
    cluster.start()


Outage = Callable[[NatsServers, str, RunningMirror], Awaitable[None]]


OUTAGES: list[Outage] = [
    kill_a_follower,
    lose_the_disk_of_a_follower,
    kill_the_leader,
    kill_all,
    pause_the_leader,
]


@pytest.mark.parametrize("outage", OUTAGES, ids=[outage.__name__ for outage in OUTAGES])
def test_appends_go_on_and_the_stream_becomes_the_log(
    home: Path, cluster: NatsServers, stream: str, outage: Outage
) -> None:
    async def append_until(done: asyncio.Event) -> None:
        with EventLog(home) as log:
            for number in count(1):
                await log.append_async(a_signal(number))
                if done.is_set():
                    return
                await asyncio.sleep(APPEND_PAUSE_S)

    async def run() -> None:
        done = asyncio.Event()
        with EventLog(home) as log:
            log.append(a_signal(0))
        settings = cluster.settings(stream)
        async with mirroring(home, settings, settle_s=SETTLE_S) as mirror:
            appending = asyncio.create_task(append_until(done))
            await until_async(lambda: mirror.seq > 20)
            before = mirror.seq
            await outage(cluster, stream, mirror)
            await until_async(lambda: mirror.seq > before + 20)
            done.set()
            await appending
            await until_async(lambda: mirror.seq == len(lines_in(home)))
            assert mirror.failures == []

    asyncio.run(run())
    cluster.wait_until_healthy()
    assert cluster.messages(stream) == lines_in(home)
    assert record_of(home).lost_acked == 0
    assert record_of(home).replicas == 3
