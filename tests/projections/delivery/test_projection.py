"""Delivery end to end: `eventlog project alpine`, the reference backend, PostgreSQL. No mocks.

DELIVERY_SIGNALS=20000 makes the long test longer. DELIVERY_SEED chooses its failures.

Invariant: at the end of each scenario PostgreSQL has the hashes of the signals in the log, except
those of parked signals.
"""

import asyncio
import json
import os
import random
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no type information
import pytest

from eventlog import EventLog
from projections.delivery.outbox import (
    FAILING,
    REFUSED,
    is_delivering,
    outbox_path,
    read_outbox,
    read_parked,
)
from tests.harness.alpine_server import AlpineServer
from tests.harness.command import Done, eventlog
from tests.harness.daemon import Daemon, daemon
from tests.harness.deadline import until
from tests.harness.log_checks import entries_in
from tests.harness.plugins import plugins
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import seq_in
from tools.alpine.postgres import EmbeddedPostgres

pytestmark = pytest.mark.slow

SIGNALS = int(os.environ.get("DELIVERY_SIGNALS", "2000"))
FAILURES = SIGNALS // 80  # of server and network; after them both are healthy
SEED = int(os.environ.get("DELIVERY_SEED", "5"))
STOP_S_MAX = 10.0  # what is promised; below, twice as long for a machine that is busy

# The same delivery in seconds where the real one takes minutes.
QUICK = """
    from projections.alpine.retry import RetryPolicy
    from projections.cli.settings import alpine_config
    from projections.delivery.projection import AlpineProjection
    from projections.alpine.retry import DeliveryTiming

    def Alpine():
        timing = DeliveryTiming(
            retry_policy=RetryPolicy(first_s=0.02, max_s=0.2), probe_s_min=0.05, probe_s_max=0.2,
            slow_probe_s={slow_probe_s}, key_poll_s=0.05, failing_s_min={failing_s},
            failing_s_max=1.0, tick_s=0.05,
        )
        return AlpineProjection(alpine_config(), timing=timing)
"""


class Scene:
    """A home, a backend, and commands whose environment points to it."""

    def __init__(self, folder: Path, server: AlpineServer) -> None:
        self.home = folder / "home"
        self.server = server
        self._folder = folder
        self.env = {"ALPINE_API_URL": server.url, "ALPINE_API_KEY_FILE": str(server.key_file)}

    def use_fast_timing(self, *, slow_probe_s: float = 0.5, failing_s: float = 0.3) -> None:
        """Shortens the intervals of all later commands."""
        source = QUICK.format(slow_probe_s=slow_probe_s, failing_s=failing_s)
        self.env |= plugins(self._folder / "quick", alpine=source)

    def daemon(self, *words: object, env: Mapping[str, str] | None = None) -> Any:
        return daemon(self.home, *(words or ("alpine",)), env={**self.env, **(env or {})})

    def run(self, *words: object, env: Mapping[str, str] | None = None) -> Done:
        return eventlog(*words, home=self.home, env={**self.env, **(env or {})})

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.code == 0, done.err
        found: dict[str, Any] = json.loads(done.out)["projections"]["alpine"]
        return found

    def is_done(self) -> bool:
        """Whether every entry is delivered or parked."""
        found = read_outbox(outbox_path(self.home))
        with EventLog(self.home) as log:
            return found is not None and found[0].seq + len(found[1]) == log.last_seq

    def state(self) -> str | None:
        found = read_outbox(outbox_path(self.home))
        return None if found is None else str(found[2]["state"])

    def delivered(self) -> int:
        found = read_outbox(outbox_path(self.home))
        delivered = 0 if found is None else found[2]["delivered"]
        assert isinstance(delivered, int)
        return delivered

    def parked(self) -> dict[str, str]:
        """The kind of each parked signal, by signal_id."""
        try:
            return {row.signal_id: row.kind for row in read_parked(outbox_path(self.home))}
        except FileNotFoundError:
            return {}

    def hashes(self, *, without: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
        """The sha256 of the signals in the log."""
        entries = (entry for entry in entries_in(self.home) if entry["event"] == "signal")
        return {entry["sha256"] for entry in entries if entry["signal_id"] not in without}

    def ends(self, d: Daemon) -> int:
        """The exit code of the daemon, after a SIGTERM once it holds the lock."""
        until(lambda: is_delivering(self.home))
        d.send(signal.SIGTERM)
        return d.process.wait(2 * STOP_S_MAX)

    def assert_delivered(self, *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        assert self.server.hashes() == self.hashes(without=but)

    def forget(self, *hashes: str) -> None:
        """Alpine is restored from a backup that does not have these signals."""

        async def delete() -> None:
            connection = await asyncpg.connect(self.server.database_url)
            statement = "DELETE FROM signals WHERE verification_hash = ANY($1)"
            await connection.execute(statement, list(hashes))
            await connection.close()

        asyncio.run(delete())


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture
def scene(tmp_path: Path, postgres: EmbeddedPostgres) -> Iterator[Scene]:
    with AlpineServer(postgres=postgres) as server:
        yield Scene(tmp_path, server)
        if server.running:
            server.counters()
        assert server.in_flight_max <= 10, "H10: measured at the server, whatever the story"
        assert "Traceback" not in server.output()


# The main promise


class RandomFailures:
    """Injects failures of server and network, in a thread of its own."""

    def __init__(self, server: AlpineServer, rng: random.Random) -> None:
        self._server = server
        self._random = rng
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: Counter[str] = Counter()
        self.problem: BaseException | None = None

    def __enter__(self) -> "RandomFailures":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                kind = self._random.choice(["kill", "lose", "429", "500", "503", "slow"])
                self.seen[kind] += 1
                self._happens(kind)
                self._over.wait(self._random.random() * 0.6)
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            self.problem = error

    def _happens(self, kind: str) -> None:
        rng, server = self._random, self._server
        match kind:
            case "kill":
                server.kill()
                self._over.wait(rng.random() * 0.5)
                server.start()
            case "lose":
                server.control(lose=rng.randint(1, 20))
            case "slow":
                server.control(delay_s=0.02)
                self._over.wait(rng.random() * 0.2)
                server.control(delay_s=0)
            case status:
                headers = {"Retry-After": "0.05"} if rng.random() < 0.3 else {}
                failure = {"count": rng.randint(1, 60), "status": int(status), "headers": headers}
                server.control(fail=failure)


def test_every_signal_is_stored_once_despite_repeated_crashes_of_all_processes(
    scene: Scene,
) -> None:
    """H5, H6, H7, H9: server and daemon killed at random, answers lost, bursts of 429, 500, 503."""
    rng = random.Random(SEED)
    scene.use_fast_timing()
    poison = {f"s-{number}" for number in rng.sample(range(1, SIGNALS + 1), 7)}
    scene.server.control(poison=sorted(poison))
    appended = SIGNALS // 4
    append(scene.home, *signals(appended))
    kills = 0
    with RandomFailures(scene.server, rng) as weather:
        while appended < SIGNALS or not (scene.is_done() or weather.seen.total() >= FAILURES):
            with scene.daemon() as d:
                until_s = time.monotonic() + 1 + 4 * rng.random()
                while time.monotonic() < until_s and d.process.poll() is None:
                    if appended < SIGNALS:
                        count = min(rng.randint(1, 40), SIGNALS - appended)
                        append(scene.home, *signals(count, start=appended + 1))
                        append(scene.home, closed(appended + 1))
                        appended += count
                    time.sleep(0.05)
                assert d.process.poll() is None, d.err
                kills += 1
                d.send(signal.SIGKILL)
                d.wait()
    assert weather.problem is None
    scene.server.control(fail={"count": 0}, lose=0, delay_s=0)
    with scene.daemon() as d:
        until(lambda: scene.is_done() and set(scene.parked()) == poison, "the end")
        assert scene.ends(d) == 0
    scene.assert_delivered(but=poison)
    assert set(scene.parked().values()) == {FAILING}
    found = scene.status()
    assert (found["lag_entries"], found["parked"], found["state"]) == (0, 7, "stopped")
    assert found["delivered"] == SIGNALS - 7
    assert kills > 1
    assert weather.seen.total() > 5


# H6: poison


def test_a_dozen_poison_messages_at_the_head_stop_neither_the_rest_nor_new_signals(
    scene: Scene,
) -> None:
    scene.use_fast_timing()
    poison = {f"s-{number}" for number in range(1, 13)}
    scene.server.control(poison=sorted(poison))
    append(scene.home, *signals(60))
    with scene.daemon() as d:
        until(lambda: set(scene.parked()) == poison and scene.is_done())
        append(scene.home, a_signal(61))
        done = scene.run("wait", 61, "--for", "delivered", "--timeout", 60)
        assert done.code == 0, done.err
        done = scene.run("wait", 3, "--for", "delivered")
        assert done.code == 1
        assert "entry 3 is parked as failing: Alpine answered 500" in done.err
        scene.server.control(poison=[])  # Alpine is repaired: the signals pass without an operator
        until(lambda: scene.parked() == {})
        assert scene.ends(d) == 0
    scene.assert_delivered()


def test_one_lone_poison_message_does_not_keep_the_circuit_open(scene: Scene) -> None:
    scene.use_fast_timing(failing_s=1e6)
    scene.server.control(poison=["s-1"])
    append(scene.home, a_signal(1))
    with scene.daemon() as d:
        until(lambda: scene.parked() == {"s-1": FAILING})
        until(lambda: scene.state() == "delivering")
        append(scene.home, a_signal(2))
        until(scene.is_done)
        assert scene.ends(d) == 0
    scene.assert_delivered(but={"s-1"})


def test_a_backend_that_rejects_everything_does_not_park_the_whole_log(scene: Scene) -> None:
    """H6b, and how an operator ends it."""
    scene.use_fast_timing(slow_probe_s=1e6)
    append(scene.home, *signals(100))
    scene.server.control(reject=True)
    with scene.daemon() as d:
        until(lambda: scene.state() == "rejecting")
        found = scene.status()
        assert (found["state"], found["parked"], found["lag_entries"]) == ("rejecting", 20, 80)
        assert "20 rejections in a row: 400" in found["last_error"]
        scene.server.control(reject=False)
        done = scene.run("parked", "retry", "--all")
        assert (done.code, done.out) == (0, b"20 signals: 20 delivered now\n"), done.err
        until(scene.is_done)
        assert scene.ends(d) == 0
    scene.assert_delivered()
    assert scene.status()["parked"] == 0


# H3: the key


def test_a_wrong_key_costs_few_requests_loses_nothing_and_heals_without_restart(
    scene: Scene, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("wrong")
    append(scene.home, *signals(50))
    with scene.daemon(env={"ALPINE_API_KEY_FILE": str(key)}) as d:  # with the intervals of earnest
        until(lambda: scene.state() == "refused")
        time.sleep(1.5)  # time enough to do wrong
        assert scene.server.counters()["requests"] == 1
        found = scene.status()
        assert (found["state"], found["lag_entries"], found["parked"]) == ("refused", 50, 0)
        assert "401" in found["last_error"]
        key.write_bytes(scene.server.key)
        until(scene.is_done)
        assert scene.ends(d) == 0
    scene.assert_delivered()
    assert scene.server.counters()["answers"]["401"] == 1


def test_a_url_of_another_service_is_refused_with_the_reason(scene: Scene) -> None:
    append(scene.home, *signals(5))
    with scene.daemon(env={"ALPINE_API_URL": scene.server.url + "/elsewhere"}) as d:
        until(lambda: scene.state() == "refused")
        assert scene.ends(d) == 0
    # The backend asks for the key before it answers about any path; ours is right, so it is 404.
    assert "404" in scene.status()["last_error"]
    assert scene.server.hashes() == set()


# H10: one sender


def test_two_daemons_a_replay_and_a_retry_at_once_are_ten_in_flight(scene: Scene) -> None:
    scene.use_fast_timing()
    scene.server.control(delay_s=0.01, poison=["s-5"])
    append(scene.home, *signals(200))
    with scene.daemon() as one, scene.daemon() as two:
        until(scene.is_done)
        scene.forget(*sorted(scene.hashes())[:100])
        append(scene.home, *signals(200, start=201))
        commands = [
            threading.Thread(target=scene.run, args=words)
            for words in (("reconcile", "--replay"), ("parked", "retry", "--all"))
            for _ in range(2)
        ]
        for command in commands:
            command.start()
        for command in commands:
            command.join()
        until(scene.is_done)
        assert "another process delivers" in one.err + two.err
        one.send(signal.SIGKILL)
        two.send(signal.SIGTERM)
        one.wait(), two.wait()
    scene.assert_delivered(but={"s-5"})
    assert scene.server.counters()["in_flight_max"] == 10


def test_a_standby_daemon_takes_over(scene: Scene) -> None:
    append(scene.home, *signals(20))
    with scene.daemon() as one, scene.daemon() as two:
        until(scene.is_done)
        first = one if "stands by" in two.err else two
        until(lambda: "stands by" in one.err + two.err)
        first = one if "stands by" in two.err else two
        first.send(signal.SIGKILL)
        first.wait()
        append(scene.home, *signals(20, start=21))
        until(scene.is_done)
        assert scene.ends(two if first is one else one) == 0
    scene.assert_delivered()


# H7, H9, H12


def test_lost_answers_cost_only_repeated_requests(scene: Scene) -> None:
    scene.use_fast_timing()
    scene.server.control(lose=30)
    append(scene.home, *signals(100))
    done = scene.run("project", "alpine", "--once")
    assert done.code == 0, done.err
    scene.assert_delivered()
    assert scene.server.counters()["lost"] == 30
    assert scene.status()["delivered"] == 100


def test_a_kill_before_the_outbox_write_changes_nothing_at_alpine(scene: Scene) -> None:
    append(scene.home, *signals(300))
    with scene.daemon() as d:
        until(lambda: scene.server.counters()["answers"].get("201", 0) > 20)
        d.send(signal.SIGKILL)
        d.wait()
    before = scene.server.rows()
    assert 20 < len(before) <= 300
    assert scene.run("project", "alpine", "--once").code == 0
    assert scene.server.rows()[: len(before)] == before
    scene.assert_delivered()
    assert scene.status()["delivered"] == 300


def test_signals_lost_by_alpine_are_found_and_sent_again(scene: Scene) -> None:
    """H12: Alpine restored from an old backup, and the delivery state lost."""
    append(scene.home, *signals(60))
    assert scene.run("project", "alpine", "--once").code == 0
    scene.forget(*sorted(scene.hashes())[:25])
    assert scene.run("reconcile").code == 1
    done = scene.run("reconcile", "--replay")
    assert done.code == 0, done.err
    assert b"missing:   25" in done.out
    assert b"25 signals: 25 delivered now" in done.out
    scene.assert_delivered()
    outbox_path(scene.home).unlink()
    scene.forget(*sorted(scene.hashes())[:25])
    assert scene.run("project", "alpine", "--once").code == 0
    scene.assert_delivered()
    assert scene.run("reconcile", "--exclusive").code == 0


# P1, P2


@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_in_the_middle_of_a_request_ends_it_in_time(scene: Scene, count: int) -> None:
    append(scene.home, *signals(50))
    scene.server.control(delay_s=300)
    with scene.daemon() as d:
        until(lambda: scene.server.counters()["in_flight"] > 0)
        for _ in range(count):
            d.send(signal.SIGTERM)
        assert d.process.wait(2 * STOP_S_MAX) == 0
        assert "Traceback" not in d.err
    scene.server.control(delay_s=0)
    assert scene.run("project", "alpine", "--once").code == 0
    scene.assert_delivered()


def test_sigterm_while_standing_by_or_waiting_ends_it(scene: Scene) -> None:
    append(scene.home, *signals(5))
    scene.server.kill()
    with scene.daemon() as one:
        until(lambda: scene.state() == "waiting")
        with scene.daemon() as two:
            until(lambda: "stands by" in two.err)
            assert scene.ends(two) == 0
        assert scene.ends(one) == 0
    scene.server.start()


BROKEN = """
    from projections.cli.settings import alpine_config
    from projections.delivery.projection import AlpineProjection

    class Client:
        async def send(self, body):
            raise RuntimeError("a bug")
        async def is_healthy(self):
            return True
        async def close(self):
            pass

    def Alpine():
        return AlpineProjection(alpine_config(), make_client=lambda _: Client())
"""


@pytest.mark.parametrize("words", [("alpine",), ("all",)])
def test_a_crash_of_delivery_is_reported_and_ends_nothing_else(
    scene: Scene, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """P2, while the log is idle."""
    append(scene.home, a_signal(1))
    env = plugins(tmp_path / "broken", alpine=BROKEN)
    with scene.daemon(*words, env=env) as d:
        until(lambda: "projection_failed projection=alpine error=RuntimeError: a bug" in d.err)
        until(lambda: scene.status()["daemon"]["state"] == "failed")
        if words == ("all",):
            append(scene.home, a_signal(2))
            until(lambda: seq_in(scene.home) == 2)
        assert scene.ends(d) == 0
    assert scene.status()["state"] == "stopped"
    assert scene.run("project", "alpine", "--once").code == 0  # nothing is left locked


FAILING_ONE = """
    from projections import Checkpoint

    class Other:
        name = "other"
        async def open(self, home):
            return Checkpoint(projection="other")
        async def apply(self, entries, *, before, after):
            raise RuntimeError("this one is broken")
        async def status(self):
            return {}
        async def close(self):
            pass
"""


def test_with_all_a_failing_projection_is_logged_and_the_others_go_on(
    scene: Scene, tmp_path: Path
) -> None:
    append(scene.home, *signals(20))
    env = plugins(tmp_path / "others", other=FAILING_ONE)
    with scene.daemon("all", env=env) as d:
        until(scene.is_done)
        text = "projection_failed projection=other error=RuntimeError: this one is broken"
        until(lambda: text in d.err)
        assert scene.ends(d) == 0
    scene.assert_delivered()


# Disabled, and what is missing


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"ALPINE_SYNC_ENABLED": "false"}, "ALPINE_SYNC_ENABLED is false"),
        ({"ALPINE_API_URL": ""}, "ALPINE_API_URL is not set"),
        ({"ALPINE_API_KEY_FILE": ""}, "neither ALPINE_API_KEY_FILE nor ALPINE_API_KEY is set"),
    ],
)
def test_disabled_delivery_is_reported_and_the_table_continues(
    scene: Scene, env: dict[str, str], reason: str
) -> None:
    append(scene.home, *signals(5))
    with scene.daemon("all", env=env) as d:
        assert scene.run("wait", 5, "--timeout", 60).code == 0
        until(lambda: scene.state() == "disabled")
        assert f"delivery_disabled reason={reason}" in d.err
        found = scene.status()
        assert (found["state"], found["last_error"]) == ("disabled", reason)
        assert found["lag_entries"] == 5
        # Another process, which can, is not kept from it.
        assert scene.run("project", "alpine", "--once").code == 0
        d.send(signal.SIGTERM)
        assert d.wait() == 0
    scene.assert_delivered()
    assert scene.run("project", "all", "--once", env=env).code == 0
    alone = scene.run("project", "alpine", "--once", env=env)
    assert alone.code == 3
    assert reason in alone.err


def test_the_old_name_of_the_key_still_works(scene: Scene) -> None:
    append(scene.home, *signals(3))
    env = {"ALPINE_API_KEY_FILE": "", "ARGO_API_KEY": scene.server.key.decode()}
    assert scene.run("project", "alpine", "--once", env=env).code == 0
    scene.assert_delivered()


# After an outage


def test_after_an_outage_it_resumes_by_itself(scene: Scene) -> None:
    scene.use_fast_timing()
    scene.server.kill()
    append(scene.home, *signals(500))
    with scene.daemon() as d:
        until(lambda: scene.state() == "waiting")
        found = scene.status()
        assert (found["state"], found["lag_entries"]) == ("waiting", 500)
        assert "no answer: ConnectError" in found["last_error"]
        assert found["lag_seconds"] > 0
        scene.server.start()
        until(scene.is_done)
        assert scene.ends(d) == 0
    scene.assert_delivered()
    assert scene.status()["parked"] == 0


def test_a_backend_without_its_database_answers_500_and_nothing_is_parked(tmp_path: Path) -> None:
    with AlpineServer() as server:
        scene = Scene(tmp_path, server)
        scene.use_fast_timing()
        append(scene.home, *signals(30))
        server.stop_postgres()
        with scene.daemon() as d:
            until(lambda: scene.state() == "waiting")
            until(lambda: server.counters()["requests"] > 120)
            assert scene.parked() == {}
            assert scene.ends(d) == 0
        assert scene.status()["lag_entries"] == 30


# S3: the key


def has_logged(d: Daemon, text: str) -> bool:
    return text in d.err


def test_the_key_is_in_no_output_of_any_kind(scene: Scene) -> None:
    secret = "geheim" + "-" * 3 + "Schlüssel"
    append(scene.home, *signals(3))
    texts: list[bytes] = []

    def run(options: tuple[str, ...], *words: str, **env: str) -> None:
        both = {**scene.env, "ALPINE_API_KEY_FILE": "", "ALPINE_API_KEY": secret, **env}
        done = eventlog(*options, *words, home=scene.home, env=both)
        texts.extend((done.out, done.err.encode()))

    project, reconcile = ("project", "alpine", "--once"), ("reconcile", "--replay", "--json")
    for options in (("-vv",), ("-vv", "--log-format", "json")):
        run(options, *project)
        run(options, *reconcile)
    run((), "status", "--json")
    run((), "parked", "retry", "1")
    run((), "wait", "1", "--for", "delivered", "--timeout", "0")
    run(("-vv",), *project, ALPINE_API_URL=scene.server.url + "/nowhere")
    run(("-vv",), *reconcile, ALPINE_API_URL=scene.server.url + "/nowhere")
    run(("-vv",), *project, ALPINE_API_URL="http://x y")
    run(("-vv",), *project, ALPINE_API_KEY=f"{secret}\nzwei")
    run(("-vv",), *project, ALPINE_API_KEY="", ARGO_API_KEY=secret, PYTHONASYNCIODEBUG="1")
    with scene.daemon(env={"ALPINE_API_KEY_FILE": "", "ALPINE_API_KEY": secret}) as d:
        until(lambda: scene.state() == "refused")
        texts.append(Path(f"/proc/{d.process.pid}/cmdline").read_bytes())
        assert scene.ends(d) == 0
        texts.append(d.err.encode())
    texts += [path.read_bytes() for path in (scene.home / "data").iterdir() if path.is_file()]
    texts.append(scene.server.output().encode())
    whole = b"\n".join(texts)
    assert b"401" in whole
    assert b"control characters" in whole
    assert b"geheim" not in whole
    assert stat.S_IMODE(outbox_path(scene.home).stat().st_mode) == 0o600


def test_the_daemon_warns_about_an_unencrypted_key_at_each_start(scene: Scene) -> None:
    """S4. RFC 2606 reserves this name, so it leads nowhere."""
    append(scene.home, a_signal(1))
    for _ in range(2):
        with scene.daemon(env={"ALPINE_API_URL": "http://alpine.invalid"}) as d:
            until(partial(has_logged, d, "key_in_the_clear host=alpine.invalid"))
            assert scene.ends(d) == 0


# Commands


def test_parked_lists_retries_and_discards(scene: Scene) -> None:
    scene.use_fast_timing(failing_s=1e6)
    assert scene.run("parked", "list").code == 3  # no log
    append(scene.home, *signals(60))
    assert (scene.run("parked", "list").code, scene.run("parked", "list").out) == (0, b"")
    scene.server.control(poison=["s-2", "s-3"])
    assert scene.run("project", "alpine", "--once").code == 0
    listed = scene.run("parked", "list")
    lines = listed.out.decode().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("seq  kind     status  attempts  last")
    assert lines[1].split()[:3] == ["2", "failing", "500"]
    rows = json.loads(scene.run("parked", "list", "--json").out)
    assert [row["seq"] for row in rows] == [2, 3]
    keys = {"seq", "signal_id", "kind", "status", "body", "attempts"}
    assert rows[0].keys() == keys | {"first_at", "last_at", "next_at"}
    assert rows[0]["first_at"].endswith("+00:00")
    for words in (("retry",), ("discard",), ("retry", "2", "--all"), ("retry", "x")):
        assert scene.run("parked", *words).code == 2
    still = scene.run("parked", "retry", "2", "--json")
    assert (still.code, still.answers[0]["parked"]) == (1, 1)
    scene.server.control(poison=["s-3"])
    both = scene.run("parked", "retry", "2", "5")
    assert (both.code, both.out) == (1, b"2 signals: 1 delivered now, 1 not parked\n")
    assert both.err == "entry 5 is not parked: see `eventlog parked list`\n"
    discarded = scene.run("parked", "discard", "3")
    assert (discarded.code, discarded.out) == (0, b"1 signal: 1 discarded\n")
    again = scene.run("parked", "discard", "3", "--json")
    assert (again.code, again.answers[0]["gone"], again.answers[0]["asked"]) == (1, 1, 1)
    assert scene.run("parked", "list").out == b""
    missing = scene.run("reconcile", "--json")
    assert missing.code == 1
    assert [row["why"] for row in missing.answers[0]["missing_signals"]] == ["discarded"]
    assert scene.run("parked", "retry", "--all").out == b"0 signals: nothing to do\n"
    scene.assert_delivered(but={"s-3"})


def test_a_retry_while_alpine_is_down_is_done_later(scene: Scene) -> None:
    scene.use_fast_timing(failing_s=1e6)
    append(scene.home, *signals(3))
    scene.server.control(poison=["s-2"])
    assert scene.run("project", "alpine", "--once").code == 0
    scene.server.control(poison=[])
    scene.server.kill()
    done = scene.run("parked", "retry", "2")
    assert done.code == 1
    assert b"1 still parked" in done.out
    scene.server.start()
    assert scene.run("parked", "retry", "2").code == 0
    scene.assert_delivered()


def test_refused_and_failing_signals_are_distinguished(scene: Scene) -> None:
    scene.use_fast_timing()
    append(scene.home, *signals(5))
    scene.server.control(reject=True)
    assert scene.run("project", "alpine", "--once").code == 0  # five are too few to be many
    assert set(scene.parked().values()) == {REFUSED}
    assert scene.status()["failing"] == 0
