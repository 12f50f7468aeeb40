"""`eventlog follow` on a real server: the replica is the primary's log, whatever is killed."""

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventlog import EventLog
from projections.run_directory import read_run_state
from tests.harness.command import eventlog
from tests.harness.console import console
from tests.harness.daemon import Daemon, NotifySocket, abstract_name, daemon
from tests.harness.deadline import until
from tests.harness.log_checks import lines_in, segment_contents
from tests.harness.mirrors import mirror_once
from tests.harness.nats import NatsServers, nats_server
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals

pytestmark = pytest.mark.slow  # each test starts several processes


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    """A log of several segments, with batches of one to eight entries."""
    home = tmp_path / "primary"
    fill(home)
    return home


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    return tmp_path / "replica"


def fill(home: Path, *, start: int = 1) -> None:
    with EventLog(home, segment_bytes=8000) as log:
        for number in range(start, start + 64, 8):
            log.append_many(signals(number % 7 + 1, start=number))
            log.append(closed(number))


@contextmanager
def following(home: Path, env: dict[str, str], *words: object) -> Iterator[Daemon]:
    with daemon(home, *words, command="follow", env=env) as d:
        yield d


def wait_for(home: Path, primary: Path) -> None:
    until(lambda: segment_contents(home) == segment_contents(primary), "the replica's lines")


def test_a_replica_is_its_primary_byte_for_byte_and_follows_what_is_appended(
    server: NatsServers, stream: str, primary: Path, replica: Path
) -> None:
    env = server.env(stream)
    with daemon(primary, "mirror", env=env), following(replica, env) as d:
        wait_for(replica, primary)
        for number in (101, 102, 103):
            append(primary, a_signal(number))
            wait_for(replica, primary)
        until(lambda: "caught_up" in d.steps)
        assert d.stop() == 0
        assert d.steps == ["started", "ready", "caught_up", "stopping", "stopped"]
        assert d.complaints == ""
    assert eventlog("verify", home=replica).code == 0


def test_a_follower_that_is_killed_at_any_moment_leaves_no_other_log_than_the_primarys(
    server: NatsServers, stream: str, primary: Path, replica: Path
) -> None:
    env = server.env(stream)
    moments = random.Random(16)
    with daemon(primary, "mirror", env=env):
        for number in range(6):
            with following(replica, env) as d:
                fill(primary, start=1000 * (number + 1))
                until(lambda d=d: "started" in d.steps)  # type: ignore[misc]
                time.sleep(moments.uniform(0, 0.1))
                d.send(signal.SIGKILL)
                d.wait()
        with following(replica, env) as d:
            wait_for(replica, primary)
            assert d.stop() == 0
    assert eventlog("verify", home=replica).code == 0


def test_a_replica_is_seeded_from_a_backup_of_its_primary(
    server: NatsServers, stream: str, primary: Path, replica: Path
) -> None:
    backup = replica.with_name("backup")
    assert eventlog("backup", backup, home=primary).code == 0
    fill(primary, start=200)
    mirror_once(primary, server.settings(stream))
    assert eventlog("restore", backup, home=replica).code == 0
    before = segment_contents(replica)
    refused = eventlog("follow", "--once", home=replica, env=server.env(stream))
    assert (refused.code, segment_contents(replica)) == (3, before)
    assert "may be the primary" in refused.err
    assert "--from-backup" in refused.err
    assert not (replica / "logs/.replica").exists()
    done = eventlog("follow", "--once", "--from-backup", home=replica, env=server.env(stream))
    assert done.code == 0, done.err
    assert segment_contents(replica) == segment_contents(primary)


def test_what_is_no_replica_of_the_stream_is_refused_and_named(
    server: NatsServers, stream: str, primary: Path, replica: Path
) -> None:
    env = server.env(stream)
    mirror_once(primary, server.settings(stream))
    append(replica, a_signal(999))
    before = segment_contents(replica)
    done = eventlog("follow", "--once", "--from-backup", home=replica, env=env)
    assert (done.code, segment_contents(replica)) == (3, before)
    assert "at seq 1 the stream holds another line than this replica" in done.err
    other = replica.with_name("other")
    assert eventlog("follow", "--once", home=other, env=env).code == 0
    done = eventlog("follow", "--once", home=other, env=env | {"EVENTLOG_STREAM": "another"})
    assert done.code == 3
    assert f"this home is a replica of the stream {stream}, not of another" in done.err
    with following(other, env) as d:
        until(lambda: "caught_up" in d.steps)
        done = eventlog("follow", "--once", home=other, env=env)
        assert done.code == 3
        assert "another process follows into this home" in done.err


@pytest.mark.parametrize("unset", ["EVENTLOG_STREAM", "EVENTLOG_NATS_URL"])
def test_a_missing_setting_is_named(server: NatsServers, replica: Path, unset: str) -> None:
    done = eventlog("follow", "--once", home=replica, env=server.env("main") | {unset: ""})
    assert done.code == 3
    assert f"{unset} is not set" in done.err
    assert not replica.exists()


def test_an_unreachable_server_is_waited_for_and_said_once(primary: Path, replica: Path) -> None:
    with nats_server() as server, NotifySocket(abstract_name()) as systemd:
        env = server.env("main") | {"NOTIFY_SOCKET": systemd.address}
        server.create_stream("main")
        mirror_once(primary, server.settings("main"))
        server.kill()
        with following(replica, env) as d:
            until(lambda: systemd.has_received("READY=1"))
            until(lambda: "follow_waits" in d.err)
            run = read_run_state(replica, "follow")
            assert (run.state, run.pid) == ("running", d.process.pid)
            until(lambda: "no server answers" in str(read_run_state(replica, "follow").reason))
            server.start()
            wait_for(replica, primary)
            server.kill()
            until(lambda: d.err.count("follow_waits") == 2)
            server.start()
            until(lambda: d.err.count("follow_goes_on") == 2)
            assert d.stop() == 0
            events = [line.split()[1:4:2] for line in d.complaints.splitlines()]
            assert events == [["WARNING", "follow_waits"], ["WARNING", "follow_goes_on"]] * 2
            assert systemd.has_received("STOPPING=1")


def test_a_stop_is_heard_while_no_server_answers(replica: Path) -> None:
    env = {"EVENTLOG_STREAM": "main", "EVENTLOG_NATS_URL": "nats://127.0.0.1:9"}
    with following(replica, env) as d:
        until(lambda: "follow_waits" in d.err)
        assert d.stop() == 0


# -- on a replica


@pytest.fixture
def pair(server: NatsServers, stream: str, primary: Path, replica: Path) -> dict[str, str]:
    """A primary and a replica of it; returns the environment of both."""
    mirror_once(primary, server.settings(stream))
    assert eventlog("follow", "--once", home=replica, env=server.env(stream)).code == 0
    return server.env(stream)


def test_status_shows_what_a_replica_follows(
    pair: dict[str, str], primary: Path, replica: Path
) -> None:
    last_seq = len(lines_in(primary))
    found = eventlog("status", "--json", home=replica).answers[0]["replica"]
    assert found == {
        "primary": None,
        "epoch": 1,
        "checkpoint": last_seq,
        "lag_entries": 0,
        "resets": 0,
        "stream": pair["EVENTLOG_STREAM"],
        "daemon": {"state": "stopped", "pid": None, "since": None, "reason": None},
    }
    assert "replica" not in eventlog("status", "--json", home=primary).answers[0]
    text = eventlog("status", home=replica).out.decode()
    assert (
        f"replica:\n  primary            -\n  epoch              1\n  checkpoint         {last_seq}"
        in text
    )


def test_appends_of_every_command_are_refused(
    pair: dict[str, str], replica: Path, tmp_path: Path
) -> None:
    before = segment_contents(replica)
    done = eventlog("append", home=replica, stdin=json.dumps(a_signal(999)).encode())
    assert done.code == 3
    assert "this home is a replica" in done.err
    assert "append to the primary's home" in done.err
    (answer,) = done.answers
    assert "this home is a replica" in answer["error"]
    old = tmp_path / "signals.log"
    old.write_text(json.dumps(a_signal(998)) + "\n")
    imported = eventlog("import-legacy", "--log", old, home=replica)
    assert imported.code == 3
    assert "this home is a replica" in imported.err
    assert segment_contents(replica) == before


def test_all_leaves_out_what_the_primary_does(
    pair: dict[str, str], primary: Path, replica: Path
) -> None:
    env = pair | {"ALPINE_API_URL": "http://127.0.0.1:9", "ALPINE_API_KEY": "key"}
    done = eventlog("project", "all", "--once", home=replica, env=env)
    assert done.code == 0, done.err  # neither Alpine nor a stream was needed
    names = {path.name for path in (replica / "run").glob("*.json")}
    assert names == {"sqlite.json", "follow.json"}


def test_projections_verify_rebuild_backup_and_console_work_as_on_the_primary(
    pair: dict[str, str], primary: Path, replica: Path, tmp_path: Path
) -> None:
    for home in (primary, replica):
        assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert eventlog("digest", home=replica).out == eventlog("digest", home=primary).out
    assert eventlog("rebuild-database", home=replica).code == 0
    assert eventlog("digest", home=replica).out == eventlog("digest", home=primary).out
    verified = [eventlog("verify", "--json", home=home).answers for home in (primary, replica)]
    assert verified[0] == verified[1]
    backup = tmp_path / "backup"
    assert eventlog("backup", backup, home=replica).code == 0
    assert eventlog("backup", backup, "--verify", home=replica).code == 0
    with console(replica, "--no-login") as page:
        assert page.get("/api/status")["log"]["last_seq"] == len(lines_in(primary))
