"""`project --listen`: /health and /metrics of a real daemon, which does not slow it down."""

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from projections.alpine.metered_client import OUTCOMES
from projections.delivery.outbox import DISABLED, STOPPED
from projections.delivery.state import DeliveryState
from tests.harness.alpine_server import AlpineServer
from tests.harness.command import eventlog, strace
from tests.harness.daemon import daemon, listening, lock_held
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import segments_in, tree_contents
from tests.harness.plugins import failing, first_on_path, plugins
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import seq_in

CLIENTS = 1_000
METRICS_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
EXIT_S = 10.0  # the promised limit after SIGTERM; tests allow twice as long for a busy machine


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


class HttpAnswer(NamedTuple):
    """An answer of the daemon."""

    status: int
    body: bytes
    content_type: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(url: str | urllib.request.Request) -> HttpAnswer:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=DEADLINE_S) as answer:
            return HttpAnswer(answer.status, answer.read(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        with error:
            return HttpAnswer(error.code, error.read(), error.headers["Content-Type"])


def health(url: str) -> Any:
    return get(f"{url}/health").json


def is_healthy(url: str) -> bool:
    return get(f"{url}/health").status == 200


def is_at(url: str, seq: int) -> bool:
    checkpoint: object = health(url)["projections"]["sqlite"]["checkpoint"]
    return checkpoint == seq


def metrics(url: str) -> dict[str, Metric]:
    text = get(f"{url}/metrics").body.decode()
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def value(url: str, metric: str, **labels: str) -> float | None:
    """The value of one sample; None if there is no such sample."""
    samples = metrics(url)[metric].samples
    found = [s.value for s in samples if labels.items() <= s.labels.items()]
    return found[0] if found else None


# -- /metrics


def test_the_metrics_equal_the_log_and_the_applied_entries(home: Path) -> None:
    append(home, *signals(4), closed(1), segment_bytes=1_000)
    with listening(home, "sqlite") as (d, url):
        until(lambda: value(url, "eventlog_projection_checkpoint_seq") == 5)
        append(home, *signals(2, start=5), segment_bytes=1_000)
        until(lambda: value(url, "eventlog_projection_checkpoint_seq") == 7)
        segments = segments_in(home)
        assert value(url, "eventlog_log_segments") == len(segments) > 1
        assert value(url, "eventlog_log_bytes") == sum(s.stat().st_size for s in segments)
        assert value(url, "eventlog_projection_lag_entries", projection="sqlite") == 0
        assert value(url, "eventlog_projection_lag_seconds", projection="sqlite") == 0
        assert value(url, "eventlog_projection_entries_applied") == 7
        batches = value(url, "eventlog_projection_batches_applied")
        samples = metrics(url)["eventlog_projection_commit_seconds"].samples
        counted = {s.name.rpartition("_")[2]: s.value for s in samples if "le" not in s.labels}
        assert counted["count"] == batches
        assert counted["count"] >= 2
        assert 0 < counted["sum"] < DEADLINE_S
        buckets = [s.value for s in samples if "le" in s.labels]
        assert buckets == sorted(buckets)
        assert buckets[-1] == counted["count"]
        assert d.stop() == 0


def test_names_units_and_labels_follow_prometheus_conventions_and_are_bounded(home: Path) -> None:
    append(home, a_signal(1))
    env = {"ALPINE_SYNC_ENABLED": "false"}
    states = {*map(str, DeliveryState), DISABLED, STOPPED}
    labels = {
        "projection": {"sqlite", "alpine"},
        "reason": {""},
        "state": states,
        "kind": {"refused", "failing"},
        "outcome": set(OUTCOMES),
    }
    with listening(home, "all", env=env) as (_, url):
        until(lambda: value(url, "eventlog_delivery_state", state=DISABLED) == 1)
        answer = get(f"{url}/metrics")
        assert answer.content_type.startswith("text/plain; version=")
        found = metrics(url)
        assert len(found) > 12
        for name, metric in found.items():
            assert re.fullmatch(r"eventlog_(log|projection|delivery)_[a-z_]+", name)
            assert metric.documentation
            assert not re.search(r"(milli|micro|_ms|_kb|percent)", name)
            for sample in metric.samples:
                for label, text in sample.labels.items():
                    assert label == "le" or text in labels[label]
        one_hot = {s.labels["state"]: s.value for s in found["eventlog_delivery_state"].samples}
        assert one_hot == {state: float(state == DISABLED) for state in states}


# -- /health


def test_a_daemon_that_keeps_up_is_healthy_on_either_internet_protocol(home: Path) -> None:
    append(home, *signals(3))
    for host in ("127.0.0.1", "[::1]"):
        with listening(home, "sqlite", "--unhealthy-after", 0.5, host=host) as (d, url):
            assert url.startswith(f"http://{host}:")
            until(partial(is_at, url, 3))
            until(partial(is_healthy, url))  # the start may take longer than --unhealthy-after
            found = get(f"{url}/health")
            assert (found.status, found.content_type) == (200, "application/json")
            assert found.json["status"] == "ok"
            assert found.json["reasons"] == []
            assert found.json["log"]["last_seq"] == 3
            assert found.json["projections"]["sqlite"]["lag_entries"] == 0
            assert get(f"{url}/").status == 404
            assert d.stop() == 0


def test_a_lag_against_the_real_end_is_unhealthy_and_ends_when_it_ends(home: Path) -> None:
    """The projector hangs in a batch, so its tail does not see the entries appended meanwhile."""
    append(home, *signals(3))
    with listening(home, "sqlite", "--unhealthy-after", 0.3) as (_, url):
        until(lambda: seq_in(home) == 3)
        with lock_held(home):
            append(home, *signals(2, start=4))
            append(home, *signals(5, start=6))
            until(lambda: get(f"{url}/health").status == 503)
            found = health(url)
            assert found["status"] == "unhealthy"
            assert found["projections"]["sqlite"]["lag_entries"] == 7
            assert "sqlite is behind the end of the log by 7 entries" in found["reasons"][0]
            assert value(url, "eventlog_projection_lag_entries") == 7
            assert (value(url, "eventlog_projection_lag_seconds") or 0) > 0
        until(lambda: seq_in(home) == 10)
        until(partial(is_healthy, url))


@pytest.mark.slow
def test_a_watch_that_is_dead_is_unhealthy_and_costs_no_entry(home: Path) -> None:
    """No inotify instance is available, as if other programs had used up the limit."""
    append(home, a_signal(1))
    under = strace("-e", "inject=inotify_init1:error=EMFILE")
    with listening(home, "sqlite", "--unhealthy-after", 1, under=under) as (_, url):
        until(lambda: "sqlite gets no file events" in str(health(url)["reasons"]))
        assert get(f"{url}/health").status == 503
        assert value(url, "eventlog_projection_watched") == 0
        append(home, a_signal(2))
        until(lambda: seq_in(home) == 2)


@pytest.mark.slow
def test_health_names_the_projection_that_has_failed_and_stays_200(
    home: Path, tmp_path: Path
) -> None:
    """It also lags behind, which is no second reason: a restart would not help."""
    env = plugins(tmp_path / "site", failing=failing(2))
    append(home, a_signal(1))
    words = ("failing", "sqlite", "--unhealthy-after", 1)
    with listening(home, *words, env=env) as (d, url):
        until(lambda: value(url, "eventlog_projection_entries_applied", projection="failing") == 1)
        assert value(url, "eventlog_projection_failed", projection="failing") == 0
        append(home, a_signal(2))
        until(lambda: "projection_failed" in d.err)
        until(lambda: health(url)["status"] == "degraded")
        give_up_s = time.monotonic() + 3
        while time.monotonic() < give_up_s:
            found = get(f"{url}/health")
            assert (found.status, found.json["status"]) == (200, "degraded")
            reason = "failing has failed (RuntimeError: it cannot go on)"
            assert found.json["reasons"] == [reason]
        error = {"projection": "failing", "reason": "RuntimeError"}
        assert value(url, "eventlog_projection_failed", **error) == 1
        assert value(url, "eventlog_projection_entries_applied", projection="failing") == 1
        assert value(url, "eventlog_projection_failed", projection="sqlite") == 0
        assert d.stop() == 0


# -- the daemon is not disturbed


def test_hanging_clients_delay_neither_the_table_nor_the_shutdown(home: Path) -> None:
    append(home, a_signal(1))
    with ExitStack() as stack, listening(home, "sqlite") as (d, url):
        port = int(url.rpartition(":")[2])
        for number in range(30):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /metrics HTTP/1.1\r\n"[: number % 20])
        append(home, *signals(5, start=2))
        until(lambda: seq_in(home) == 6)
        d.send(signal.SIGTERM)
        assert d.process.wait(2 * EXIT_S) == 0
        assert "Traceback" not in d.err


def head_of_request(number: int) -> bytes:
    """Nothing, a part of a head, or a whole one; none of the three reads the answer."""
    return (b"", b"GET /metrics HTTP/1.1\r\nHost: x", METRICS_REQUEST)[number % 3]


@pytest.mark.slow
def test_a_thousand_connections_turn_no_client_away_and_delay_no_entry(home: Path) -> None:
    """Half-open ones, slow ones, and ones that read nothing: all are closed, and none blocks."""
    append(home, a_signal(1))
    with ExitStack() as stack, listening(home, "sqlite") as (d, url):
        until(lambda: seq_in(home) == 1)
        port = int(url.rpartition(":")[2])
        clients: list[socket.socket] = []
        for number in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            clients.append(client)
            client.sendall(head_of_request(number))
            if number % 100 == 0:
                assert is_healthy(url)
                seq = 2 + number // 100
                append(home, a_signal(seq))
                until(partial(is_in_table, home, seq))
        assert is_healthy(url)
        assert files_open_in(d.process.pid) < 200
        until(partial(all_end_while_they_drip, clients), "the end of each connection")
        assert is_healthy(url)
        assert [line for line in d.err.splitlines() if " ERROR " in line] == []
        assert d.stop() == 0


def is_in_table(home: Path, seq: int) -> bool:
    return seq_in(home) == seq


def files_open_in(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def all_end_while_they_drip(clients: Sequence[socket.socket]) -> bool:
    """Whether the server has ended all. One byte more on each, so that none is silent."""
    for client in clients:
        with suppress(OSError):
            client.sendall(b"x")
    time.sleep(0.5)
    return all(map(has_ended, clients))


def has_ended(client: socket.socket) -> bool:
    """What it still sends is read and discarded."""
    client.setblocking(False)
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        client.setblocking(True)
    return True


def test_only_known_host_names_are_answered(home: Path) -> None:
    append(home, a_signal(1))
    words = ("sqlite", "--listen-name", "metrics.example.com")
    with listening(home, *words) as (d, url):
        port = int(url.rpartition(":")[2])
        for host, status in {
            "127.0.0.1": 200,
            "localhost": 200,
            "metrics.example.com": 200,
            "evil.example.com": 421,
        }.items():
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/health", headers={"Host": host}
            )
            assert get(request).status == status
        assert d.stop() == 0


def test_repeated_requests_change_nothing_on_disk(home: Path) -> None:
    append(home, *signals(3))
    with listening(home, "sqlite") as (_, url):
        until(lambda: seq_in(home) == 3)
        before = tree_contents(home)
        for _ in range(20):
            assert get(f"{url}/health").status == 200
            assert get(f"{url}/metrics").status == 200
        assert tree_contents(home) == before


# -- errors


def test_a_port_in_use_ends_the_daemon_before_anything_is_projected(home: Path) -> None:
    append(home, a_signal(1))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = eventlog("project", "sqlite", "--listen", address, home=home)
    assert done.code == 3
    assert f"cannot listen on {address}" in done.err
    assert "do: " in done.err
    assert seq_in(home) == -1


@pytest.mark.parametrize(
    "words",
    [
        ["--listen", "9464"],
        ["--listen", "::1:1"],
        ["--once", "--listen", "127.0.0.1:0"],
        ["--listen-name", "metrics.example.com"],
        ["--listen", "127.0.0.1:0", "--listen-name", "http://metrics.example.com"],
    ],
)
def test_an_invalid_address_is_wrong_usage(home: Path, words: list[str]) -> None:
    append(home, a_signal(1))
    done = eventlog("project", "sqlite", *words, home=home)
    assert done.code == 2
    assert words[-2] in done.err
    assert "do: " in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["project", "sqlite", "--once", "--unhealthy-after", "nan"],
        ["project", "sqlite", "--once", "--batch-timeout", "inf"],
        ["wait", "1", "--timeout", "nan"],
        ["doctor", "--seconds", "nan"],
    ],
)
def test_an_invalid_number_of_seconds_is_wrong_usage(home: Path, words: list[str]) -> None:
    append(home, a_signal(1))
    done = eventlog(*words, home=home)
    assert done.code == 2
    assert f"must be a number of seconds, 0 or more (got {words[-1]})" in done.err


@pytest.mark.parametrize("name", ["prometheus_client", "starlette", "uvicorn"])
def test_without_the_extra_it_names_the_package_to_install(
    home: Path, tmp_path: Path, name: str
) -> None:
    append(home, a_signal(1))
    hidden = f"raise ModuleNotFoundError('it is hidden', name='{name}')"
    (tmp_path / f"{name}.py").write_text(hidden)
    env = first_on_path(tmp_path)
    done = eventlog("project", "sqlite", "--listen", "127.0.0.1:0", home=home, env=env)
    assert done.code == 3
    assert f"not installed: {name}" in done.err
    assert "pip install 'signal-eventlog[metrics]'" in done.err
    assert "Traceback" not in done.err
    assert eventlog("project", "sqlite", "--once", home=home, env=env).code == 0


def test_a_publicly_reachable_address_gets_a_warning_at_the_start(home: Path) -> None:
    append(home, a_signal(1))
    with daemon(home, "sqlite", "--listen", "0.0.0.0:0") as d:
        until(lambda: "listening_unauthenticated address=0.0.0.0:0" in d.err)
        until(lambda: seq_in(home) == 1)
        assert d.stop() == 0


# -- delivery


@pytest.mark.slow
def test_delivery_is_counted_and_neither_key_nor_payload_is_shown(home: Path) -> None:
    """S3. Also if the answers of the backend repeat the request."""
    with AlpineServer() as server:
        env = {"ALPINE_API_URL": server.url, "ALPINE_API_KEY_FILE": str(server.key_file)}
        secret = {"symbol": "GEHEIM", "strategy": "geheim", "reasoning": "geheim" * 10}
        append(home, *(a_signal(n, **secret) for n in range(8)), closed(1))
        with listening(home, "all", env=env) as (d, url):
            until(lambda: value(url, "eventlog_delivery_delivered") == 8)
            assert value(url, "eventlog_delivery_state", state="delivering") == 1
            assert value(url, "eventlog_delivery_requests", outcome="accepted") == 8
            assert value(url, "eventlog_delivery_requests_in_flight") == 0
            server.control(fail={"count": 3, "status": 422, "detail": "geheim"})
            append(home, *(a_signal(n, **secret) for n in range(100, 103)))
            until(lambda: value(url, "eventlog_delivery_parked", kind="refused") == 3)
            assert value(url, "eventlog_delivery_requests", outcome="rejected") == 3
            server.kill()
            append(home, a_signal(200, **secret))
            until(lambda: value(url, "eventlog_delivery_state", state="waiting") == 1)
            assert (value(url, "eventlog_delivery_requests", outcome="down") or 0) > 0
            shown = get(f"{url}/metrics").body + get(f"{url}/health").body
            assert b"geheim" not in shown.lower()
            assert server.key not in shown
            assert d.stop() == 0


@pytest.mark.slow
def test_a_standby_daemon_is_healthy(home: Path) -> None:
    with AlpineServer() as server:
        env = {"ALPINE_API_URL": server.url, "ALPINE_API_KEY_FILE": str(server.key_file)}
        append(home, *signals(3))
        words = ("alpine", "--unhealthy-after", 0.3)
        with listening(home, *words, env=env) as (_, first):
            until(lambda: value(first, "eventlog_delivery_delivered") == 3)
            with listening(home, *words, env=env) as (d, second):
                until(lambda: value(second, "eventlog_projection_stalled") == 1)
                append(home, *signals(3, start=4))
                until(lambda: value(second, "eventlog_delivery_delivered") == 6)
                until(lambda: health(second)["projections"]["alpine"]["lag_entries"] == 0)
                assert get(f"{second}/health").status == 200
                assert d.stop() == 0
