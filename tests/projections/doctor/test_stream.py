"""`doctor` on servers of NATS: each thing that breaks a promise of a stream is found and named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from projections.doctor.stream import server_findings
from tests.harness.command import eventlog
from tests.harness.deadline import until
from tests.harness.guarded_nats import STREAM, GuardedServers, guarded_cluster
from tests.harness.nats import NatsServers, nats_server

pytestmark = pytest.mark.slow

STREAM_CHECKS = ("nats server", "nats key", "nats sync", "stream", "peers")


def findings(home: Path, env: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Level and text of what doctor finds about the stream, by check."""
    done = eventlog("doctor", "--json", home=home, env=env)
    found: dict[str, list[tuple[str, str]]] = {}
    for one in done.answers[0]["findings"]:
        if one["check"] in STREAM_CHECKS:
            found.setdefault(one["check"], []).append((one["level"], one["found"]))
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    with nats_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[GuardedServers]:
    with guarded_cluster() as running:
        # Servers that have just started may not know all others yet.
        until(lambda: eventlog("mirror", "create", env=running.env_of("operator")).code == 0)
        yield running


UNENCRYPTED = ("warning", "a:4222 gets the lines of the log unencrypted")
UNTESTED = (
    "warning",
    "a:4222 has version 2.15.1; the tests of lost servers were run with 2.14",
)


@pytest.mark.parametrize(
    ("version", "is_encrypted", "is_exposed", "expected"),
    [
        ((2, 14, 7), True, False, [("ok", "a:4222 has version 2.14.7, encrypted")]),
        ((2, 14, 7), False, False, [("ok", "a:4222 has version 2.14.7")]),
        ((2, 14, 7), False, True, [UNENCRYPTED]),
        ((2, 11, 9), True, False, [("problem", "a:4222 has version 2.11.9: it is too old")]),
        ((2, 15, 1), True, False, [UNTESTED]),
        ((2, 15, 1), False, True, [UNTESTED, UNENCRYPTED]),
    ],
)
def test_a_server_is_reported_by_its_version_and_whether_it_encrypts(
    version: tuple[int, ...],
    is_encrypted: bool,
    is_exposed: bool,
    expected: list[tuple[str, str]],
) -> None:
    found = server_findings("a:4222", version, is_encrypted=is_encrypted, is_exposed=is_exposed)
    assert [(one.level, one.found) for one in found] == expected


def test_without_a_stream_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert findings(tmp_path, {}) == {}


def test_a_cluster_as_it_is_shipped_has_no_finding(cluster: GuardedServers, tmp_path: Path) -> None:
    env = cluster.env_of("mirror")
    peers = [("ok", "all 3 servers are up to date")]
    until(lambda: findings(tmp_path, env)["peers"] == peers)  # a stream that was just created
    found = findings(tmp_path, env)
    assert set(found) == set(STREAM_CHECKS)
    assert {level for one in found.values() for level, _ in one} == {"ok"}, found
    assert len(found["nats server"]) == len(found["nats sync"]) == 3
    assert all("2.14." in text and "encrypted" in text for _, text in found["nats server"])
    assert found["peers"] == peers


def test_a_server_that_is_gone_and_what_is_missing_there_are_named(
    cluster: GuardedServers, tmp_path: Path
) -> None:
    gone = (cluster.leader(STREAM) + 1) % 3
    cluster.kill(gone)
    try:
        # The leader notices it after some seconds.
        env = cluster.env_of("mirror")
        until(lambda: "2 of 3" in str(findings(tmp_path, env)["peers"]), "a peer that is gone")
        found = findings(tmp_path, env)
    finally:
        cluster.start(gone)
        cluster.wait_until_healthy()
    assert sorted(level for level, _ in found["nats server"]) == ["ok", "ok", "problem"]
    assert sorted(level for level, _ in found["nats sync"]) == ["ok", "ok", "warning"]
    assert found["peers"] == [("warning", "2 of 3 servers are up to date")]


def test_a_key_that_others_may_read_is_a_problem(cluster: GuardedServers, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(cluster.key_of("mirror").read_bytes())
    env = cluster.env_of("mirror") | {"EVENTLOG_NATS_NKEY_FILE": str(key)}
    for mode, level, text in ((0o644, "problem", "other accounts"), (0o600, "ok", "mode 0600")):
        key.chmod(mode)
        ((found, said),) = findings(tmp_path, env)["nats key"]
        assert (found, text in said) == (level, True), said
    env["EVENTLOG_NATS_NKEY_FILE"] = str(tmp_path / "none")
    found_without = findings(tmp_path, env)
    assert found_without["nats key"][0][0] == "problem"
    assert {level for level, _ in found_without["nats server"]} == {"problem"}


def one_of(found: dict[str, Any], check: str) -> tuple[str, str]:
    ((level, text),) = found[check]
    return level, text


def test_what_a_single_server_lacks_is_named(server: NatsServers, tmp_path: Path) -> None:
    server.create_stream("unfit", deny_purge=False)
    server.create_stream("single")
    missing = findings(tmp_path, server.env("missing"))
    assert one_of(missing, "stream") == ("problem", "the server has no such stream")
    assert one_of(missing, "nats key")[0] == "note"
    unfit = one_of(findings(tmp_path, server.env("unfit")), "stream")
    assert (unfit[0], "deny_purge is false" in unfit[1]) == ("problem", True)
    env = server.env("single") | {"EVENTLOG_NATS_MONITOR_URL": ""}
    single = findings(tmp_path, env)
    assert one_of(single, "peers") == ("note", "one server holds it: nothing is replicated")
    assert one_of(single, "nats sync")[0] == "warning"
    with nats_server(sync_interval="2m") as lazy:
        level, text = one_of(findings(tmp_path, lazy.env("x")), "nats sync")
        assert (level, "must be always" in text) == ("problem", True)


def test_a_setting_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    found = findings(tmp_path, {"EVENTLOG_STREAM": "main"})
    assert one_of(found, "stream") == ("problem", "EVENTLOG_NATS_URL is not set")
