"""Failover on a real server: one primary at a time, and no entry lost or twice."""

import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from eventlog import EventLog, LogFenced
from eventlog.plumbing import ReplicaLog, ReplicaState
from projections.errors import ProjectionError
from projections.replication.follow import follow
from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.log_checks import entries_in, lines_in, segment_contents
from tests.harness.mirrors import mirror_once
from tests.harness.nats import NatsServers
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals

pytestmark = pytest.mark.slow  # each test starts several processes


class Pair(NamedTuple):
    """The homes, and the environment of their commands."""

    old: Path
    new: Path
    env: dict[str, str]


@pytest.fixture
def pair(server: NatsServers, stream: str, tmp_path: Path) -> Pair:
    """A primary that was cut off with entries of its own, and a replica that is promoted."""
    found = Pair(tmp_path / "old", tmp_path / "new", server.env(stream))
    with EventLog(found.old, segment_bytes=2000) as log:
        log.append_many(signals(8))
        mirror_once(found.old, server.settings(stream))
        assert eventlog("follow", "--once", home=found.new, env=found.env).code == 0
        # From here on what it acknowledges reaches no other machine.
        log.append_many(signals(6, start=9))
        log.append(closed(3))
    promoted = eventlog("promote", "--host", "b", home=found.new, env=found.env)
    assert promoted.code == 0, promoted.err
    said = f"b is the primary of EVENTLOG_{stream}: epoch 2, from seq 9 on\n"
    assert promoted.out.decode() == said
    append(found.new, a_signal(10))  # from a generator that got no answer from the old primary
    append(found.new, a_signal(20))
    mirror_once(found.new, server.settings(stream))
    return found


def test_an_old_primary_comes_back_as_a_replica_and_no_entry_is_lost_or_twice(
    server: NatsServers, stream: str, pair: Pair
) -> None:
    old, new, env = pair
    before = lines_in(old)
    assert eventlog("project", "sqlite", "--once", home=old).code == 0
    mirrored = eventlog("project", "mirror", "--once", home=old, env=env)
    assert mirrored.code == 3
    fenced = f"b (epoch 2) was promoted and continues the stream {stream} after seq 8"
    assert fenced in mirrored.err
    refused = eventlog("append", home=old, stdin=json.dumps(a_signal(30)).encode())
    assert refused.code == 3
    assert fenced in refused.err
    assert "run `eventlog rejoin` on this home" in refused.err
    rejoined = eventlog("rejoin", home=old, env=env)
    assert rejoined.code == 0, rejoined.err
    aside = old / "logs/forked-9.aside"
    assert rejoined.out.decode().splitlines() == [
        "discarded the table: `eventlog project` builds it again",
        "cut 7 entries after seq 8: the stream does not hold them",
        f"this home is a replica of EVENTLOG_{stream}, and ends at seq 11",
        f"set aside in {aside}",
        "copy that file to the primary, and append its entries there once:",
        "  eventlog append --stored --skip-invalid forked-9.aside",
    ]
    assert aside.read_bytes() == b"".join(before[8:])
    assert segment_contents(old) == segment_contents(new)
    status = eventlog("status", "--json", home=old).answers[0]
    assert (status["replica"]["primary"], status["replica"]["epoch"]) == ("b", 2)
    assert "mirror" not in status["projections"]  # it published for the old primary
    done = eventlog("append", "--stored", "--skip-invalid", aside, home=new)
    assert done.code == 0, done.err
    assert [answer["duplicate"] for answer in done.answers] == [False, True, *[False] * 5]
    again = eventlog("append", "--stored", "--skip-invalid", aside, home=new)
    assert all(answer["duplicate"] for answer in again.answers)
    mirror_once(new, server.settings(stream))
    assert eventlog("follow", "--once", home=old, env=env).code == 0
    assert segment_contents(old) == segment_contents(new)
    for home in (old, new):
        assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert eventlog("digest", home=old).out == eventlog("digest", home=new).out
    ids = [str(entry["signal_id"]) for entry in entries_in(new) if entry["event"] == "signal"]
    assert sorted(ids) == sorted(f"s-{number}" for number in (*range(1, 15), 20))


def test_the_mirror_of_an_old_primary_that_runs_fences_it(pair: Pair) -> None:
    with daemon(pair.old, "mirror", env=pair.env) as d, EventLog(pair.old) as log:
        until((pair.old / "logs/.fenced").exists)
        with pytest.raises(LogFenced, match=r"b \(epoch 2\) was promoted"):
            log.append(a_signal(30))
        refused = eventlog("rejoin", home=pair.old, env=pair.env)
        assert (refused.code, "stop `eventlog project`" in refused.err) == (3, True)
        assert d.stop() == 0
        assert d.err.count("home_fenced") == 1
    status = eventlog("status", "--json", home=pair.old).answers[0]
    assert status["projections"]["mirror"]["state"] == "fenced"


def test_a_second_replica_follows_the_new_primary_and_shows_who_it_is(
    pair: Pair, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert eventlog("follow", "--once", home=other, env=pair.env).code == 0
    replica = eventlog("status", "--json", home=other).answers[0]["replica"]
    assert (replica["primary"], replica["epoch"]) == ("b", 2)
    late = eventlog("promote", "--host", "c", "--epoch", "2", home=other, env=pair.env)
    assert (late.code, late.out) == (1, b"")
    assert "b was promoted (epoch 2): this home stays a replica" in late.err
    assert segment_contents(other) == segment_contents(pair.new)
    for host in ("", "b" * 256, "\x1b[1m"):
        assert eventlog("promote", "--host", host, home=other, env=pair.env).code == 2
    # By default the name tells two homes of one host apart.
    promoted = eventlog("promote", home=other, env=pair.env)
    assert promoted.out.startswith(f"{socket.gethostname()}:{other} is the primary of".encode())
    refused = eventlog("promote", home=pair.new, env=pair.env)
    assert refused.code == 3
    assert "this home is no replica, and is not promoted" in refused.err


def test_a_home_that_was_a_primary_is_not_followed_into_and_says_what_to_do(
    pair: Pair, server: NatsServers, stream: str
) -> None:
    def refusal(home: Path) -> str:
        with pytest.raises(ProjectionError) as refused:
            follow(home, server.settings(stream), once=True, from_backup=False, notify_socket=None)
        assert not (home / "logs/.replica").exists()
        return str(refused.value)

    for home in (pair.old, pair.new):
        said = refusal(home)
        assert "this home was the primary of the stream" in said
        assert ("run `eventlog rejoin`" in said, "--from-backup" in said) == (True, False)
    # Promoted, with nothing published yet; or restored from a backup of such a log.
    (pair.new / "data/mirror.json").unlink()
    said = refusal(pair.new)
    assert "has a log of its own, of which b became the primary" in said
    assert "if another home was promoted since then, run `eventlog rejoin`" in said
    assert "add --from-backup" in said


RACES = 5  # fifty were run by hand
RACERS = ("b", "c", "d")


def test_of_replicas_that_are_promoted_at_once_exactly_one_wins(
    server: NatsServers, tmp_path: Path
) -> None:
    for number in range(RACES):
        race(server, f"race-{number}", tmp_path / str(number))


def race(server: NatsServers, stream: str, directory: Path) -> str:
    """Promotes three replicas at once; returns the host that won."""
    server.create_stream(stream)
    settings, env = server.settings(stream), server.env(stream)
    append(directory / "a", *signals(5))
    mirror_once(directory / "a", settings)
    for host in RACERS:
        shutil.copytree(directory / "a", directory / host, symlinks=True)
        log = ReplicaLog.open(directory / host)
        log.begin(ReplicaState(stream=stream), log.catch_up())
        log.close()
    with ThreadPoolExecutor(len(RACERS)) as pool:
        tried = [
            pool.submit(eventlog, "promote", "--host", host, home=directory / host, env=env)
            for host in RACERS
        ]
        done = dict(zip(RACERS, (each.result() for each in tried), strict=True))
    (winner,) = [host for host, result in done.items() if result.code == 0]
    said = f"{winner} is the primary of EVENTLOG_{stream}: epoch 2, from seq 6 on\n"
    assert done.pop(winner).out.decode() == said
    for result in done.values():
        assert result.code == 1, result.err
        assert f"{winner} was promoted (epoch 2): this home stays a replica" in result.err
    (promotion,) = [line for line in server.messages(stream) if b'"event":"promoted"' in line]
    assert json.loads(promotion)["host"] == winner
    append(directory / winner, a_signal(9))
    mirror_once(directory / winner, settings)
    for host in done:
        assert eventlog("follow", "--once", home=directory / host, env=env).code == 0
        assert lines_in(directory / host) == server.messages(stream)
    return winner
