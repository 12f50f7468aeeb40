"""`eventlog serve`, `append --to` and `eventlog.connect` on a real server of NATS."""

import json
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import eventlog as package
from eventlog import (
    EventLog,
    LogFenced,
    LogIsReplica,
    LogPoisoned,
    RemoteLog,
    StreamRefused,
    StreamUnavailable,
)
from eventlog.format.promotion import Promotion
from eventlog.plumbing import Fork, ReplicaLog, ReplicaState, fence_home
from eventlog.remote import TIMEOUT_S_DEFAULT
from tests.harness.command import Done, eventlog, jsonl, pipe, strace
from tests.harness.daemon import Daemon, NotifySocket, abstract_name, daemon
from tests.harness.deadline import until
from tests.harness.mirrors import mirror_once
from tests.harness.nats import NatsServers, nats_server
from tests.harness.signals import a_signal, closed, signals

NUMBERS = count(1)

pytestmark = pytest.mark.slow  # each test starts several processes


@pytest.fixture
def stream() -> str:
    return f"serve-{next(NUMBERS)}"


@contextmanager
def serving(home: Path, env: dict[str, str], under: Sequence[object] = ()) -> Iterator[Daemon]:
    """A running `eventlog serve` that answers, or has ended."""
    with daemon(home, command="serve", env=env, under=under) as d:
        until(lambda: d.process.poll() is not None or "ready serving" in d.err, lambda: d.err)
        yield d


def connected(server: NatsServers, stream: str, timeout_s: float = 30.0) -> RemoteLog:
    return package.connect(server.urls, stream, timeout_s=timeout_s)


def ids_in(home: Path) -> list[object]:
    with EventLog(home) as log:
        return [entry.payload["signal_id"] for entry in log.read()]


INPUTS: list[tuple[list[Any], list[str]]] = [
    ([a_signal(1), closed(1), a_signal(1)], []),
    ([a_signal(2), b"no json", a_signal(3)], []),
    ([a_signal(4), b"no json", a_signal(1, confidence=1.0), {}, a_signal(5)], ["--skip-invalid"]),
    ([a_signal(6, stop_price=900.0)], []),
    ([], []),
]


def answers_of(done: Done) -> list[dict[str, Any]]:
    """Without what differs between two logs."""
    return [
        {key: value for key, value in answer.items() if key not in ("chain", "recorded_at")}
        for answer in done.answers
    ]


def test_output_and_exit_codes_are_those_of_a_local_append(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with serving(tmp_path / "primary", env) as d:
        for items, words in INPUTS:
            given = jsonl(items)
            here = eventlog("append", *words, home=tmp_path / "local", stdin=given)
            to = ["append", "--to", server.urls[0]]
            there = eventlog(*to, *words, home=tmp_path / "none", stdin=given, env=env)
            assert answers_of(there) == answers_of(here)
            assert there.code == here.code
            of_the_log = re.compile("created a new log|item_warning")  # reported where it is
            errors = [line for line in here.err.splitlines() if not of_the_log.search(line)]
            assert there.err.splitlines() == errors
        assert d.stop() == 0
        assert d.steps == ["started", "ready", "stopping", "stopped"]
        assert all("item_warning" in line for line in d.complaints.splitlines())
    assert not (tmp_path / "none").exists()
    assert ids_in(tmp_path / "primary") == ids_in(tmp_path / "local")


def append_until(log: RemoteLog, name: str, stop: threading.Event) -> list[tuple[str, int, bool]]:
    found = []
    for number in count():
        receipt = log.append(a_signal(signal_id=f"{name}-{number}"))
        found.append((f"{name}-{number}", receipt.seq, receipt.duplicate))
        if stop.is_set():
            return found
    raise AssertionError


@contextmanager
def appending(
    server: NatsServers, stream: str, threads: int = 4
) -> Iterator[list[tuple[str, int, bool]]]:
    """Threads that append during the block; all that they got is in the list afterwards."""
    found: list[tuple[str, int, bool]] = []
    stop = threading.Event()
    with connected(server, stream) as log, ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(append_until, log, f"t{n}", stop) for n in range(threads)]
        try:
            yield found
        finally:
            stop.set()
            for each in running:
                found.extend(each.result())


def require_each_once(home: Path, found: list[tuple[str, int, bool]]) -> None:
    with EventLog(home) as log:
        stored = [(entry.payload["signal_id"], entry.seq) for entry in log.read()]
    assert len({name for name, _ in stored}) == len(stored), "none twice"
    assert sorted(stored) == sorted((name, seq) for name, seq, _ in found), "none lost"


def wait_for_more(home: Path) -> None:
    """Waits until some more appends are durable, while others are on their way."""
    with EventLog(home) as log:
        end = log.last_seq + 12
        until(lambda: log.last_seq >= end, "more entries")


def test_a_server_that_is_killed_and_started_again_loses_nothing_and_writes_nothing_twice(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with ExitStack() as last, appending(server, stream) as found:
        for _ in range(3):
            with serving(tmp_path, env) as d:
                wait_for_more(tmp_path)
                d.send(signal.SIGKILL)
                d.wait()
        last.enter_context(serving(tmp_path, env))
        wait_for_more(tmp_path)
    require_each_once(tmp_path, found)


def test_servers_of_nats_that_are_killed_cost_no_entry(stream: str, tmp_path: Path) -> None:
    with nats_server() as server, serving(tmp_path, server.env(stream)) as d:
        with appending(server, stream) as found:
            time.sleep(0.2)
            server.kill()
            until(lambda: "serve_waits" in d.err)
            server.start()
            until(lambda: "serve_goes_on" in d.err)
            time.sleep(0.2)
        assert d.stop() == 0
        assert d.complaints.count("serve_waits") == d.complaints.count("serve_goes_on") == 1
    require_each_once(tmp_path, found)


def test_a_server_that_is_stopped_answers_what_it_took_and_another_one_goes_on(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with serving(tmp_path, env) as first, serving(tmp_path, env) as second:
        with appending(server, stream, threads=48) as found:
            time.sleep(0.3)
            assert first.stop() == 0
            time.sleep(0.3)
        assert second.stop() == 0
        answered = [int(d.err.rpartition("answered=")[2]) for d in (first, second)]
    assert min(answered) > 0
    assert sum(answered) == len(found), "one of them answers each request"
    assert not any(duplicate for _, _, duplicate in found), "no reply was lost"
    require_each_once(tmp_path, found)


def test_a_replica_does_not_serve(server: NatsServers, stream: str, tmp_path: Path) -> None:
    replica = ReplicaLog.open(tmp_path)
    replica.begin(ReplicaState(stream=stream), replica.catch_up())
    replica.drop()
    with serving(tmp_path, server.env(stream)) as d:
        assert d.wait() == 3
        assert f"this home is a replica of the stream {stream}" in d.complaints


def test_a_home_that_becomes_a_replica_refuses_in_words_and_serves_no_more(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    with serving(tmp_path, server.env(stream)) as d, connected(server, stream, 1.0) as log:
        log.append(a_signal(1))
        replica = ReplicaLog.open(tmp_path)
        replica.begin(ReplicaState(stream=stream), replica.catch_up())
        replica.drop()
        with pytest.raises(LogIsReplica, match="this home is a replica"):
            log.append(a_signal(2))
        assert d.wait() == 3
        assert "this home is a replica" in d.complaints
        with pytest.raises(StreamUnavailable, match=r"nothing was written .*`eventlog serve`"):
            log.append(a_signal(2))
    assert ids_in(tmp_path) == ["s-1"]


def test_a_home_that_is_fenced_refuses_in_words_and_serves_no_more(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with serving(tmp_path, env) as d, connected(server, stream, 1.0) as log:
        log.append(a_signal(1))
        fence_home(tmp_path, stream, Fork(1, 1, 2, Promotion(2, "b")))
        with pytest.raises(LogFenced, match="this home is fenced: b"):
            log.append(a_signal(2))
        assert d.wait() == 3
        assert "this home is fenced" in d.complaints
    with serving(tmp_path, env) as again:
        assert again.wait() == 3
        assert "nothing was started: run `eventlog serve` at the primary" in again.complaints
    assert ids_in(tmp_path) == ["s-1"]


def test_a_failed_sync_is_answered_in_words_and_ends_the_server(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with connected(server, stream, 20.0) as log:
        with serving(tmp_path, env, under=strace("-e", "inject=fdatasync:error=EIO")) as d:
            with pytest.raises(LogPoisoned, match="retry"):
                log.append(a_signal(1))
            assert d.wait() == 3
        with serving(tmp_path, env):
            assert log.append(a_signal(1)).signal_id == "s-1"
    assert ids_in(tmp_path) == ["s-1"]


def test_a_promoted_home_names_its_epoch(server: NatsServers, stream: str, tmp_path: Path) -> None:
    primary, replica = tmp_path / "primary", tmp_path / "replica"
    env = server.env(stream)
    server.create_stream(stream)
    with EventLog(primary) as log:
        log.append(a_signal(1))
    mirror_once(primary, server.settings(stream))
    assert eventlog("follow", "--once", home=replica, env=env).code == 0
    assert eventlog("promote", "--host", "b", home=replica, env=env).code == 0
    with connected(server, stream, 3.0) as remote:
        with serving(primary, env):
            assert remote.append(a_signal(2)).seq == 2
            assert remote.epoch == 1
        with serving(replica, env):
            assert remote.append(a_signal(3)).seq == 3  # behind the promotion
            assert remote.epoch == 2


def test_without_a_server_an_append_says_that_nothing_was_written(
    server: NatsServers, stream: str
) -> None:
    nothing = pytest.raises(StreamUnavailable, match=r"nothing was written within 0\.3 s")
    with connected(server, stream, 0.3) as log, nothing:
        log.append(a_signal())
    unconnected = pytest.raises(StreamUnavailable, match="there is no connection to NATS")
    with package.connect("nats://127.0.0.1:1", stream, timeout_s=0.3) as log, unconnected:
        log.append(a_signal())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_server_and_counts_what_was_acknowledged(
    server: NatsServers, stream: str, tmp_path: Path, number: signal.Signals
) -> None:
    env = server.env(stream)
    started_s = time.monotonic()
    with pipe(tmp_path, "--to", server.urls[0], env=env) as p:
        with serving(tmp_path, env):
            p.send_items(a_signal(1))
            assert p.read_answers()[0]["seq"] == 1
        p.send_items(a_signal(2), a_signal(3))
        until(lambda: not p.has_unread_input())
        p.send(number)
        (answer,) = p.read_all_answers()
        assert (p.wait(), answer["line"]) == (130, 2)
    # Its outcome is unknown where the servers still knew the one that has just ended.
    words = ("nothing was written before the stop", "no answer before the stop")
    assert answer["error"].startswith(words)
    assert f"stopped with 1 line acknowledged; {answer['error'][:20]}" in p.err
    assert time.monotonic() - started_s < TIMEOUT_S_DEFAULT


def test_a_signal_ends_the_wait_for_an_answer_and_says_that_the_outcome_is_unknown(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with (
        pipe(tmp_path, "--to", server.urls[0], env=env) as p,
        serving(tmp_path, env) as d,
    ):
        p.send_items(a_signal(1))
        p.read_answers()
        d.send(signal.SIGSTOP)
        p.send_items(a_signal(2))
        until(lambda: not p.has_unread_input())
        p.send(signal.SIGINT)
        (answer,) = p.read_answers()
        assert "no answer before the stop, so the outcome is unknown" in answer["error"]
        assert p.wait() == 130
        d.send(signal.SIGCONT)
    assert "stopped with 1 line acknowledged; no answer before the stop" in p.err
    assert "retry with the same signal_id" in p.err


def test_a_signal_between_two_lines_counts_what_was_acknowledged(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    env = server.env(stream)
    with pipe(tmp_path, "--to", server.urls[0], env=env) as p, serving(tmp_path, env):
        p.send_items(a_signal(1), a_signal(2))
        p.read_answers()
        p.send(signal.SIGINT)
        assert p.wait() == 130
    assert "stopped with 2 lines acknowledged\n" in p.err


def test_wrong_usage_of_to_is_named(server: NatsServers, tmp_path: Path) -> None:
    env = server.env("main")
    for words, code, text in (
        (["--to", "nats://u:p@h"], 2, "must not hold a user or a password"),
        (["--to", "nats://h", "--check"], 2, "are about a log on this machine"),
        (["--to", "nats://h", "--no-create"], 2, "are about a log on this machine"),
        (["--to", "nats://h", "--wait", "replicated"], 2, "are about a log on this machine"),
    ):
        done = eventlog("append", *words, home=tmp_path, env=env)
        assert (done.code, text in done.err) == (code, True), done.err
    unset = {**env, "EVENTLOG_STREAM": ""}
    done = eventlog("append", "--to", "nats://h", home=tmp_path, env=unset)
    assert done.code == 3
    assert "EVENTLOG_STREAM is not set" in done.err


def test_systemd_is_notified(server: NatsServers, stream: str, tmp_path: Path) -> None:
    name = abstract_name()
    env = server.env(stream) | {"NOTIFY_SOCKET": name}
    with NotifySocket(name) as systemd, daemon(tmp_path, command="serve", env=env) as d:
        until(lambda: systemd.has_received("READY=1"))
        assert systemd.has_received(f"STATUS=serving {stream}")
        assert d.stop() == 0
        assert systemd.has_received("STOPPING=1")


def test_a_request_of_any_client_of_nats_is_answered(
    server: NatsServers, stream: str, tmp_path: Path
) -> None:
    """Replies are JSON: another language needs no more than a client of NATS."""

    async def ask(client: Any, data: bytes, headers: dict[str, str] | None = None) -> Any:
        subject = f"eventlog.{stream}.append"
        return json.loads((await client.request(subject, data, 5, headers=headers)).data)

    async def all_of(client: Any) -> list[Any]:
        return [
            await ask(client, jsonl([a_signal(1)])),
            await ask(client, b"no json"),
            await ask(client, jsonl(signals(3)), {"Eventlog-Policy": "each"}),
            await ask(client, b"{}", {"Eventlog-Policy": "any"}),
            await ask(client, b"\n" * 1001),
        ]

    with serving(tmp_path, server.env(stream)):
        one, bad, each, policy, many = server.with_client(all_of)
    assert (one["epoch"], one["results"][0]["seq"]) == (1, 1)
    assert (bad["error"]["type"], bad["error"]["field"]) == ("InvalidSignal", "line")
    assert [receipt["seq"] for receipt in each["results"]] == [1, 2, 3]
    for found in (policy, many):
        assert found["error"]["type"] == "Unsupported"
        assert found["error"]["do"].startswith("send at most 1,000 items")


def test_a_denied_login_is_raised_at_once(tmp_path: Path) -> None:
    users = "authorization { users: [ { user: u, password: p } ] }"
    refused = pytest.raises(StreamRefused, match="refuses the login")
    with nats_server(extra=users) as guarded, connected(guarded, "main") as log, refused:
        log.append(a_signal())
