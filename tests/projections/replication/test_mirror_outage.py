"""A daemon without NATS: the table goes on, and status, /health and /metrics say what waits."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import listening
from tests.harness.deadline import until
from tests.harness.mirrors import record_of
from tests.harness.read_side import append
from tests.harness.signals import a_signal
from tests.harness.tables import seq_in
from tools.ports import free_ports


def read(url: str) -> str:
    try:
        with urllib.request.urlopen(url) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:  # 503: `unhealthy`
        with error:
            return str(error.read().decode())


@pytest.mark.slow
def test_without_nats_the_table_goes_on_and_the_mirror_waits(home: Path) -> None:
    append(home, a_signal(1))
    (port,) = free_ports(1)
    env = {"EVENTLOG_STREAM": "main", "EVENTLOG_NATS_URL": f"nats://u:geheim@127.0.0.1:{port}"}
    words = ("all", "--unhealthy-after", 0)
    with listening(home, *words, env={**env, "ALPINE_SYNC_ENABLED": "false"}) as (d, url):
        until(lambda: "ready" in d.steps)
        append(home, a_signal(2))
        until(lambda: seq_in(home) == 2)
        until(lambda: (home / "data/mirror.json").exists() and record_of(home).last_error)
        until(lambda: json.loads(read(f"{url}/health"))["status"] == "degraded")
        health = json.loads(read(f"{url}/health"))
        assert any("NATS accepts nothing" in reason for reason in health["reasons"])
        metrics = read(f"{url}/metrics")
        assert 'eventlog_mirror_state{state="waiting"} 1.0' in metrics
        assert 'eventlog_projection_lag_entries{projection="mirror"} 2.0' in metrics
        assert "eventlog_mirror_lost_acked 0.0" in metrics
        (found,) = eventlog("status", "--json", home=home).answers
        mirror = found["projections"]["mirror"]
        assert (mirror["state"], mirror["lag_entries"]) == ("waiting", 2)
        assert mirror["daemon"]["state"] == "running"
        assert f"EVENTLOG_main at 127.0.0.1:{port}" in mirror["last_error"]
        text = eventlog("status", home=home).out.decode()
        assert "waiting" in text.partition("mirror:")[2]
        assert d.stop() == 0
        assert "geheim" not in d.err + text + json.dumps(found) + json.dumps(health)
