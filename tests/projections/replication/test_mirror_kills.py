"""Servers and mirror are killed at random while lines are appended: nothing acknowledged is lost.

    MIRROR_KILL_S=600 MIRROR_SEED=2 .venv/bin/python -m pytest \
        tests/projections/replication/test_mirror_kills.py

Run it so, with three seeds, before the pinned version of nats-server moves.
"""

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.plumbing import read_mirror_record
from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.log_checks import lines_in
from tests.harness.nats import NatsServers, nats_cluster
from tests.harness.signals import signals

KILL_S = float(os.environ.get("MIRROR_KILL_S", "20"))
SEED = int(os.environ.get("MIRROR_SEED", "1"))
APPEND_PAUSE_S, APPENDS_MAX = 0.02, 20
KILL_PAUSE_S = (0.5, 2.0)
DOWN_S = (0.5, 3.0)


class Kills:
    """Kills a mirror and the servers below it at random, and starts them again."""

    def __init__(self, cluster: NatsServers, home: Path, chance: random.Random) -> None:
        self._cluster = cluster
        self._home = home
        self._chance = chance
        self._mirror = ExitStack()
        self._down: dict[int, float] = {}  # servers, and when each is started again
        self._next_s = time.monotonic() + 2
        self.count = 0

    def start_mirror(self) -> None:
        """Kills the mirror that runs, and starts another."""
        self._mirror.close()
        # Without its monitor a server that is down does not delay the others.
        env = {**self._cluster.env("kills"), "EVENTLOG_NATS_MONITOR_URL": ""}
        self._mirror.enter_context(daemon(self._home, "mirror", env=env))

    def step(self) -> None:
        """Does what is due now."""
        now_s = time.monotonic()
        for server in [server for server, due_s in self._down.items() if now_s > due_s]:
            self._cluster.start(server)
            del self._down[server]
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._chance.uniform(*KILL_PAUSE_S)
        servers = self._chance.choice([0, 0, 1, 1, 1, 2, 3])
        if servers == 0:
            self.start_mirror()
        elif not self._down:
            for server in self._chance.sample(range(3), servers):
                self._cluster.kill(server)
                self._down[server] = now_s + self._chance.uniform(*DOWN_S)
        self.count += 1

    def end(self) -> None:
        """Kills the mirror, and starts the servers."""
        self._mirror.close()
        self._cluster.start()
        self._cluster.wait_until_healthy()


@pytest.mark.slow
@pytest.mark.timeout(KILL_S + 300)
def test_under_random_kills_the_stream_keeps_what_it_acknowledged_and_becomes_the_log(
    home: Path,
) -> None:
    chance = random.Random(SEED)
    acked = entries = 0
    with nats_cluster() as cluster, EventLog(home) as log:
        cluster.create_stream("kills")
        kills = Kills(cluster, home, chance)
        log.append_many(signals(1))
        try:
            kills.start_mirror()
            end_s = time.monotonic() + KILL_S
            while time.monotonic() < end_s:
                entries = log.append_many(
                    signals(chance.randint(1, APPENDS_MAX), start=entries + 2)
                )[-1].seq
                record = read_mirror_record(home)
                acked = max(acked, record.acked if record is not None else 0)
                kills.step()
                time.sleep(APPEND_PAUSE_S)
        finally:
            kills.end()
        assert kills.count > KILL_S / 4
        state = cluster.request("STREAM.INFO.EVENTLOG_kills")["state"]
        assert state["last_seq"] >= acked > 0  # recorded outside the mirror
        done = eventlog("project", "mirror", "--once", home=home, env=cluster.env("kills"))
        assert (done.code, done.err) == (0, "")
        assert cluster.messages("kills") == lines_in(home)
        record = read_mirror_record(home)
        assert record is not None
        assert (record.acked, record.lost_acked) == (entries, 0)
