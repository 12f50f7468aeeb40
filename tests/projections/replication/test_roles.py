"""The configuration in tools/ops/nats on three servers: each role does its work, nothing else."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import eventlog as package
from eventlog import EventLog, StreamRefused, StreamUnavailable
from eventlog.plumbing import NatsConnection, StreamSettings, open_append_connection
from tests.harness.certificates import Authority
from tests.harness.command import eventlog, jsonl
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.guarded_nats import ROLES, GuardedServers, guarded_cluster
from tests.harness.log_checks import lines_in
from tests.harness.signals import a_signal, signals

pytestmark = pytest.mark.slow  # three servers with TLS, and commands

REFUSED_S_MAX = 2.0  # a server answers at once
ALLOWED_S = 0.05  # for a refusal that must not come

API = "$JS.API"
PUBLISH = (
    "eventlog.main.line",
    "eventlog.main.append",
    "eventlog.other.line",
    "eventlog.other.append",
    "_INBOX.append.x",
    "_INBOX.stream.x",
    f"{API}.INFO",
    f"{API}.STREAM.INFO.EVENTLOG_main",
    f"{API}.STREAM.MSG.GET.EVENTLOG_main",
    f"{API}.CONSUMER.CREATE.EVENTLOG_main",
    f"{API}.STREAM.CREATE.EVENTLOG_main",
    f"{API}.STREAM.CREATE.EVENTLOG_other",
    f"{API}.STREAM.UPDATE.EVENTLOG_main",
    f"{API}.STREAM.DELETE.EVENTLOG_main",
    f"{API}.STREAM.PURGE.EVENTLOG_main",
    f"{API}.STREAM.MSG.DELETE.EVENTLOG_main",
    f"{API}.STREAM.INFO.EVENTLOG_other",
)
SUBSCRIBE = (
    ">",
    "eventlog.main.line",
    "eventlog.main.append",
    "_INBOX.>",
    "_INBOX.stream.>",
    "_INBOX.append.>",
    "$JS.>",
)
ENDS = {PUBLISH[7], PUBLISH[8], "_INBOX.stream.>"}
ALLOWED: dict[str, set[str]] = {
    "mirror": {*ENDS, "eventlog.main.line"},
    "follower": {*ENDS, f"{API}.CONSUMER.CREATE.EVENTLOG_main"},
    "primary": {*ENDS, f"{API}.CONSUMER.CREATE.EVENTLOG_main", "eventlog.main.line"},
    "server": set(),  # it subscribes in its queue group only
    "generator": {"_INBOX.append.>"},
    "operator": {*ENDS, f"{API}.STREAM.CREATE.EVENTLOG_main"},
}
# The subject on which a generator publishes is one on which it may not subscribe.
MAY_PUBLISH = {role: {s for s in names if s in PUBLISH} for role, names in ALLOWED.items()}
MAY_PUBLISH["generator"] = {"eventlog.main.append"}
MAY_SUBSCRIBE = {
    role: {s for s in names if s in SUBSCRIBE and s.startswith("_INBOX")}
    for role, names in ALLOWED.items()
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[GuardedServers]:
    with guarded_cluster() as running:
        yield running


async def refusal(
    settings: StreamSettings, verb: str, subject: str, wait_s: float = REFUSED_S_MAX
) -> str:
    """What the server says to one request; empty where it allows it."""
    connection: NatsConnection = await open_append_connection(settings)

    async def ignore(_message: object) -> None:
        pass

    try:
        if verb == "publish":
            await connection.publish(subject, b"{}")
        else:
            await connection.subscribe(subject, ignore)
        await connection.flush()
        await asyncio.wait({connection.ended}, timeout=wait_s)  # the error is reported beside it
        if not connection.ended.done():
            return ""
        assert isinstance(connection.ended.result(), StreamRefused)
        return str(connection.ended.result())
    finally:
        await connection.close()


def test_the_table_of_this_test_has_each_role() -> None:
    assert set(ALLOWED) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_not_do_is_refused_and_said_in_words(
    cluster: GuardedServers, role: str
) -> None:
    async def all_of_it() -> None:
        settings = cluster.settings_of(role)
        for verb, subjects, allowed in (
            ("publish", PUBLISH, MAY_PUBLISH[role]),
            ("subscription", SUBSCRIBE, MAY_SUBSCRIBE[role]),
        ):
            for subject in subjects:
                wait_s = ALLOWED_S if subject in allowed else REFUSED_S_MAX
                said = await refusal(settings, verb, subject, wait_s)
                if subject in allowed:
                    assert said == "", f"{role} needs {verb} {subject}"
                else:
                    assert "the server refuses a request" in said, f"{role}: {verb} {subject}"
                    assert f'violation for {verb} to "{subject.lower()}"' in said
                    assert "give this account the permissions that its role needs" in said

    asyncio.run(all_of_it())


def test_each_role_does_its_work(cluster: GuardedServers, tmp_path: Path) -> None:
    primary, replica, other = (tmp_path / name for name in ("primary", "replica", "other"))
    created = eventlog("mirror", "create", home=primary, env=cluster.env_of("operator"))
    assert (created.code, created.err) == (0, ""), created.err
    with daemon(primary, command="serve", env=cluster.env_of("server")) as d:
        until(lambda: "ready serving" in d.err, lambda: d.err)
        generator = cluster.settings_of("generator")
        with package.connect(
            generator.urls, "main", nkey_file=generator.nkey_file, ca_file=generator.ca_file
        ) as log:
            assert [r.seq for r in log.append_many(signals(3))] == [1, 2, 3]
        to = ("append", "--to", ",".join(generator.urls))
        done = eventlog(*to, stdin=jsonl([a_signal(4)]), env=cluster.env_of("generator"))
        assert (done.code, done.err, done.answers[0]["seq"]) == (0, "", 4)
        assert d.stop() == 0
        assert d.complaints == ""
    for role, words, home in (
        ("mirror", ("project", "mirror", "--once"), primary),
        ("follower", ("follow", "--once"), replica),
        ("primary", ("follow", "--once"), other),
        ("primary", ("project", "mirror", "--once"), primary),
    ):
        done = eventlog("-q", *words, home=home, env=cluster.env_of(role))
        assert (done.code, done.err) == (0, ""), (role, words)
    assert lines_in(replica) == lines_in(other) == lines_in(primary)


def test_a_command_with_the_key_of_another_role_says_so(
    cluster: GuardedServers, tmp_path: Path
) -> None:
    with EventLog(tmp_path) as log:
        log.append(a_signal())
    done = eventlog("mirror", "create", home=tmp_path, env=cluster.env_of("generator"))
    assert done.code == 3
    assert "permissions violation" in done.err
    url = cluster.settings_of("follower").urls[0]
    done = eventlog(
        "append", "--to", url, stdin=jsonl([a_signal()]), env=cluster.env_of("follower")
    )
    assert done.code == 3
    assert "the server refuses a request: permissions violation" in done.err
    with daemon(tmp_path, command="serve", env=cluster.env_of("mirror")) as d:
        until(lambda: "serve_waits" in d.err, lambda: d.err)
        assert 'permissions violation for subscription to "eventlog.main.append"' in d.err
        assert d.stop() == 0


def test_a_key_or_an_authority_that_is_not_known_is_refused_in_words(
    cluster: GuardedServers, tmp_path: Path
) -> None:
    other = Authority(tmp_path)
    known = cluster.settings_of("generator")
    (tmp_path / "foreign.nkey").write_bytes(cluster.new_seed())
    refusals: tuple[tuple[dict[str, Any], type[StreamUnavailable], str], ...] = (
        ({"nkey_file": str(tmp_path / "foreign.nkey")}, StreamRefused, "refuses the login"),
        ({"nkey_file": ""}, StreamRefused, "refuses the login"),
        ({"ca_file": str(other.ca)}, StreamUnavailable, "TLS failed: .*CERTIFICATE_VERIFY_FAILED"),
        ({"ca_file": ""}, StreamUnavailable, "TLS failed: .*CERTIFICATE_VERIFY_FAILED"),
        ({"nkey_file": str(tmp_path / "none")}, StreamUnavailable, "No such file"),
    )
    for changes, kind, words in refusals:
        with pytest.raises(kind, match=words) as refused:
            asyncio.run(refusal(replace(known, **changes), "publish", "x"))
        assert "EVENTLOG_NATS_" in str(refused.value)
