"""Promises of the reference backend alone: its limits, list, misbehaviour and command.

Invariant: no server and no PostgreSQL outlives the test that started it.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # ships no type information
import pytest

from tests.harness.alpine_server import AlpineServer
from tests.harness.backend import (
    HEALTH,
    HOSTILE,
    KEY,
    LIST,
    REFUSED,
    SIGNAL,
    STORED,
    Backend,
    Json,
    client_of,
    is_duplicate,
    own_backend,
    signal_body,
)
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.requirements import CHECKOUT
from tools.alpine.asgi import BODY_BYTES_MAX
from tools.alpine.postgres import EmbeddedPostgres, read_line

pytestmark = pytest.mark.slow  # a PostgreSQL of its own takes its time

CONTROL = "/_misbehave"


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(scope="module")
def backend(postgres: EmbeddedPostgres) -> Iterator[Backend]:
    with own_backend(postgres) as found:
        yield found


@pytest.fixture(scope="module")
def server(backend: Backend) -> AlpineServer:
    """The same: for what needs SQL or the process."""
    assert backend.server is not None
    return backend.server


@pytest.fixture(scope="module")
def unruly(postgres: EmbeddedPostgres) -> Iterator[AlpineServer]:
    with AlpineServer(postgres=postgres) as running:
        yield running


def test_a_key_is_compared_whole_and_sent_once(backend: Backend) -> None:
    """401 comes before the body is read, and before an answer shows which paths exist."""
    with httpx.Client(base_url=backend.client.base_url, trust_env=False) as stranger:
        for keys in ([KEY[:-1]], [KEY + b"x"], [KEY, KEY], [b"x", KEY]):
            headers = [(b"X-API-Key", key) for key in keys]
            for method, path in (("POST", SIGNAL), ("GET", LIST), ("GET", "/nowhere")):
                answer = stranger.request(method, path, content=b"{", headers=headers)
                assert answer.status_code == 401


def test_the_row_holds_the_values_of_the_signal(backend: Backend, server: AlpineServer) -> None:
    body = signal_body({"strategy": HOSTILE[0], "symbol": "'; DROP TABLE x;--"[:20]})
    row_id = backend.send(body).json()["signal_id"]
    reasoned = signal_body(reasoning="\n".join(HOSTILE))
    reasoned_id = backend.send(reasoned).json()["signal_id"]
    rows = {row["id"]: row for row in server.rows()}
    expected = {
        "symbol": body["symbol"],
        "action": "BUY",
        "price": 150.5,
        "confidence": 0.855,
        "target_price": 158.25,
        "stop_loss": 147.0,
        "verification_hash": body["sha256"],
        "is_active": True,
    }
    assert {name: rows[row_id][name] for name in expected} == expected
    assert HOSTILE[0] in str(rows[row_id]["rationale"])
    assert rows[reasoned_id]["rationale"] == "\n".join(HOSTILE)


def test_numbers_and_text_outside_json_are_never_stored(backend: Backend) -> None:
    """NaN, infinity and lone surrogates: Python's parser lets them pass, nothing after it may."""
    for hashed in (
        {"entry_price": float("nan")},
        {"stop_price": float("inf")},
        {"symbol": "\ud800"},
    ):
        body = signal_body(dict(hashed))
        headers = {"Content-Type": "application/json"}
        answer = backend.client.post(SIGNAL, content=json.dumps(body), headers=headers)
        assert answer.status_code == 422, hashed
    assert backend.client.get(LIST).status_code == 200


def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(backend: Backend) -> None:
    body = json.dumps(signal_body()).encode()
    headers = {"Content-Type": "application/json"}
    full = body + b" " * (BODY_BYTES_MAX - len(body))

    def send(content: Any) -> int:
        return backend.client.post(SIGNAL, content=content, headers=headers).status_code

    assert send(full + b" ") == 413
    assert send(b" " * 4 * BODY_BYTES_MAX) == 413
    assert send(iter([full, b" "])) == 413  # chunked: no length is announced
    assert send(full) == STORED


def test_the_list_pages_through_all_rows(backend: Backend, server: AlpineServer) -> None:
    for _ in range(3):
        backend.send(signal_body())
    rows = server.rows()
    found: list[Json] = []
    after: int | None = 0
    for _ in range(len(rows)):
        page = backend.client.get(LIST, params={"limit": 7, "after": after}).json()
        assert len(page["signals"]) <= 7
        found += page["signals"]
        after = page["next"]
        if after is None:
            break
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert {row["verification_hash"] for row in found} == server.hashes()
    assert set(found[0]) == set(rows[0])
    for limit in ("0", "1001", "-1", "x"):
        assert backend.client.get(LIST, params={"limit": limit}).status_code == 422
    past = backend.client.get(LIST, params={"after": 2**63 - 1}).json()
    assert past == {"signals": [], "next": None}


def test_misbehaviour_is_unavailable_without_the_flag(backend: Backend) -> None:
    assert backend.client.get(CONTROL).status_code == 404
    assert backend.client.post(CONTROL, json={"lose": 1}).status_code == 404


def test_it_can_be_made_to_fail_to_poison_and_to_reject(unruly: AlpineServer) -> None:
    unruly.restart()  # counts from 0
    before = unruly.hashes()
    with client_of(unruly.url, unruly.key) as client:
        bodies = [signal_body() for _ in range(3)]
        headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
        unruly.control(fail={"count": 2, "status": 429, "headers": headers})
        answers = [client.post(SIGNAL, json=bodies[0]) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [429, 429, 201]
        assert unruly.counters()["by_signal"] == {bodies[0]["signal_id"]: 3}
        assert answers[0].headers["Retry-After"] == headers["Retry-After"]
        unruly.control(poison=[bodies[1]["signal_id"]])
        unruly.restart()  # poison is for ever
        assert [client.post(SIGNAL, json=body).status_code for body in bodies[1:]] == [500, 201]
        unruly.control(reject=True, health_status=503)
        assert client.post(SIGNAL, json=signal_body()).json() == REFUSED
        assert client.get(HEALTH).status_code == 503
        unruly.control(reject=False, health_status=200)
        assert unruly.hashes() - before == {bodies[0]["sha256"], bodies[2]["sha256"]}
        by_signal = unruly.counters()["by_signal"]
        assert [by_signal.get(body["signal_id"], 0) for body in bodies] == [0, 1, 1]
        for wrong in ({"los": 1}, {"fail": {"count": 1, "status": 200}}, {"lose": -1}):
            assert client.post(CONTROL, json=wrong).status_code == 422
    with client_of(unruly.url, b"wrong") as stranger:
        assert stranger.get(CONTROL).status_code == 401
        assert stranger.post(SIGNAL, json=bodies[0]).status_code == 401
    assert unruly.counters()["answers"]["401"] == 1


def test_a_signal_whose_answer_is_lost_is_already_stored(unruly: AlpineServer) -> None:
    body = signal_body()
    unruly.control(lose=2)
    with client_of(unruly.url, unruly.key) as client:
        for _ in range(2):  # stored; then known, and lost again
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(SIGNAL, json=body)
            assert body["sha256"] in unruly.hashes()
        assert is_duplicate(client.post(SIGNAL, json=body))
    assert "Traceback" not in unruly.output()


def test_it_counts_how_many_are_in_flight_at_once(unruly: AlpineServer) -> None:
    unruly.restart()  # counts from 0
    unruly.control(delay_s=0.3)
    with client_of(unruly.url, unruly.key) as client, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda body: client.post(SIGNAL, json=body), [signal_body()] * 6))
        assert unruly.counters()["in_flight_max"] == 6
        # Who gives up has nothing in flight any more, however slow the answer would have been.
        unruly.control(delay_s=300)
        with pytest.raises(httpx.ReadTimeout):
            client.post(SIGNAL, json=signal_body(), timeout=0.3)
        until(lambda: unruly.counters()["in_flight"] == 0)
    unruly.control(delay_s=0)


@pytest.mark.slow
def test_stored_rows_survive_a_restart_of_the_server(unruly: AlpineServer) -> None:
    body = signal_body()
    with client_of(unruly.url, unruly.key) as client:
        assert client.post(SIGNAL, json=body).status_code == STORED
        unruly.kill()
        with pytest.raises(httpx.ConnectError):
            client.post(SIGNAL, json=body)
        assert body["sha256"] in unruly.hashes()
        unruly.start()
        assert is_duplicate(client.post(SIGNAL, json=body))
        assert unruly.stop() == 0
        unruly.start()


@pytest.mark.slow
def test_the_server_stops_while_a_request_hangs(unruly: AlpineServer) -> None:
    unruly.control(delay_s=300)
    with client_of(unruly.url, unruly.key) as client:
        outcome: list[str] = []

        def hang() -> None:
            try:
                client.post(SIGNAL, json=signal_body())
            except httpx.TransportError:
                outcome.append("cut off")

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: unruly.counters()["in_flight"] == 1)
        assert unruly.stop() == 0
        thread.join(DEADLINE_S)
    unruly.start()
    unruly.control(delay_s=0)


@pytest.mark.slow
def test_health_reports_that_postgres_is_down_and_recovers_with_it() -> None:
    with AlpineServer() as alone, client_of(alone.url, alone.key) as client:
        body = signal_body()
        assert client.post(SIGNAL, json=body).status_code == STORED
        alone.stop_postgres()
        assert client.get(HEALTH).status_code == 503
        assert client.post(SIGNAL, json=signal_body()).status_code == 500


# The command itself.


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m tools.alpine` as a user runs it, killed at the end in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.alpine", "--port", "0", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = read_line(process.stdout, DEADLINE_S).decode()
    assert line.startswith("listening on http://127.0.0.1:"), line
    return line.removeprefix("listening on ").strip()


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that PostgreSQL's own account may pass through; pytest's are private."""
    directory = Path(tempfile.mkdtemp(prefix="alpine-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        ([], "", "EXTERNAL_SIGNAL_API_KEY is not set"),
        (["--development"], "", "--key-file"),
        ([], " k", "white space"),
        (["--host", "0.0.0.0"], "k", "--allow-remote"),
        (["--host", "::"], "k", "--allow-remote"),
        (["--host", "0.0.0.0", "--allow-remote", "--misbehave"], "k", "this machine alone"),
        (["--host", "example.com"], "k", "no IP address"),
    ],
    ids=str,
)
def test_it_refuses_to_start_unsafely(arguments: list[str], key: str, says: str) -> None:
    with command(*arguments, EXTERNAL_SIGNAL_API_KEY=key) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 3
    assert says in errors.decode()
    assert b"Traceback" not in errors + output


def test_it_never_prints_a_database_url_that_does_not_work() -> None:
    url = "postgresql://user:pass-word@127.0.0.1:1/database"
    with command(EXTERNAL_SIGNAL_API_KEY="the-key", DATABASE_URL=url) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 3
    assert b"check DATABASE_URL" in errors
    assert b"pass-word" not in errors
    assert b"the-key" not in errors


@pytest.mark.slow
def test_a_development_key_is_made_once_for_its_owner_alone(
    tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    file = tmp_path / "key"
    options = ("--development", "--key-file", str(file))
    keys = set()
    for word in ("was made", "is the one in"):
        with command(*options, DATABASE_URL=postgres.url) as process:
            url = url_of(process)
            keys.add(file.read_bytes().strip())
            with client_of(url, max(keys)) as client:
                assert client.get(LIST).status_code == 200
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0
        assert word in errors.decode()
        assert max(keys) not in errors
    assert len(keys) == 1
    file.chmod(0o644)
    with command(*options, DATABASE_URL=postgres.url) as process:
        assert process.wait(DEADLINE_S) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_embedded_postgres_leaves_no_process_and_no_file(
    place: Path, number: signal.Signals
) -> None:
    with command(EXTERNAL_SIGNAL_API_KEY="k", TMPDIR=str(place)) as process:
        url_of(process)
        [pid_file] = place.glob("alpine-postgres-*/data/postmaster.pid")
        postmaster = int(pid_file.read_text().splitlines()[0])
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == (-9 if number == signal.SIGKILL else 0)
    until(lambda: is_gone(postmaster) and not list(place.iterdir()))


@pytest.mark.slow
def test_a_data_directory_keeps_its_rows_after_sigkill(place: Path) -> None:
    data = place / "data"
    body = signal_body()
    for expected in ("success", "duplicate"):
        with (
            command("--data-dir", str(data), EXTERNAL_SIGNAL_API_KEY="k") as process,
            client_of(url_of(process), b"k") as client,
        ):
            assert client.post(SIGNAL, json=body).json()["status"] == expected
    postmaster = data / "data" / "postmaster.pid"
    until(lambda: not postmaster.exists())


def test_postgres_data_is_never_placed_in_a_home(place: Path) -> None:
    (place / "logs").mkdir()
    (place / "logs" / ".lock").touch()
    with command("--data-dir", str(place / "pg"), EXTERNAL_SIGNAL_API_KEY="k") as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 3
    assert f"{place} is the home of a log" in errors.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root is there anything to open")
def test_as_root_it_does_not_open_private_directories_to_others(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    (private / "something").touch()
    with command("--data-dir", str(private / "pg"), EXTERNAL_SIGNAL_API_KEY="k") as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 3
    assert f"would open {private}" in errors.decode()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
