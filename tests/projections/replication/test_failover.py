"""Failover on a real server: one primary at a time, and no entry lost or twice."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from eventlog import EventLog, LogFenced
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in, segments_in
from tests.harness.mirrors import mirror_once
from tests.harness.nats import NatsServers, nats_server
from tests.harness.signals import a_signal, closed, signals

NUMBERS = count(1)

pytestmark = pytest.mark.slow  # each test starts several processes


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    with nats_server() as running:
        yield running


@pytest.fixture
def stream(server: NatsServers) -> str:
    """A new stream for each test."""
    name = f"failover-{next(NUMBERS)}"
    server.create_stream(name)
    return name


def segments(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in segments_in(home)}


def test_an_old_primary_comes_back_as_a_replica_and_no_entry_is_lost_or_twice(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    old, new = tmp_path / "old", tmp_path / "new"
    with EventLog(old, segment_bytes=2000) as log:
        log.append_many(signals(8))
        mirror_once(old, server.settings(stream))
        assert eventlog("follow", "--once", home=new, env=env).code == 0
        # The old primary is cut off here: what it acknowledges from now on reaches no other machine.
        log.append_many(signals(6, start=9))
        log.append(closed(3))
        assert eventlog("project", "sqlite", "--once", home=old).code == 0
        promoted = eventlog("promote", "--host", "b", home=new, env=env)
        assert promoted.code == 0, promoted.err
        assert (
            f"b is the primary of EVENTLOG_{stream}: epoch 2, from seq 9 on"
            in promoted.out.decode()
        )
        assert not (new / "logs/.replica").exists()
        with EventLog(new) as log_new:
            log_new.append(a_signal(10))  # a generator that got no answer from the old primary
            log_new.append(a_signal(20))
        mirror_once(new, server.settings(stream))
        mirrored = eventlog("project", "mirror", "--once", home=old, env=env)
        assert mirrored.code == 3
        assert f"b (epoch 2) was promoted and continues the stream {stream} after seq 8" in (
            mirrored.err
        )
        with pytest.raises(LogFenced, match=r"b \(epoch 2\) was promoted.*eventlog rejoin"):
            log.append(a_signal(30))
    refused = eventlog("append", home=old, stdin=json.dumps(a_signal(30)).encode())
    assert (refused.code, "this home is fenced" in refused.err) == (3, True)
    before = lines_in(old)
    rejoined = eventlog("rejoin", home=old, env=env)
    assert rejoined.code == 0, rejoined.err
    aside = old / "logs/forked-9.aside"
    assert aside.read_bytes() == b"".join(before[8:])
    assert segments(old) == segments(new)
    assert not (old / "logs/.fenced").exists()
    assert eventlog("verify", home=old).code == 0
    print(rejoined.out.decode())
    done = eventlog("append", "--stored", "--skip-invalid", aside, home=new)
    assert done.code == 0, done.err
    assert [answer["duplicate"] for answer in done.answers] == [False, True, *[False] * 5]
    again = eventlog("append", "--stored", "--skip-invalid", aside, home=new)
    assert all(answer["duplicate"] for answer in again.answers)
    mirror_once(new, server.settings(stream))
    assert eventlog("follow", "--once", home=old, env=env).code == 0
    assert segments(old) == segments(new)
    for home in (old, new):
        assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert eventlog("digest", home=old).out == eventlog("digest", home=new).out
